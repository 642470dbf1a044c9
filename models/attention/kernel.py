"""What every kernel attention is made of: sum_j phi(q_i).phi(k_j) x_j in O(n d f) time.

Layout in here is [b h n d]. A column of ones among the values x makes the normaliser a by-product;
with rotary positions, which are the numerator's alone, it is a sum of its own. Features are scaled by
powers of two (exact), so that no finite input can overflow a sum; `floor` says what an epsilon of the
normaliser is worth in that scale.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from models.attention import rotary

FEATURE_MAPS = {
  "relu": jax.nn.relu,
  "leaky_relu": jax.nn.leaky_relu,
  "identity": lambda x: x,
  "elu1": lambda x: jnp.where(x > 0, x + 1, jnp.exp(jnp.minimum(x, 0))),
  "exp": jnp.exp,
}


class Features(NamedTuple):
  """phi(q) and phi(k), their products known up to `scale`, a positive factor per query row."""

  q: Float[Array, "b h n d"]
  k: Float[Array, "b h m d"]
  scale: Float[Array, "b h n 1"]


class State(NamedTuple):
  """What a causal kernel attention remembers of the past, whatever its length."""

  sums: Float[Array, "b h p d f"]  # over past keys: phi(k) x^T; p = 2 with rope, rotated ones first
  count: Int[Array, ""]  # past tokens


def features(
  q: Float[Array, "b n h d"],
  k: Float[Array, "b m h d"],
  mask: Bool[Array, "b m"] | None,
  feature_map: str,
) -> Features:
  """Bounded features, zero at masked keys. Raises KeyError for an unknown feature map."""
  if feature_map not in FEATURE_MAPS:
    raise KeyError(f"unknown feature_map {feature_map!r}; there are {', '.join(FEATURE_MAPS)}")
  phi, dtype = FEATURE_MAPS[feature_map], sum_dtype(q)
  q, k = (jnp.swapaxes(x, 1, 2) for x in (q, k))
  keep = None if mask is None else mask[:, None, :, None]
  shift = jnp.zeros((), dtype)
  low = q.dtype
  if feature_map == "exp":  # exp(q) exp(k) = exp(q + c - s) exp(k - c) exp(s), c per feature
    limit = jnp.finfo(dtype).max / 4
    q, k = (jnp.clip(x.astype(dtype), -limit, limit) for x in (q, k))
    k = k if keep is None else jnp.where(keep, k, -limit)
    center = lax.stop_gradient(k.max(2, keepdims=True))
    q, k = q + center, k - center
    shift = lax.stop_gradient(q.max(-1, keepdims=True))
    q = q - shift
  phi_q, phi_k = phi(q).astype(low), phi(k).astype(low)
  if keep is not None:
    phi_k = jnp.where(keep, phi_k, 0)
  scale_q, scale_k = _power_of_two(phi_q, (-1,)), _power_of_two(phi_k, (2, 3))
  mean = 2.0 ** -(math.ceil(math.log2(k.shape[2] * k.shape[3])) + 6)  # sums stay below max |x|
  return Features(
    phi_q * scale_q.astype(low),
    phi_k * scale_k.astype(low) * mean,
    scale_q * scale_k * mean * jnp.exp(-jnp.clip(shift, -80, 80)),
  )


def sums(
  phi: Features, x: Float[Array, "b h m f"], *, causal: bool, chunk: int
) -> Float[Array, "b h n f"]:
  """sum_j phi(q_i).phi(k_j) x_j over all j, or over j <= i when causal."""
  dtype = sum_dtype(x)
  if not causal:
    total = jnp.einsum("bhmd,bhmf->bhdf", phi.k, x, preferred_element_type=dtype)
    return jnp.einsum("bhnd,bhdf->bhnf", phi.q.astype(dtype), total)
  n, m = phi.q.shape[2], x.shape[2]
  chunk = min(chunk, max(n, m))
  chunks = -(-max(n, m) // chunk)

  def split(y: Array) -> Array:  # [b h n f] -> [chunks b h chunk f]
    y = jnp.pad(y, ((0, 0), (0, 0), (0, chunks * chunk - y.shape[2]), (0, 0)))
    return jnp.moveaxis(y.reshape(*y.shape[:2], chunks, chunk, y.shape[3]), 2, 0)

  @jax.checkpoint
  def body(total: Array, block: tuple[Array, Array, Array]) -> tuple[Array, Array]:
    q, k, x = block
    inside = jnp.tril(jnp.einsum("bhnd,bhmd->bhnm", q, k, preferred_element_type=dtype))
    out = jnp.einsum("bhnm,bhmf->bhnf", inside, x.astype(dtype))
    out += jnp.einsum("bhnd,bhdf->bhnf", q.astype(dtype), total)
    return total + jnp.einsum("bhmd,bhmf->bhdf", k, x, preferred_element_type=dtype), out

  start = jnp.zeros((*x.shape[:2], phi.k.shape[3], x.shape[3]), dtype)
  _, out = lax.scan(body, start, (split(phi.q), split(phi.k), split(x)))
  return jnp.moveaxis(out, 0, 2).reshape(*x.shape[:2], chunks * chunk, -1)[:, :, :n]


def numerator_and_normaliser(
  total: Callable[[Features, Array], Array],
  phi: Features,
  x: Float[Array, "b h m f"],
  rope: tuple[Int[Array, "#b n"], Int[Array, "#b m"]] | None,
) -> tuple[Float[Array, "b h n e"], Float[Array, "b h n 1"]]:
  """Sums of the values and of the ones beside them, by `total`.

  rope: positions of queries and keys, whose features they rotate in the first of the two sums.
  """
  if rope is None:
    sums = total(phi, x)
    return sums[..., :-1], sums[..., -1:]
  turned = phi._replace(q=rotary.rotate(phi.q, rope[0]), k=rotary.rotate(phi.k, rope[1]))
  return total(turned, x[..., :-1]), total(phi, x[..., -1:])


def scores(
  q: Float[Array, "b n h d"],
  k: Float[Array, "b m h d"],
  mask: Bool[Array, "b m"] | None,
  causal: bool,
  feature_map: str,
  rope: tuple[Int[Array, "#b n"], Int[Array, "#b m"]] | None = None,
) -> Float[Array, "b h n m"]:
  """The dense matrix phi(q).phi(k), of features rotated by the positions `rope` if they are given.

  Zero where a query may not look.
  """
  phi_q, phi_k = (jnp.swapaxes(FEATURE_MAPS[feature_map](x), 1, 2) for x in (q, k))
  if rope is not None:
    phi_q, phi_k = rotary.rotate(phi_q, rope[0]), rotary.rotate(phi_k, rope[1])
  dense = jnp.einsum("bhnd,bhmd->bhnm", phi_q, phi_k, preferred_element_type=sum_dtype(q))
  return jnp.where(visible(q.shape[1], k.shape[1], mask, causal), dense, 0)


def visible(
  n: int, m: int, mask: Bool[Array, "b m"] | None, causal: bool
) -> Bool[Array, "#b 1 n m"]:
  """Which keys each query may look at: real ones, and when causal only those at j <= i."""
  see = jnp.tril(jnp.ones((n, m), bool)) if causal else jnp.ones((n, m), bool)
  return see[None, None] if mask is None else see[None, None] & mask[:, None, None, :]


def places(
  n: int, m: int, positions: Int[Array, "b n"] | None
) -> tuple[Int[Array, "#b n"], Int[Array, "#b m"]]:
  """Positions of queries and keys: those given, or 0, 1, 2 ... of both.

  Raises ValueError for given ones in cross attention (n != m).
  """
  if positions is None:
    return jnp.arange(n)[None], jnp.arange(m)[None]
  if n != m:
    raise ValueError("positions are those of self-attention, where queries and keys are the same")
  return positions, positions


def init_state(b: int, h: int, d: int, f: int, dtype: DTypeLike, rope: bool = False) -> State:
  """The state before the first token."""
  return State(jnp.zeros((b, h, 1 + rope, d, f), dtype), jnp.zeros((), jnp.int32))


def step(
  state: State,
  q: Float[Array, "b h d"],
  k: Float[Array, "b h d"],
  x: Float[Array, "b h f"],
  feature_map: str,
  *,
  keep: Float[Array, "h"] | float = 1.0,
) -> tuple[State, Float[Array, "b h f"], Float[Array, "b h f"]]:
  """Adds one key, then sums for one query: `sums` with causal=True, a token at a time.

  keep: the share of each head's past that stays. Returns sums of rotated features and of features;
  without rope they are the same.
  """
  dtype = state.sums.dtype
  phi_q, phi_k = (FEATURE_MAPS[feature_map](y).astype(dtype)[:, :, None] for y in (q, k))
  if state.sums.shape[2] == 2:
    at = state.count[None, None]
    phi_q, phi_k = (jnp.concatenate([rotary.rotate(y, at), y], 2) for y in (phi_q, phi_k))
  past = state.sums * jnp.reshape(keep, (-1, 1, 1, 1))
  total = past + jnp.einsum("bhpd,bhf->bhpdf", phi_k, x.astype(dtype))
  out = jnp.einsum("bhpd,bhpdf->bhpf", phi_q, total)
  return State(total, state.count + 1), out[:, :, 0], out[:, :, -1]


def values(
  v: Float[Array, "b m h e"], mask: Bool[Array, "b m"] | None
) -> Float[Array, "b h m e+1"]:
  """v with a last column of ones; masked rows are zero, lest a gradient multiply inf by 0 there."""
  x = with_ones(jnp.swapaxes(v, 1, 2))
  return x if mask is None else jnp.where(mask[:, None, :, None], x, 0)


def with_ones(v: Float[Array, "*s e"]) -> Float[Array, "*s e+1"]:
  """v with a last column of ones."""
  return jnp.concatenate([v, jnp.ones_like(v[..., :1])], -1)


def divided(
  numerator: Float[Array, "*s e"], normaliser: Float[Array, "*s 1"], dtype: DTypeLike
) -> Float[Array, "*s e"]:
  """A rotated numerator, which no normaliser bounds, over a normaliser that is not 0; finite."""
  largest = float(jnp.finfo(dtype).max)
  return jnp.clip(numerator / normaliser, -largest, largest)


def floor(phi: Features, epsilon: float) -> Float[Array, "b h n 1"]:
  """An epsilon of the true normaliser in the scale of `phi`, never zero."""
  return jnp.maximum(epsilon * phi.scale, jnp.finfo(phi.scale.dtype).tiny)


def sum_dtype(x: Float[Array, "..."]) -> jnp.dtype:
  """The dtype that sums over x are taken in: float32, or float64 for float64."""
  return jnp.promote_types(x.dtype, jnp.float32)


def _power_of_two(x: Array, axes: tuple[int, ...]) -> Array:
  """A power of two that brings max |x| over `axes` to at most 4; never above 1."""
  dtype = sum_dtype(x)
  limits = jnp.finfo(dtype)
  peak = lax.stop_gradient(jnp.abs(x)).max(axes, keepdims=True).astype(dtype)
  peak = jnp.clip(peak, 1, 2.0**-limits.minexp)  # so that its reciprocal is a normal number
  return 1 / lax.reduce_precision(peak, exponent_bits=limits.nexp, mantissa_bits=0)
