"""What depends on places alone is computed once, and is what it was."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models.attention import cosformer
from models.attention.tables import stored


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_stored_keeps_every_bit_and_the_gradient(dtype):
  with jax.enable_x64(dtype == "float64"):
    angle = jnp.linspace(-3, 1e4, 40, dtype=dtype).reshape(2, 1, 20, 1)
    tables = jnp.cos(angle), jnp.sin(angle), jnp.full_like(angle, 1e-30)
    for kept, table in zip(jax.jit(stored)(*tables), tables, strict=True):
      assert kept.dtype == dtype
      np.testing.assert_array_equal(kept, table)
    slope = jax.grad(lambda *x: sum((i + 1) * y.sum() for i, y in enumerate(stored(*x))), (0, 1, 2))
    for i, gradient in enumerate(slope(*tables)):
      np.testing.assert_array_equal(gradient, np.full_like(angle, i + 1))


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="elsewhere XLA is left alone")
@pytest.mark.parametrize(
  "options, most",
  [
    ({}, 2),
    ({"rope": True}, 2 + 2 * 4 + 1),  # of 4 planes, and their frequencies
    ({"reweight": "cos2d", "side": 8}, 4),
    ({"reweight": "multiscale"}, 2 * 3 + 1),  # of 3 heads, and theirs
  ],
)
def test_no_cosine_is_computed_twice(options, most):
  """Cosines and sines a position in one value with its gradient, for every head and channel."""
  n = 64
  q, k, v = (jax.random.normal(jax.random.key(i), (2, n, 3, 8)) for i in range(3))

  def loss(q, k, v):
    return (cosformer.attend(q, k, v, **options) ** 2).sum()

  compiled = jax.jit(jax.value_and_grad(loss, (0, 1, 2))).lower(q, k, v).compile()
  assert compiled.cost_analysis()["transcendentals"] <= most * n
