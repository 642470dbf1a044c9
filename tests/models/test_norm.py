"""Layer normalisation against flax's, in values and gradients."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models.norm import LayerNorm, layer_norm


@pytest.mark.parametrize("rows, width", [(1, 1), (3, 2), (37, 65)])
@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16"])
def test_is_flax_layer_norm_in_values_and_gradients(rows, width, dtype):
  with jax.enable_x64(dtype == "float64"):
    x, weights = (
      jax.random.normal(jax.random.key(i), (rows, width), jnp.promote_types(dtype, "float32"))
      for i in range(2)
    )
    x = (3 * x + 1).astype(dtype)
    ours, flax = (
      module(dtype=dtype) if module is LayerNorm else module(dtype=dtype, use_fast_variance=False)
      for module in (LayerNorm, nn.LayerNorm)
    )
    params = ours.init(jax.random.key(2), x)
    params = jax.tree.map(lambda p: p + jnp.linspace(-0.5, 0.7, p.size).reshape(p.shape), params)

    def value_and_gradients(module, params, x):
      out, back = jax.vjp(module.apply, params, x)
      return out, back(weights.astype(out.dtype))

    run = jax.jit(lambda *inputs: [value_and_gradients(m, *inputs) for m in (ours, flax)])
    both = run(params, x)
    assert both[0][0].dtype == dtype
    tolerance = {"float64": 1e-12, "float32": 2e-5, "bfloat16": 5e-2}[dtype]
    for a, b in zip(*map(jax.tree.leaves, both), strict=True):
      assert a.shape == b.shape and a.dtype == b.dtype
      a, b = (np.asarray(y, np.float64) for y in (a, b))
      np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance * max(1, np.abs(b).max()))


def test_a_constant_row_and_a_large_offset_stay_exact():
  one, zero = jnp.ones(4), jnp.zeros(4)
  row = jnp.array([1.0, 2.0, 3.0, 4.0])
  plain, shifted = (layer_norm(x[None], one, zero)[0] for x in (row, row + 2.0**20))
  np.testing.assert_allclose(shifted, plain, rtol=1e-5)
  dx = jax.grad(lambda x: layer_norm(x, one, zero)[0, 0])(jnp.full((1, 4), 7.0))
  assert np.isfinite(dx).all() and (layer_norm(jnp.full((1, 4), 7.0), one, zero) == 0).all()
