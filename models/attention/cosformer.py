"""cosFormer attention (Qin et al., ICLR 2022, arXiv 2202.08791): linear time, cosine re-weighting.

    s_ij = relu(q_i).relu(k_j) cos(pi/2 (i - j) / M),    o_i = sum_j s_ij v_j / sum_j s_ij

`weights` is that matrix. `attend` never makes it: by cos(a - b) = cos a cos b + sin a sin b the
re-weighting leaves the pairs and multiplies values before the sum over keys and results after it, once
with cos and once with sin; `step` is one row after the other. M is the length of the example, never of
its padding, or a fixed number. What may stand in the place of the cosine is in reweighting.py.
tests/models/test_attention.py::test_attend_is_weights_times_values and, in test_kernel_attention.py,
test_values_and_gradients and test_step_by_step_is_causal_attention hold the forms together.
"""

from collections.abc import Callable, Mapping
from functools import partial

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int, Key

from models.attention import kernel, reweighting
from models.attention.reweighting import Place

EPSILON = 1e-6  # least normaliser: OpenNLPLab/cosFormer, cosformer.py


def parameters(
  h: int, *, reweight: str = "cos", frequencies: str = "geometric"
) -> dict[str, Callable[[Key[Array, ""]], Array] | Array]:
  """The parameters of h heads by name, as `models.attention` wants them; see `reweighting`."""
  return reweighting.parameters(h, reweight, frequencies)


def weights(
  q: Float[Array, "b n h d"],
  k: Float[Array, "b m h d"],
  *,
  mask: Bool[Array, "b m"] | None = None,
  causal: bool = False,
  positions: Int[Array, "b n"] | None = None,
  side: int | None = None,
  parameters: Mapping[str, Array] | None = None,
  length: int | Int[Array, "b"] | None = None,
  feature_map: str = "relu",
  reweight: str = "cos",
  frequencies: str = "geometric",
  rope: bool = False,
  lra_padding: bool = False,
) -> Float[Array, "b h n m"]:
  """The dense matrix that `attend` multiplies v by."""
  mask = None if lra_padding else mask
  n, m, h = q.shape[1], k.shape[1], q.shape[2]
  scores = kernel.scores(q, k, mask, causal, feature_map)
  given = _parameters(parameters, h, reweight, frequencies)
  place = _place(n, m, mask, positions, length, scores.dtype, side, given, reweight)
  weight = reweighting.weight(reweight, place)
  scores *= weight
  normaliser = scores.sum(-1, keepdims=True)
  if rope:
    scores = kernel.scores(q, k, mask, causal, feature_map, place[:2]) * weight
  return _quotient(scores, normaliser, EPSILON, rope, scores.dtype)


def attend(
  q: Float[Array, "b n h d"],
  k: Float[Array, "b m h d"],
  v: Float[Array, "b m h e"],
  *,
  mask: Bool[Array, "b m"] | None = None,
  causal: bool = False,
  positions: Int[Array, "b n"] | None = None,
  side: int | None = None,
  parameters: Mapping[str, Array] | None = None,
  length: int | Int[Array, "b"] | None = None,
  feature_map: str = "relu",
  reweight: str = "cos",
  frequencies: str = "geometric",
  rope: bool = False,
  chunk: int | None = None,
  lra_padding: bool = False,
) -> Float[Array, "b n h e"]:
  """cosFormer attention under the contract of `models.attention`.

  length: M, one number or one per example. None: the position after the last real key, and at least
    n in cross attention (n != m), where all queries are taken as real.
  positions: i and j of the tokens in self-attention, ascending, where they are not 0, 1, 2 ...
  feature_map: a key of `kernel.FEATURE_MAPS`. reweight: one of `reweighting.REWEIGHT`; "none" is
    plain kernel attention. frequencies: of multiscale; "learned" starts at the geometric ones.
  rope: rotary positions for the features of the numerator alone (RoFormer, arXiv 2104.09864, equation
    19), before any re-weighting: s_ij = (R_i relu(q_i)).(R_j relu(k_j)) w(i, j) over the same
    normaliser as without. Rows no longer sum to 1; one whose normaliser vanishes is zero.
  chunk: tokens per step of the causal form, 128 if None, and of decay, `decay.chunk_size`; changes
    time and memory, never the result.
  lra_padding: ignore `mask`, as the published harness does for linear mechanisms; M is then m.
  Raises KeyError for an unknown feature map, ValueError for an unknown re-weighting, for cos2d without
  a square, or for a fixed M < max(n, m) without a mask.
  """
  mask = None if lra_padding else mask
  n, m, h = q.shape[1], k.shape[1], q.shape[2]
  phi = kernel.features(q, k, mask, feature_map)
  x = kernel.values(v, mask)
  given = _parameters(parameters, h, reweight, frequencies)
  place = _place(n, m, mask, positions, length, kernel.sum_dtype(q), side, given, reweight)
  total = partial(reweighting.sums, reweight, place, causal=causal, chunk=chunk)
  sums = kernel.numerator_and_normaliser(total, phi, x, place[:2] if rope else None)
  out = _quotient(*sums, kernel.floor(phi, EPSILON), rope, q.dtype)
  return jnp.swapaxes(out, 1, 2).astype(q.dtype)


def init_state(
  b: int,
  h: int,
  d: int,
  e: int,
  dtype: DTypeLike = jnp.float32,
  *,
  reweight: str = "cos",
  rope: bool = False,
) -> kernel.State:
  """State of `step` before the first token, for d-wide keys and e-wide values."""
  parts = {"cos": 2, "multiscale": 3}.get(reweight, 1)
  return kernel.init_state(b, h, d, parts * (e + 1), dtype, rope)


def step(
  state: kernel.State,
  q: Float[Array, "b h d"],
  k: Float[Array, "b h d"],
  v: Float[Array, "b h e"],
  *,
  length: int | Int[Array, "b"] | None = None,
  parameters: Mapping[str, Array] | None = None,
  feature_map: str = "relu",
  reweight: str = "cos",
  frequencies: str = "geometric",
  rope: bool = False,
) -> tuple[kernel.State, Float[Array, "b h e"]]:
  """One token of causal attention in constant memory: row `state.count` of `attend`.

  length: M, which cos and multiscale have to know in advance, since every past key was turned by its
  angle. Raises ValueError without it, and for cos2d: pixels are not read one by one.
  """
  given = _parameters(parameters, q.shape[1], reweight, frequencies)
  if reweight == "cos2d":
    raise ValueError("reweight cos2d has no step; cos, multiscale, decay and none have")
  if length is None and reweight in ("cos", "multiscale"):
    raise ValueError(f"reweight {reweight} needs to know M, the length, before the first token")
  at = state.count[None, None]
  place = Place(at, at, _lengths(1 if length is None else length, state.sums.dtype), None, given)
  factors = tuple(f[:, :, 0] for f in reweighting.factors(reweight, at, place))  # [#b #h 1]
  keep = jnp.exp(-reweighting.rate(place)) if reweight == "decay" else 1.0
  x = reweighting.spread(kernel.with_ones(v).astype(state.sums.dtype), factors)
  state, *sums = kernel.step(state, q, k, x, feature_map, keep=keep)
  numerator, normaliser = (reweighting.gather(y, factors) for y in sums)
  out = _quotient(numerator[..., :-1], normaliser[..., -1:], EPSILON, rope, q.dtype)
  return state, out.astype(q.dtype)


def _parameters(
  given: Mapping[str, Array] | None, h: int, reweight: str, frequencies: str
) -> Mapping[str, Array]:
  """Those given, or what they are at the start."""
  starts = parameters(h, reweight=reweight, frequencies=frequencies)
  if given is not None:
    return given
  return {name: x(jax.random.key(0)) if callable(x) else x for name, x in starts.items()}


def _lengths(length: int | Array, dtype: DTypeLike) -> Float[Array, "#b"]:
  return jnp.atleast_1d(jnp.asarray(length, dtype))


def _place(
  n: int,
  m: int,
  mask: Bool[Array, "b m"] | None,
  positions: Int[Array, "b n"] | None,
  length: int | Int[Array, "b"] | None,
  dtype: DTypeLike,
  side: int | None,
  parameters: Mapping[str, Array],
  reweight: str,
) -> Place:
  """Where queries and keys stand, and M."""
  if reweight == "cos" and mask is None and isinstance(length, int) and length < max(n, m):
    raise ValueError(f"cosFormer's M = {length} is less than the sequence length {max(n, m)}")
  i, j = kernel.places(n, m, positions)
  if length is None:
    last = jnp.max(j + 1 if mask is None else jnp.where(mask, j + 1, 0), axis=-1)
    length = last if n == m else jnp.maximum(last, n)
  return Place(i, j, _lengths(length, dtype), side, parameters)


def _quotient(
  numerator: Float[Array, "*s e"],
  normaliser: Float[Array, "*s 1"],
  floor: Float[Array, "*s 1"] | float,
  rope: bool,
  dtype: DTypeLike,
) -> Float[Array, "*s e"]:
  """numerator / normaliser; over `floor` where that is smaller (no gradient there), 0 with rope."""
  alive = jnp.abs(normaliser) >= floor
  if rope:
    return jnp.where(alive, kernel.divided(numerator, jnp.where(alive, normaliser, 1), dtype), 0)
  return numerator / jnp.where(alive, normaliser, floor)
