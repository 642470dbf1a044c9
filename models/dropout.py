"""Dropout whose mask is an integer hash of the element's index.

Threefry bits take ten times as long as the Dense layer they follow on a CPU (width 64), and have to
be stored on a GPU; a hash fuses into the multiplication, and is the same on any sharding.
The mixing function is C. Wellons's lowbias32, applied twice with half of the key each.
"""

import math

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Key, UInt32


def dropout(x: Float[Array, "*s"], rate: float, key: Key[Array, ""]) -> Float[Array, "*s"]:
  """x with a share `rate` of its elements zero and the others divided by 1 - rate."""
  strides = [math.prod(x.shape[i + 1 :]) for i in range(x.ndim)]
  index = sum(
    lax.broadcasted_iota(jnp.uint32, x.shape, i) * jnp.uint32(stride % 2**32)
    for i, stride in enumerate(strides)
  )
  return jnp.where(hash_bits(index, key) >= jnp.uint32(rate * 2**32), x / (1 - rate), 0)


def hash_bits(index: UInt32[Array, "*s"], key: Key[Array, ""]) -> UInt32[Array, "*s"]:
  """A uniform 32-bit number for each index, the same wherever that index stands."""
  words = jax.random.key_data(key).ravel()
  return _mix(_mix(index ^ words[0]) ^ words[-1])


def _mix(x: Array) -> Array:
  x = (x ^ (x >> 16)) * jnp.uint32(0x7FEB352D)
  x = (x ^ (x >> 15)) * jnp.uint32(0x846CA68B)
  return x ^ (x >> 16)
