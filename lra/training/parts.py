"""A batch worked through in parts, one after the other, that stay in the cache of a CPU core."""

from typing import Any

import jax
import jax.numpy as jnp

CACHE_TOKENS = 1024  # activations of so many, a few hundred wide, stay in the cache of a CPU core


def cache_parts(b: int, s: int, n: int, devices_count: int) -> int:
  """Into how many parts to cut a batch [b s n]: on a CPU about CACHE_TOKENS each, elsewhere 1.

  On one core a step of two layers of width 64 takes 0.55 of the time at b = 32, n = 1024, an evaluation
  of Image 0.47, of Retrieval 0.56.
  """
  if jax.default_backend() != "cpu":
    return 1
  each = b // devices_count  # a device's share
  return next(
    a
    for a in range(1, each + 1)
    if each % a == 0 and (a == each or each // a * s * n <= CACHE_TOKENS)
  )


def split(batch: Any, count: int) -> Any:
  """Every array [b ...] as [count b/count ...], each part spread over the devices as the batch is."""
  return jax.tree.map(lambda x: jnp.moveaxis(x.reshape(-1, count, *x.shape[1:]), 1, 0), batch)


def join(parts: Any) -> Any:
  """Undoes `split`: every array [count b/count ...] as [b ...]."""
  return jax.tree.map(lambda x: x.swapaxes(0, 1).reshape(-1, *x.shape[2:]), parts)
