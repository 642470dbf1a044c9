"""Softmax attention (Vaswani et al., 2017, arXiv 1706.03762): softmax(q k^T / sqrt(d)) v, O(n^2 d) time.

Two ways to the same result: cuDNN flash attention on a GPU in bfloat16, and elsewhere a block of
scores at a time with rematerialisation, faster than one dense product on a CPU.
"""

import math

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
  block: int | None = None,
  lra_padding: bool = False,
) -> Float[Array, "b n h e"]:
  """Softmax attention under the contract of `models.attention`.

  dropout: rate on the weights, active when a key is given. Never flash attention.
  block: scores at a time; changes time and memory, never the result (but for what drops out).
    None: what a cache holds on a CPU, half a GB elsewhere.
  lra_padding: padded queries (n == m) attend to every key alike, padding included, which is what the
    published harness's additive -1e10 comes to in float32. Never flash attention.
  """
  dropout_key = dropout_key if dropout else None
  if dropout_key is None and not lra_padding and _flash_serves(q, v, mask, causal):
    return _flash(q, k, v, mask, causal)
  block = block or (2**20 if jax.default_backend() == "cpu" else 2**27)
  return _blocks(q, k, v, mask, causal, block, lra_padding, dropout, dropout_key)


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
  seen, see = _scores(q, k, kernel.visible(q.shape[2], k.shape[2], mask, causal), alike)
  return jnp.where(see, jax.nn.softmax(seen, axis=-1), 0)


def _scores(q: Array, k: Array, see: Array, alike: Array | None) -> tuple[Array, Array]:
  """q k^T in the dtype of sums and which of it is seen; what is not is the least number there is.

  alike: rows that weigh all keys alike. -1e10 + score is -1e10 in float32, but its derivative is 1,
    so a gradient flows to queries and keys all the same.
  """
  dtype = kernel.sum_dtype(q)
  scores = jnp.einsum("bhnd,bhmd->bhnm", q, k, preferred_element_type=dtype)
  seen = jnp.where(see, scores, jnp.finfo(dtype).min)
  if alike is None:
    return seen, see
  return jnp.where(alike, scores - lax.stop_gradient(scores), seen), see | alike


def _blocks(
  q: Array,
  k: Array,
  v: Array,
  mask: Array | None,
  causal: bool,
  block: int,
  lra_padding: bool,
  dropout: float,
  dropout_key: Array | None,
) -> Array:
  """Some examples, heads and queries at a time, as many as make `block` scores."""
  (b, n, h, _), m, e = q.shape, k.shape[1], v.shape[3]
  order, rest, at_once = ("nhb" if jax.default_backend() == "cpu" else "bnh"), block // m, {}
  for axis in order:  # what to keep whole: work of the size of a cache, or all devices at work
    size = {"b": b, "n": n, "h": h}[axis]
    fits = max(1, min(size, rest))
    at_once[axis] = fits if axis == "n" else max(i for i in range(1, fits + 1) if size % i == 0)
    rest //= at_once[axis]
  examples, heads, blocks = at_once["b"], at_once["h"], -(-n // at_once["n"])
  rows = -(-n // blocks)  # even blocks: padding of less than `blocks` queries
  pad = [(0, 0), (0, blocks * rows - n)]

  def split(x: Array) -> Array:  # [b n h d] -> [groups examples heads n d]
    x = x.reshape(examples, b // examples, x.shape[1], h // heads, heads, x.shape[3])
    return x.transpose(1, 3, 0, 4, 2, 5).reshape(-1, examples, heads, x.shape[2], x.shape[5])

  def split_flags(x: Array) -> Array:  # [b n] -> [groups examples 1 n]
    x = x.reshape(examples, b // examples, x.shape[1]).swapaxes(0, 1)
    return jnp.repeat(x, h // heads, 0)[:, :, None]

  least = 2.0 ** -math.ceil(math.log2(m))  # exact, and no sum of finite values overflows
  q = split(jnp.pad(_scaled(q), (*pad, (0, 0), (0, 0))))
  k, v = split(_bounded(k)), split(kernel.with_ones(v) * least)
  real = None if mask is None else split_flags(mask)
  alike = split_flags(jnp.pad(~mask, pad)) if lra_padding and mask is not None else None

  keys = None if dropout_key is None else jax.random.split(dropout_key, (len(q), blocks))

  def group(args: tuple[Array, Array, Array, Array | None, Array | None, Array | None]) -> Array:
    q, k, v, real, alike, keys = args

    @jax.checkpoint
    def one(args: tuple[Array, Array, Array | None, Array | None]) -> Array:
      q, first, alike, key = args
      see = jnp.ones((1, 1, 1, m), bool) if real is None else real[:, :, None]
      if causal:
        see = see & (jnp.arange(m) <= first + jnp.arange(rows)[:, None])
      seen, see = _scores(q, k, see, None if alike is None else alike[..., None])
      exp = jnp.exp(seen - lax.stop_gradient(seen.max(-1, keepdims=True))).astype(v.dtype)
      sums = jnp.einsum("bhnm,bhme->bhne", exp, v, preferred_element_type=seen.dtype)
      out, normaliser = sums[..., :-1], sums[..., -1:]
      if key is not None:
        kept = drop(exp, dropout, key)
        out = jnp.einsum("bhnm,bhme->bhne", kept, v[..., :-1], preferred_element_type=seen.dtype)
      return jnp.where(see.any(-1, keepdims=True), out / normaliser, 0)

    def parts(x: Array) -> Array:  # [examples heads n ...] -> [blocks examples heads rows ...]
      return jnp.moveaxis(x.reshape(*x.shape[:2], blocks, rows, *x.shape[3:]), 2, 0)

    firsts = jnp.arange(blocks) * rows
    return lax.map(one, (parts(q), firsts, None if alike is None else parts(alike), keys))

  out = lax.map(group, (q, k, v, real, alike, keys))  # [groups blocks examples heads rows e]
  out = out.reshape(b // examples, h // heads, blocks, examples, heads, rows, e)
  out = out.transpose(3, 0, 2, 5, 1, 4, 6).reshape(b, blocks * rows, h, e)
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
    order = jnp.argsort(~mask, axis=1, stable=True)
    rows = jnp.arange(len(k))[:, None], order
    k, v = (x.at[rows].get(unique_indices=True, mode="promise_in_bounds") for x in (k, v))
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
