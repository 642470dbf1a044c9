"""What softmax attention promises beyond the contract."""

import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import oracle
from lra.system import devices
from models.attention import softmax

causal_or_not = pytest.mark.parametrize("causal", [False, True])


@pytest.mark.parametrize(
  "n, m, causal",
  [
    *((1, 1, False), (7, 33, False), (257, 257, False)),
    *((33, 33, True), (33, 7, True), (257, 257, True)),
  ],
)
def test_values_and_gradients(x64, n, m, causal):
  mask, qkv = oracle.masks(m), oracle.inputs(4, n, m)
  cotangent = np.cos(np.arange(4 * n * 2 * 3)).reshape(4, n, 2, 3)
  attend = partial(softmax.attend, mask=jnp.asarray(mask), causal=causal)
  expect = partial(oracle.softmax, mask=mask, causal=causal)
  run = jax.jit(lambda *a: [oracle.value_and_grads(f, cotangent, *a) for f in (attend, expect)])
  actual, expected = run(*qkv)
  oracle.assert_close(actual, expected, 1e-10)


@pytest.mark.parametrize(
  "causal, lra_padding, backend",
  [(False, True, "cpu"), (True, False, "cpu"), (True, True, "gpu"), (False, False, "gpu")],
)
def test_blocks_of_any_size_agree(x64, monkeypatch, causal, lra_padding, backend):
  monkeypatch.setattr(jax, "default_backend", lambda: backend)
  q, k, v = oracle.inputs(4, 20)
  mask = jnp.asarray(oracle.masks(20))
  attend = partial(softmax.attend, mask=mask, causal=causal, lra_padding=lra_padding)
  run = jax.jit(
    lambda *a: [
      oracle.value_and_grads(partial(attend, block=b), v, *a) for b in (1, 140, 1000, 9999)
    ]
  )
  first, *others = run(q, k, v)
  for other in others:
    oracle.assert_close(other, first, 1e-12)


@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_memory_is_that_of_a_block(dropout):
  n = 4096
  q, k, v = (jax.ShapeDtypeStruct((1, n, 1, 8), "float32") for _ in range(3))
  options = {"block": 64 * n, "dropout": dropout, "dropout_key": jax.random.key(0)}
  loss = jax.grad(lambda *qkv: softmax.attend(*qkv, **options).sum(), (0, 1, 2))
  assert max(oracle.array_sizes(jax.make_jaxpr(loss)(q, k, v).jaxpr)) < n * n / 8


@pytest.mark.skipif(jax.device_count() == 1, reason="there is one device only")
def test_examples_stay_on_their_devices(monkeypatch):
  monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
  mesh = devices.data_mesh()
  x = jax.ShapeDtypeStruct((16, 64, 2, 4), "float32", sharding=devices.along(mesh, 0))
  mask = jax.ShapeDtypeStruct((16, 64), bool, sharding=devices.along(mesh, 0))
  attend = lambda q, k, v, mask: softmax.attend(q, k, v, mask=mask, block=16 * 32 * 64).sum()
  compiled = jax.jit(jax.grad(attend, (0, 1, 2))).lower(x, x, x, mask).compile()
  assert not re.search("all-gather|all-to-all|all-reduce|permute", compiled.as_text())


def test_order_of_keys_does_not_matter():
  q, k, v = oracle.inputs(4, 15)
  mask = jnp.asarray(oracle.masks(15))
  order = np.random.default_rng(0).permutation(15)
  attend = jax.jit(softmax.attend)
  shuffled = attend(q, k[:, order], v[:, order], mask=mask[:, order])
  oracle.assert_close(shuffled, attend(q, k, v, mask=mask), 1e-6)


def test_lra_padding_is_an_additive_mask_in_float32():
  """Padded queries average all keys, padded ones too, and pass a gradient to queries and keys."""
  q, k, v = oracle.inputs(4, 12)
  mask = jnp.asarray(oracle.masks(12))
  cotangent = jnp.cos(jnp.arange(v.size)).reshape(v.shape)

  def published(q, k, v):
    scores = jnp.einsum("bnhd,bmhd->bhnm", q / 2, k)
    bias = jnp.where(mask[:, None, :, None] & mask[:, None, None, :], 0, -1e10)
    return jnp.einsum("bhnm,bmhe->bnhe", jax.nn.softmax(scores + bias), v)

  def dense(q, k, v):
    return jnp.einsum("bhnm,bmhe->bnhe", softmax.weights(q, k, mask=mask, lra_padding=True), v)

  attend = partial(softmax.attend, mask=mask, lra_padding=True)
  run = jax.jit(
    lambda *a: [oracle.value_and_grads(f, cotangent, *a) for f in (published, attend, dense)]
  )
  expected, *others = run(q, k, v)
  for other in others:
    oracle.assert_close(other, expected, 2e-6)
  oracle.assert_close(others[0][0][3], jnp.broadcast_to(v[3].mean(0), v[3].shape), 1e-6)


def test_dropout_keeps_the_expectation():
  q, k, v = oracle.inputs(4, 6)
  mask = jnp.asarray(oracle.masks(6))
  attend = lambda key: softmax.attend(q, k, v, mask=mask, dropout=0.3, dropout_key=key)
  draws = jax.jit(jax.vmap(attend))(jax.random.split(jax.random.key(0), 4000))
  error = draws.std(0) / np.sqrt(len(draws))
  deviation = np.abs(draws.mean(0) - softmax.attend(q, k, v, mask=mask))
  assert np.all(deviation <= 5 * error + 1e-6)
  assert np.all(draws.std(0)[:3] > 0.01) and not np.any(draws[:, 3])


def test_dropout_of_every_block_drops_weights():
  """Values of the identity return the weights themselves."""
  q, k, _ = oracle.inputs(2, 24)
  v = jnp.broadcast_to(jnp.eye(24)[:, None], (2, 24, 2, 24))
  drop = partial(softmax.attend, dropout=0.25, dropout_key=jax.random.key(0), block=5 * 24)
  dropped = np.asarray(jax.jit(drop)(q, k, v))
  whole = np.moveaxis(np.asarray(softmax.weights(q, k)), 1, 2)
  assert np.all((dropped == 0) | (abs(dropped - whole / 0.75) < 1e-6))
  assert 0.2 < np.mean(dropped == 0) < 0.3
  masks = (dropped == 0).swapaxes(1, 2).reshape(-1, 24)
  assert len(np.unique(masks, axis=0)) == len(masks)


def test_dropout_follows_its_key():
  q, k, v = oracle.inputs(2, 6)
  attend = jax.jit(softmax.attend, static_argnames="dropout")
  one, two = jax.random.split(jax.random.key(0))
  dropped = attend(q, k, v, dropout=0.5, dropout_key=one)
  np.testing.assert_array_equal(dropped, attend(q, k, v, dropout=0.5, dropout_key=one))
  assert np.any(dropped != attend(q, k, v, dropout=0.5, dropout_key=two))
  plain = attend(q, k, v)
  np.testing.assert_array_equal(attend(q, k, v, dropout=0.5), plain)
  np.testing.assert_array_equal(attend(q, k, v, dropout=0.0, dropout_key=one), plain)


@pytest.mark.gpu
@pytest.mark.parametrize("d", [5, 16, 64, 128])
@pytest.mark.parametrize("masked, causal", [(True, False), (False, False), (False, True)])
def test_bfloat16_on_a_gpu_agrees_with_float32(d, masked, causal):
  if jax.default_backend() != "gpu":
    pytest.skip("no GPU")
  q, k, v = oracle.inputs(4, 333, d=d, e=d, dtype="bfloat16")
  mask = oracle.masks(333) if masked else None
  device_mask = None if mask is None else jnp.asarray(mask)
  attend = partial(softmax.attend, mask=device_mask, causal=causal)
  actual = jax.jit(partial(oracle.value_and_grads, attend))(v, q, k, v)
  exact = partial(oracle.softmax, mask=mask, causal=causal)
  high = [x.astype("float32") for x in (q, k, v)]
  with jax.default_matmul_precision("highest"):
    expected = jax.jit(partial(oracle.value_and_grads, exact))(high[2], *high)
  oracle.assert_close(actual, expected, 3e-2)
