"""cosFormer attention (Qin et al., ICLR 2022, arXiv 2202.08791): linear time, cosine re-weighting.

    s_ij = relu(q_i).relu(k_j) cos(pi/2 (i - j) / M),    o_i = sum_j s_ij v_j / sum_j s_ij

By cos(a - b) = cos a cos b + sin a sin b the re-weighting leaves the pairs: it multiplies values
before the sum over keys and results after it, once with cos and once with sin. M is the length of
the example, never of its padding, or a fixed number; a position beyond M counts as M.
"""

import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from models.attention import kernel

EPSILON = 1e-6  # least normaliser: OpenNLPLab/cosFormer, cosformer.py


def attend(
  q: Float[Array, "b n h d"],
  k: Float[Array, "b m h d"],
  v: Float[Array, "b m h e"],
  *,
  mask: Bool[Array, "b m"] | None = None,
  causal: bool = False,
  positions: Int[Array, "b n"] | None = None,
  length: int | Int[Array, "b"] | None = None,
  feature_map: str = "relu",
  reweight: str = "cos",
  chunk: int = 128,
  lra_padding: bool = False,
) -> Float[Array, "b n h e"]:
  """cosFormer attention under the contract of `models.attention`.

  length: M, one number or one per example. None: the position after the last real key, and at least
    n in cross attention (n != m), where all queries are taken as real.
  positions: i and j of the tokens in self-attention, where they are not 0, 1, 2 ...
  feature_map: a key of `kernel.FEATURE_MAPS`. reweight: "cos" or "none" (plain kernel attention).
  chunk: tokens per step of the causal form; changes time and memory, never the result.
  lra_padding: ignore `mask`, as the published harness does for linear mechanisms; M is then m.
  Raises KeyError for an unknown feature map, ValueError for an unknown re-weighting or a fixed
  M < max(n, m) without a mask.
  """
  mask = None if lra_padding else mask
  phi = kernel.features(q, k, mask, feature_map)
  x = kernel.values(v, mask)
  f = x.shape[-1]
  if _reweighted(reweight):
    angles = _angles(q.shape[1], k.shape[1], mask, positions, length, kernel.sum_dtype(q))
    (cos_q, sin_q), (cos_k, sin_k) = ((jnp.cos(a), jnp.sin(a)) for a in angles)
    x = jnp.concatenate([x * cos_k.astype(x.dtype), x * sin_k.astype(x.dtype)], -1)
    sums = kernel.sums(phi, x, causal=causal, chunk=chunk)
    sums = sums[..., :f] * cos_q + sums[..., f:] * sin_q
  else:
    sums = kernel.sums(phi, x, causal=causal, chunk=chunk)
  out = sums[..., :-1] / _at_least(sums[..., -1:], kernel.floor(phi, EPSILON))
  return jnp.swapaxes(out, 1, 2).astype(q.dtype)


def weights(
  q: Float[Array, "b n h d"],
  k: Float[Array, "b m h d"],
  *,
  mask: Bool[Array, "b m"] | None = None,
  causal: bool = False,
  positions: Int[Array, "b n"] | None = None,
  length: int | Int[Array, "b"] | None = None,
  feature_map: str = "relu",
  reweight: str = "cos",
  lra_padding: bool = False,
) -> Float[Array, "b h n m"]:
  """The dense matrix that `attend` multiplies v by."""
  mask = None if lra_padding else mask
  scores = kernel.scores(q, k, mask, causal, feature_map)
  if _reweighted(reweight):
    a, b = _angles(q.shape[1], k.shape[1], mask, positions, length, scores.dtype)
    scores *= jnp.cos(a - jnp.swapaxes(b, 2, 3))
  return scores / _at_least(scores.sum(-1, keepdims=True), EPSILON)


def init_state(b: int, h: int, d: int, e: int, dtype: DTypeLike = jnp.float32) -> kernel.State:
  """State of `step` before the first token, for d-wide keys and e-wide values."""
  return kernel.init_state(b, h, d, 2 * (e + 1), dtype)


def step(
  state: kernel.State,
  q: Float[Array, "b h d"],
  k: Float[Array, "b h d"],
  v: Float[Array, "b h e"],
  *,
  length: int | Int[Array, "b"],
  feature_map: str = "relu",
  reweight: str = "cos",
) -> tuple[kernel.State, Float[Array, "b h e"]]:
  """One token of causal attention in constant memory: row `state.count` of `attend`.

  length: M, which has to be known in advance, since every past key was turned by its angle.
  """
  x = kernel.with_ones(v)
  angle = _angle(state.count, length, state.sums.dtype) * _reweighted(reweight)  # [#b]
  cos, sin = (f(angle)[:, None, None] for f in (jnp.cos, jnp.sin))
  x = jnp.concatenate([x * cos, x * sin], -1)
  state, sums = kernel.step(state, q, k, x, feature_map)
  f = sums.shape[-1] // 2
  sums = sums[..., :f] * cos + sums[..., f:] * sin
  return state, (sums[..., :-1] / _at_least(sums[..., -1:], EPSILON)).astype(q.dtype)


def _reweighted(reweight: str) -> bool:
  if reweight not in ("cos", "none"):
    raise ValueError(f"unknown reweight {reweight!r}; it is 'cos' or 'none'")
  return reweight == "cos"


def _angle(position: Array, length: int | Array, dtype: jnp.dtype) -> Float[Array, "#b *n"]:
  """pi/2 min(position, M)/M, for M of shape [] or [b] and position [], [n] or [b n]."""
  length = jnp.atleast_1d(jnp.asarray(length, dtype))
  length = length.reshape(-1, *([1] * min(jnp.ndim(position), 1)))
  return jnp.pi / 2 * jnp.minimum(jnp.asarray(position, dtype) / jnp.maximum(length, 1), 1)


def _angles(
  n: int,
  m: int,
  mask: Bool[Array, "b m"] | None,
  positions: Int[Array, "b n"] | None,
  length: int | Int[Array, "b"] | None,
  dtype: jnp.dtype,
) -> tuple[Float[Array, "#b 1 n 1"], Float[Array, "#b 1 m 1"]]:
  """The angles of queries and keys."""
  if mask is None and isinstance(length, int) and length < max(n, m):
    raise ValueError(f"cosFormer's M = {length} is less than the sequence length {max(n, m)}")
  if positions is not None and n != m:
    raise ValueError("positions are those of self-attention, where queries and keys are the same")
  i, j = (jnp.arange(s) if positions is None else positions for s in (n, m))
  if length is None:
    last = jnp.max(j + 1 if mask is None else jnp.where(mask, j + 1, 0), axis=-1)
    length = last if n == m else jnp.maximum(last, n)
  return _angle(i, length, dtype)[:, None, :, None], _angle(j, length, dtype)[:, None, :, None]


def _at_least(normaliser: Array, floor: Array | float) -> Array:
  """normaliser, or `floor` where it is smaller in absolute value (no gradient there)."""
  return jnp.where(jnp.abs(normaliser) >= floor, normaliser, floor)
