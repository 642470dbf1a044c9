"""Depth-wise convolution over the sequence, by the true positions of tokens; padding never leaks in."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

WIDTHS = range(2, 10)


def offsets(width: int, causal: bool) -> range:
  """Distances to the tokens that one sees: j - i, -2 to 2 for a width of 5, or -4 to 0 when causal."""
  first = 1 - width if causal else -(width // 2)
  return range(first, first + width)


def convolve(
  x: Float[Array, "b n w"],
  kernel: Float[Array, "k w"],
  mask: Bool[Array, "b n"],
  positions: Int[Array, "b n"] | None = None,
  *,
  causal: bool = False,
) -> Float[Array, "b n w"]:
  """sum_o kernel_o x_(i + o) over `offsets`, where masked tokens and those beyond the ends are zero.

  positions: of the tokens, ascending, where some are left out: those count as zero, as if they were
    there and masked. None: 0, 1, 2 ...
  """
  reach = offsets(len(kernel), causal)
  x = jnp.where(mask[..., None], x, 0)
  out = jnp.zeros_like(x)
  for s in reach:  # places in the array
    near = _shifted(x, s)
    if positions is None:
      out += near * kernel[s - reach.start].astype(x.dtype)
      continue
    distance = _shifted(positions, s) - positions
    for o in range(s, reach.stop) if s > 0 else range(reach.start, s + 1) if s < 0 else (0,):
      at = _shifted(mask, s) & (distance == o)
      out += jnp.where(at[..., None], near, 0) * kernel[o - reach.start].astype(x.dtype)
  return out


def _shifted(x: Array, s: int) -> Array:
  """x_(i + s) along axis 1, zero beyond the ends."""
  n, ends = x.shape[1], [(0, 0)] * (x.ndim - 2)
  if abs(s) >= n:
    return jnp.zeros_like(x)
  cut = x[:, max(s, 0) : n + min(s, 0)]
  return jnp.pad(cut, [(0, 0), (max(-s, 0), max(s, 0)), *ends])
