"""Rotary positions (Su et al., 2021, RoFormer, arXiv 2104.09864), here for features of tokens."""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from models.attention.tables import stored

BASE = 10_000.0  # wavelengths from 2 pi to 2 pi times this


def rotate(x: Float[Array, "b h n d"], at: Int[Array, "#b n"]) -> Float[Array, "b h n d"]:
  """R_i x_i: plane t (channels t and t + d/2) turned by i BASE^(-2t/d); the last of odd d stays.

  So (R_i x).(R_j y) depends on i - j alone.
  """
  half, dtype = x.shape[-1] // 2, jnp.promote_types(x.dtype, jnp.float32)
  angle = at.astype(dtype)[:, None, :, None] * BASE ** (
    -jnp.arange(half, dtype=dtype) / max(half, 1)
  )
  cos, sin = stored(jnp.cos(angle), jnp.sin(angle))
  a, b = x[..., :half], x[..., half : 2 * half]
  turned = (a * cos - b * sin, a * sin + b * cos)
  return jnp.concatenate([*(y.astype(x.dtype) for y in turned), x[..., 2 * half :]], -1)
