"""Softmax attention (Vaswani et al., 2017, arXiv 1706.03762): softmax(q k^T / sqrt(d)) v, O(n^2 d) time.

`weights` is the dense matrix as the paper has it. `attend` never makes that matrix: it is a block of
scores at a time with rematerialisation, faster than one dense product on a CPU; not cuDNN's flash
attention, with which models of two layers fail on an H100 (jax 0.11.2, "raw_hash_map::at").
tests/models/test_attention.py::test_attend_is_weights_times_values holds them together.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int, Key

from models.attention import kernel
from models.attention.blocks import Block, over_blocks
from models.dropout import dropout as drop

LARGEST = 1e15  # |q| and |k| are clipped here, so that a score of finite inputs is finite


def weights(
  q: Float[Array, "b n h d"],
  k: Float[Array, "b m h d"],
  *,
  mask: Bool[Array, "b m"] | None = None,
  causal: bool = False,
  lra_padding: bool = False,
) -> Float[Array, "b h n m"]:
  """The dense matrix that `attend` multiplies v by."""
  q, k = jnp.swapaxes(_scaled(q), 1, 2), jnp.transpose(_bounded(k), (0, 2, 3, 1))
  alike = None if mask is None or not lra_padding else ~mask[:, None, :, None]
  seen, see = _scores(q, k, kernel.visible(q.shape[2], k.shape[3], mask, causal), alike)
  return jnp.where(see, jax.nn.softmax(seen, axis=-1), 0)


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

  dropout: rate on the weights, active when a key is given.
  block: scores at a time; changes time and memory, never the result (but for what drops out).
    None: what a cache holds on a CPU, half a GB elsewhere.
  lra_padding: padded queries (n == m) attend to every key alike, padding included, which is what the
    published harness's additive -1e10 comes to in float32.
  """
  dropout_key = dropout_key if dropout else None
  least = 2.0 ** -math.ceil(math.log2(k.shape[1]))  # exact, and no sum of finite values overflows
  out = over_blocks(
    lambda block: _block(block, causal, dropout),
    _scaled(q),
    _bounded(k),
    kernel.with_ones(v) * least,
    real=mask,
    marked=~mask if lra_padding and mask is not None else None,
    key=dropout_key,
    scores=block or (2**20 if jax.default_backend() == "cpu" else 2**27),
  )
  return out.astype(q.dtype)


class Cache(NamedTuple):
  """The past of `step`: the keys and values of all tokens so far."""

  k: Float[Array, "b m h d"]
  v: Float[Array, "b m h e"]
  count: Int[Array, ""]


def init_state(
  b: int, h: int, d: int, e: int, dtype: DTypeLike = jnp.float32, *, length: int
) -> Cache:
  """State of `step` before the first of at most `length` tokens."""
  k, v = (jnp.zeros((b, length, h, width), dtype) for width in (d, e))
  return Cache(k, v, jnp.zeros((), jnp.int32))


def step(
  state: Cache, q: Float[Array, "b h d"], k: Float[Array, "b h d"], v: Float[Array, "b h e"]
) -> tuple[Cache, Float[Array, "b h e"]]:
  """One token of causal attention: row `state.count` of `attend`, from a cache of the rows before."""
  at = state.count
  keys, values = state.k.at[:, at].set(k), state.v.at[:, at].set(v)
  scores = jnp.einsum("bhd,bmhd->bhm", _scaled(q).astype(keys.dtype), _bounded(keys))
  scores = jnp.where(jnp.arange(keys.shape[1]) <= at, scores, -jnp.inf)
  out = jnp.einsum("bhm,bmhe->bhe", jax.nn.softmax(scores, axis=-1), values)
  return Cache(keys, values, at + 1), out.astype(q.dtype)


def _block(block: Block, causal: bool, dropout: float) -> Float[Array, "x y r e"]:
  """Attention of a block's queries; its last value is a constant one, which sums to the normaliser.

  block.marked: queries that weigh all keys alike.
  """
  _, k, v, rows, real, marked, key = block
  m = k.shape[3]
  see = jnp.ones((1, 1, 1, m), bool) if real is None else real[:, None, None]
  if causal:
    see = see & (jnp.arange(m) <= rows[:, None])
  alike = None if marked is None else marked[:, None, :, None]
  seen, see = _scores(block.q, k, see, alike)
  exp = jnp.exp(seen - _row_max(lax.stop_gradient(seen))).astype(v.dtype)
  sums = jnp.einsum("bhnm,bhem->bhne", exp, v, preferred_element_type=seen.dtype)
  out, normaliser = sums[..., :-1], sums[..., -1:]
  if key is not None:
    kept = drop(exp, dropout, key)
    out = jnp.einsum("bhnm,bhem->bhne", kept, v[:, :, :-1], preferred_element_type=seen.dtype)
  return jnp.where(see.any(-1, keepdims=True), out / normaliser, 0)


def _scores(
  q: Float[Array, "b h n d"],
  k: Float[Array, "b h d m"],
  see: Bool[Array, "#b 1 #n m"],
  alike: Bool[Array, "b 1 n 1"] | None,
) -> tuple[Float[Array, "b h n m"], Bool[Array, "#b 1 #n m"]]:
  """q k^T in the dtype of sums and which of it is seen; what is not is the least number there is.

  alike: rows that weigh all keys alike. -1e10 + score is -1e10 in float32, but its derivative is 1,
    so a gradient flows to queries and keys all the same.
  """
  dtype = kernel.sum_dtype(q)
  scores = _product(q, k)
  seen = jnp.where(see, scores, jnp.finfo(dtype).min)
  if alike is None:
    return seen, see
  return jnp.where(alike, scores - lax.stop_gradient(scores), seen), see | alike


def _row_max(x: Float[Array, "*s m"]) -> Float[Array, "*s 1"]:
  """Over the last axis; a third of XLA's time on a CPU, where 32 divides m."""
  m = x.shape[-1]
  if m % 32 == 0:
    x = lax.optimization_barrier(x.reshape(*x.shape[:-1], 32, m // 32).max(-2))
  return x.max(-1, keepdims=True)


@jax.custom_vjp
def _product(q: Float[Array, "b h n d"], k: Float[Array, "b h d m"]) -> Float[Array, "b h n m"]:
  """q k in the dtype of sums. The derived gradient of k would transpose the large factor."""
  return jnp.einsum("bhnd,bhdm->bhnm", q, k, preferred_element_type=kernel.sum_dtype(q))


def _product_gradient(qk: tuple[Array, Array], gradient: Array) -> tuple[Array, Array]:
  q, k = qk
  wide = {"preferred_element_type": gradient.dtype}
  dq = jnp.einsum("bhnm,bhdm->bhnd", gradient, k, **wide)
  return dq.astype(q.dtype), jnp.einsum("bhnd,bhnm->bhdm", q, gradient, **wide).astype(k.dtype)


_product.defvjp(lambda q, k: (_product(q, k), (q, k)), _product_gradient)


def _bounded(x: Float[Array, "*s d"]) -> Float[Array, "*s d"]:
  return jnp.clip(x, -LARGEST, LARGEST)


def _scaled(q: Float[Array, "*s d"]) -> Float[Array, "*s d"]:
  return _bounded(q) * q.shape[-1] ** -0.5
