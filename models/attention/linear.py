"""Linear attention (Katharopoulos et al., 2020, arXiv 2006.16236): O(n d^2) by reassociation.

    o_i = phi(q_i) (sum_j phi(k_j) v_j^T) / (phi(q_i) . sum_j phi(k_j) + eps),    phi(x) = elu(x) + 1

`weights` is the matrix of the quotients, `attend` never makes it, `step` is one row of it after the
other; test_attend_is_weights_times_values and test_step_by_step_is_causal_attention hold them together.
"""

from functools import partial

import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from models.attention import kernel

EPSILON = 1e-6  # added to the normaliser: google-research/long-range-arena, linear_attention.py


def weights(
  q: Float[Array, "b n h d"],
  k: Float[Array, "b m h d"],
  *,
  mask: Bool[Array, "b m"] | None = None,
  causal: bool = False,
  positions: Int[Array, "b n"] | None = None,
  rope: bool = False,
  lra_padding: bool = False,
) -> Float[Array, "b h n m"]:
  """The dense matrix that `attend` multiplies v by."""
  mask = None if lra_padding else mask
  scores = kernel.scores(q, k, mask, causal, "elu1")
  numerator = scores
  if rope:
    at = kernel.places(q.shape[1], k.shape[1], positions)
    numerator = kernel.scores(q, k, mask, causal, "elu1", at)
  return numerator / (scores.sum(-1, keepdims=True) + EPSILON)


def attend(
  q: Float[Array, "b n h d"],
  k: Float[Array, "b m h d"],
  v: Float[Array, "b m h e"],
  *,
  mask: Bool[Array, "b m"] | None = None,
  causal: bool = False,
  positions: Int[Array, "b n"] | None = None,
  rope: bool = False,
  chunk: int = 128,
  lra_padding: bool = False,
) -> Float[Array, "b n h e"]:
  """Linear attention under the contract of `models.attention`.

  rope: rotary positions in the numerator alone (RoFormer, arXiv 2104.09864, equation 19): the
    normaliser stays positive, rows no longer sum to 1 and may have negative weights.
  chunk: tokens per step of the causal form; changes time and memory, never the result.
  lra_padding: ignore `mask`, as the published harness does.
  """
  mask = None if lra_padding else mask
  phi = kernel.features(q, k, mask, "elu1")
  x = kernel.values(v, mask)
  at = kernel.places(q.shape[1], k.shape[1], positions) if rope else None
  total = partial(kernel.sums, causal=causal, chunk=chunk)
  numerator, normaliser = kernel.numerator_and_normaliser(total, phi, x, at)
  normaliser = normaliser + kernel.floor(phi, EPSILON)
  out = kernel.divided(numerator, normaliser, q.dtype) if rope else numerator / normaliser
  return jnp.swapaxes(out, 1, 2).astype(q.dtype)


def init_state(
  b: int, h: int, d: int, e: int, dtype: DTypeLike = jnp.float32, *, rope: bool = False
) -> kernel.State:
  """State of `step` before the first token, for d-wide keys and e-wide values."""
  return kernel.init_state(b, h, d, e + 1, dtype, rope)


def step(
  state: kernel.State,
  q: Float[Array, "b h d"],
  k: Float[Array, "b h d"],
  v: Float[Array, "b h e"],
  *,
  rope: bool = False,
) -> tuple[kernel.State, Float[Array, "b h e"]]:
  """One token of causal attention in constant memory: row `state.count` of `attend`."""
  state, numerator, normaliser = kernel.step(state, q, k, kernel.with_ones(v), "elu1")
  numerator, normaliser = numerator[..., :-1], normaliser[..., -1:] + EPSILON
  out = kernel.divided(numerator, normaliser, q.dtype) if rope else numerator / normaliser
  return state, out.astype(q.dtype)
