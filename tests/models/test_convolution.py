"""The convolution before the projections and the normalisation after the mechanism."""

from functools import partial

import jax.numpy as jnp
import numpy as np
import pytest

import oracle
from models.attention import ATTENTION
from models.attention.convolution import convolve, offsets
from models.norm import rms_norm

causal_or_not = pytest.mark.parametrize("causal", [False, True])


def naive(x, weights, mask, causal):
  """Token by token."""
  out = np.zeros_like(x)
  for b, i in np.ndindex(*mask.shape):
    for o, row in zip(offsets(len(weights), causal), weights, strict=True):
      if 0 <= i + o < mask.shape[1] and mask[b, i + o]:
        out[b, i] += row * x[b, i + o]
  return out


@causal_or_not
@pytest.mark.parametrize("width, n", [(3, 9), (4, 9), (5, 9), (5, 2)])
def test_values_and_padding(x64, causal, width, n):
  rng = np.random.default_rng(0)
  x, weights = rng.normal(size=(4, n, 3)), rng.normal(size=(width, 3))
  mask = oracle.masks(n)
  expected = naive(x, weights, mask, causal)
  poisoned = np.where(mask[..., None], x, np.nan)
  out = convolve(*map(jnp.asarray, (poisoned, weights, mask)), causal=causal)
  oracle.assert_close(out, expected, 1e-12)


def test_what_it_reaches():
  assert list(offsets(5, False)) == [-2, -1, 0, 1, 2] and list(offsets(4, False)) == [-2, -1, 0, 1]
  assert list(offsets(5, True)) == [-4, -3, -2, -1, 0]


@causal_or_not
@pytest.mark.parametrize("width", [4, 5])
def test_tokens_left_out_are_masked_ones(x64, causal, width):
  """Values and gradients at the tokens that are there, by their positions."""
  rng = np.random.default_rng(0)
  x, weights = jnp.asarray(rng.normal(size=(4, 30, 3))), jnp.asarray(rng.normal(size=(width, 3)))
  mask = rng.random((4, 30)) < [[0.3], [0.6], [0.9], [1.0]]
  order = np.argsort(~mask, axis=1, kind="stable")
  real = jnp.asarray(np.arange(30) < mask.sum(1)[:, None])
  cut = lambda x: jnp.where(real[..., None], jnp.take_along_axis(x, order[..., None], 1), 0)
  run = partial(convolve, causal=causal)
  forms = (
    lambda x, w: jnp.where(real[..., None], run(cut(x), w, real, jnp.asarray(order) * real), 0),
    lambda x, w: cut(run(x, w, jnp.asarray(mask))),
  )
  cotangent = jnp.cos(jnp.arange(4 * 30 * 3)).reshape(4, 30, 3)
  short, whole = (oracle.value_and_grads(f, cotangent, x, weights) for f in forms)
  oracle.assert_close(short, whole, 1e-12)


@pytest.mark.parametrize("dtype, tolerance", [("float32", 1e-6), ("bfloat16", 1e-2)])
def test_rms_norm(dtype, tolerance):
  x = jnp.asarray(np.random.default_rng(0).normal(size=(3, 5, 2, 8)), dtype)
  scale = jnp.linspace(0.5, 2, 16).reshape(2, 8)
  out = rms_norm(x, scale)
  assert out.dtype == dtype
  oracle.assert_close(out, oracle.rms(x.astype("float32")) * scale, tolerance)
  zero = jnp.zeros((1, 1, 2, 8), dtype)
  out, dx, _ = oracle.value_and_grads(rms_norm, jnp.ones_like(zero), zero, scale)
  assert not np.any(out) and np.all(np.isfinite(dx))


@causal_or_not
@pytest.mark.parametrize("name", sorted(ATTENTION))
def test_rms_normalisation_stands_in_for_the_normaliser(x64, name, causal):
  """RMS(sum_j s_ij v_j / z_i) = RMS(sum_j s_ij v_j) for z_i > 0, where its epsilon is not felt."""
  q, k, v = oracle.inputs(4, 9, d=6, e=5)
  mask = oracle.masks(9)
  see = jnp.asarray(oracle.visible(4, 9, 9, mask, causal))[:, None]
  if name == "softmax":
    scores = jnp.exp(jnp.einsum("bnhd,bmhd->bhnm", q, k) / np.sqrt(6))
  else:
    phi = oracle.FEATURE_MAPS["elu1" if name == "linear" else "relu"]
    scores = jnp.einsum("bnhd,bmhd->bhnm", phi(q), phi(k))
  if name == "cosformer":
    i, length = np.arange(9), [max([1, *(np.flatnonzero(row) + 1)]) for row in mask]
    i = np.minimum(i, np.array(length)[:, None]) / np.array(length)[:, None] * np.pi / 2
    scores *= np.cos(i[:, :, None] - i[:, None, :])[:, None]
  numerator = jnp.einsum("bhnm,bmhe->bnhe", jnp.where(see, 1e6 * scores, 0), v)  # far above epsilon
  out = ATTENTION[name].attend(q, k, 1e6 * v, mask=jnp.asarray(mask), causal=causal)
  one = jnp.ones((2, 5))
  alive = np.abs(np.asarray(numerator)).max(-1) > 0
  assert alive.mean() > 0.5
  actual, expected = (np.asarray(rms_norm(x, one))[alive] for x in (out, numerator))
  oracle.assert_close(actual, expected, 1e-6)
