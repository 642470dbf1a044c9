"""Linear attention (Katharopoulos et al., 2020, arXiv 2006.16236): O(n d^2) by reassociation.

o_i = phi(q_i) (sum_j phi(k_j) v_j^T) / (phi(q_i) . sum_j phi(k_j) + eps),    phi(x) = elu(x) + 1
"""

import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float

from models.attention import kernel

EPSILON = 1e-6  # added to the normaliser: google-research/long-range-arena, linear_attention.py


def attend(
  q: Float[Array, "b n h d"],
  k: Float[Array, "b m h d"],
  v: Float[Array, "b m h e"],
  *,
  mask: Bool[Array, "b m"] | None = None,
  causal: bool = False,
  chunk: int = 128,
  lra_padding: bool = False,
) -> Float[Array, "b n h e"]:
  """Linear attention under the contract of `models.attention`.

  chunk: tokens per step of the causal form; changes time and memory, never the result.
  lra_padding: ignore `mask`, as the published harness does.
  """
  mask = None if lra_padding else mask
  phi = kernel.features(q, k, mask, "elu1")
  x = kernel.values(v, mask)
  sums = kernel.sums(phi, x, causal=causal, chunk=chunk)
  out = sums[..., :-1] / (sums[..., -1:] + kernel.floor(phi, EPSILON))
  return jnp.swapaxes(out, 1, 2).astype(q.dtype)


def weights(
  q: Float[Array, "b n h d"],
  k: Float[Array, "b m h d"],
  *,
  mask: Bool[Array, "b m"] | None = None,
  causal: bool = False,
  lra_padding: bool = False,
) -> Float[Array, "b h n m"]:
  """The dense matrix that `attend` multiplies v by."""
  scores = kernel.scores(q, k, None if lra_padding else mask, causal, "elu1")
  return scores / (scores.sum(-1, keepdims=True) + EPSILON)


def init_state(b: int, h: int, d: int, e: int, dtype: DTypeLike = jnp.float32) -> kernel.State:
  """State of `step` before the first token, for d-wide keys and e-wide values."""
  return kernel.init_state(b, h, d, e + 1, dtype)


def step(
  state: kernel.State,
  q: Float[Array, "b h d"],
  k: Float[Array, "b h d"],
  v: Float[Array, "b h e"],
) -> tuple[kernel.State, Float[Array, "b h e"]]:
  """One token of causal attention in constant memory: row `state.count` of `attend`."""
  state, sums = kernel.step(state, q, k, kernel.with_ones(v), "elu1")
  return state, (sums[..., :-1] / (sums[..., -1:] + EPSILON)).astype(q.dtype)
