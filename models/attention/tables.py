"""Tables of what depends on places alone, such as the cosines of positions."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float


def stored(*tables: Float[Array, "*s"]) -> tuple[Float[Array, "*s"], ...]:
  """The same arrays, of finite numbers, computed once.

  XLA on a CPU computes what elementwise operations read again wherever they read it: a cosine for
  every channel, head and consumer. What comes out of a product it keeps.
  """
  if jax.default_backend() != "cpu":
    return tables
  same = np.eye(len(tables), dtype=tables[0].dtype)
  kept = jnp.matmul(jnp.stack(tables, -1), same, precision=lax.Precision.HIGHEST)
  return tuple(kept[..., i] for i in range(len(tables)))
