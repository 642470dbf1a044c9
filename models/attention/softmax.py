"""Softmax attention (Vaswani et al., 2017, arXiv 1706.03762): softmax(q k^T / sqrt(d)) v, O(n^2 d) time.

Three ways to the same result: cuDNN flash attention on a GPU in bfloat16, blocks of queries with
rematerialisation elsewhere (memory O(block m), and faster than one dense product on a CPU), and the
dense matrix where its weights are dropped out.
"""

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Key

from models.attention import kernel
from models.dropout import dropout as drop

LARGEST = 1e15  # |q| and |k| are clipped here, so that a score of finite inputs is finite


def attend(
  q: Float[Array, "b n h d"],
  k: Float[Array, "b m h d"],
  v: Float[Array, "b m h e"],
  *,
  mask: Bool[Array, "b m"] | None = None,
  causal: bool = False,
  dropout: float = 0.0,
  dropout_key: Key[Array, ""] | None = None,
  block: int = 256,
  lra_padding: bool = False,
) -> Float[Array, "b n h e"]:
  """Softmax attention under the contract of `models.attention`.

  dropout: rate on the weights, active when a key is given; takes the dense path.
  block: queries at a time; changes time and memory, never the result.
  lra_padding: padded queries (n == m) attend to every key alike, padding included, which is what the
    published harness's additive -1e10 comes to in float32. Never flash attention.
  """
  if dropout and dropout_key is not None:
    dense = weights(q, k, mask=mask, causal=causal, lra_padding=lra_padding)
    dense = drop(dense, dropout, dropout_key).astype(v.dtype)
    return jnp.einsum("bhnm,bmhe->bnhe", dense, v).astype(q.dtype)
  if not lra_padding and _flash_serves(q, v, mask, causal):
    return _flash(q, k, v, mask, causal)
  return _blocks(q, k, v, mask, causal, block, lra_padding)


def weights(
  q: Float[Array, "b n h d"],
  k: Float[Array, "b m h d"],
  *,
  mask: Bool[Array, "b m"] | None = None,
  causal: bool = False,
  lra_padding: bool = False,
) -> Float[Array, "b h n m"]:
  """The dense matrix that `attend` multiplies v by."""
  q, k = (jnp.swapaxes(x, 1, 2) for x in (_scaled(q), _bounded(k)))
  alike = None if mask is None or not lra_padding else ~mask[:, None, :, None]
  return _rows(q, k, kernel.visible(q.shape[2], k.shape[2], mask, causal), alike)


def _rows(
  q: Float[Array, "b h n d"],
  k: Float[Array, "b h m d"],
  see: Bool[Array, "#b 1 #n m"],
  alike: Bool[Array, "b 1 n 1"] | None,
) -> Float[Array, "b h n m"]:
  """Softmax over visible keys in the dtype of sums; a row that sees none is zero.

  alike: rows that weigh all keys alike. -1e10 + score is -1e10 in float32, but its derivative is 1,
    so a gradient flows to queries and keys all the same.
  """
  dtype = kernel.sum_dtype(q)
  scores = jnp.einsum("bhnd,bhmd->bhnm", q, k, preferred_element_type=dtype)
  seen = jnp.where(see, scores, jnp.finfo(dtype).min)
  if alike is not None:
    seen, see = jnp.where(alike, scores - lax.stop_gradient(scores), seen), see | alike
  return jnp.where(see, jax.nn.softmax(seen, axis=-1), 0)


def _blocks(
  q: Array, k: Array, v: Array, mask: Array | None, causal: bool, block: int, lra_padding: bool
) -> Array:
  """Blocks of queries, one after another; scores live for one block at a time."""
  n, m = q.shape[1], k.shape[1]
  block = min(block, n)
  blocks = -(-n // block)
  q = jnp.pad(_scaled(q), ((0, 0), (0, blocks * block - n), (0, 0), (0, 0)))
  q = q.reshape(q.shape[0], blocks, block, *q.shape[2:]).transpose(1, 0, 3, 2, 4)
  k, v = (jnp.swapaxes(x, 1, 2) for x in (_bounded(k), v))
  see = jnp.ones((1, 1, 1, m), bool) if mask is None else mask[:, None, None, :]
  alike = None
  if lra_padding and mask is not None:
    alike = jnp.pad(~mask, ((0, 0), (0, blocks * block - n)))
    alike = alike.reshape(-1, blocks, 1, block, 1).swapaxes(0, 1)

  @jax.checkpoint
  def one(args: tuple[Array, Array, Array | None]) -> Array:
    q, first, alike = args
    now = see
    if causal:
      now = see & (jnp.arange(m) <= first + jnp.arange(block)[:, None])
    rows = _rows(q, k, now, alike).astype(v.dtype)
    return jnp.einsum("bhnm,bhme->bnhe", rows, v, preferred_element_type=kernel.sum_dtype(v))

  out = lax.map(one, (q, jnp.arange(blocks) * block, alike))  # [blocks b block h e]
  out = jnp.moveaxis(out, 0, 1).reshape(out.shape[1], blocks * block, *out.shape[3:])
  return out[:, :n].astype(q.dtype)


def _flash_serves(q: Array, v: Array, mask: Array | None, causal: bool) -> bool:
  """Whether cuDNN can take it: half precision on a GPU, one head width, no causal mask with holes."""
  if jax.default_backend() != "gpu" or q.dtype != jnp.bfloat16:
    return False
  return q.shape[3] == v.shape[3] <= 128 and not (causal and mask is not None)


def _flash(q: Array, k: Array, v: Array, mask: Array | None, causal: bool, implementation="cudnn"):
  """`jax.nn.dot_product_attention` on head widths of a multiple of 8 and keys sorted real first."""
  d, lengths = q.shape[3], None
  if mask is not None:  # cuDNN knows padding by length alone; the order of keys is free
    order = jnp.argsort(~mask, axis=1, stable=True)[:, :, None, None]
    k, v = (jnp.take_along_axis(x, order, axis=1) for x in (k, v))
    lengths = mask.sum(1, dtype=jnp.int32)
  q, k, v = (
    jnp.pad(x, ((0, 0), (0, 0), (0, 0), (0, -d % 8))) for x in (_bounded(q), _bounded(k), v)
  )
  out = jax.nn.dot_product_attention(
    *(q, k, v),
    scale=d**-0.5,
    is_causal=causal,
    key_value_seq_lengths=None if mask is None else jnp.maximum(lengths, 1),
    implementation=implementation,
  )[..., :d]
  return out if mask is None else jnp.where((lengths > 0)[:, None, None, None], out, 0)


def _bounded(x: Array) -> Array:
  return jnp.clip(x, -LARGEST, LARGEST)


def _scaled(q: Array) -> Array:
  return _bounded(q) * q.shape[-1] ** -0.5
