"""What linear attention and cosFormer promise beyond the contract."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import oracle
from models.attention import ATTENTION, cosformer, linear

kernel_mechanism = pytest.mark.parametrize("name", ["linear", "cosformer"])
causal_or_not = pytest.mark.parametrize("causal", [False, True])
LENGTHS = [  # n, m, causal
  *((1, 1, False), (7, 33, False), (33, 7, False), (257, 257, False)),
  *((7, 7, True), (33, 7, True), (7, 33, True), (257, 257, True)),
]


def compare(name, qkv, mask, causal, **options):
  """attend and its gradients against the oracle's."""
  q, k, v = qkv
  cotangent = np.cos(np.arange(q[..., :1].size * v.shape[3])).reshape(*q.shape[:3], -1)
  attend = partial(
    ATTENTION[name].attend,
    mask=None if mask is None else jnp.asarray(mask),
    causal=causal,
    **{o: jnp.asarray(x) if isinstance(x, list) else x for o, x in options.items()},
  )
  expect = partial(getattr(oracle, name), mask=mask, causal=causal, **options)
  run = jax.jit(lambda *a: [oracle.value_and_grads(f, cotangent, *a) for f in (attend, expect)])
  actual, expected = run(q, k, v)
  oracle.assert_close(actual, expected, 1e-10)


@kernel_mechanism
@pytest.mark.parametrize("n, m, causal", LENGTHS)
def test_values_and_gradients(x64, name, n, m, causal):
  compare(name, oracle.inputs(4, n, m), oracle.masks(m), causal)


@kernel_mechanism
def test_without_a_mask(x64, name):
  compare(name, oracle.inputs(2, 20), None, False)


@pytest.mark.parametrize("reweight, causal", [("cos", True), ("none", False)])
@pytest.mark.parametrize("feature_map", sorted(oracle.FEATURE_MAPS))
def test_feature_maps(x64, reweight, causal, feature_map):
  options = {"feature_map": feature_map, "reweight": reweight}
  compare("cosformer", oracle.inputs(4, 9), oracle.masks(9), causal, **options)


@pytest.mark.parametrize("length", [12, 40, [12, 20, 13, 99], [3, 5, 12, 12]])
def test_given_lengths(x64, length):
  compare("cosformer", oracle.inputs(4, 12), oracle.masks(12), False, length=length)


def test_length_is_that_of_the_example_and_not_of_the_padding():
  q, k, v = oracle.inputs(1, 24)
  attend = jax.jit(cosformer.attend)
  for n in (1, 10, 24):
    mask = jnp.arange(24)[None] < n
    given = attend(q, k, v, mask=mask, length=jnp.array([n]))
    np.testing.assert_array_equal(attend(q, k, v, mask=mask), given)
    assert n == 24 or np.any(given != attend(q, k, v, mask=mask, length=jnp.array([24])))


@kernel_mechanism
@causal_or_not
def test_padding_changes_nothing(name, causal):
  q, k, v = oracle.inputs(2, 20)
  padded = (jnp.pad(x, ((0, 0), (0, 21), (0, 0), (0, 0)), constant_values=5.0) for x in (q, k, v))
  mask = jnp.arange(41)[None] < jnp.array([[20], [20]])
  attend = jax.jit(partial(ATTENTION[name].attend, causal=causal))
  oracle.assert_close(attend(*padded, mask=mask)[:, :20], attend(q, k, v), 1e-6)


def test_an_endless_length_is_no_reweighting():
  q, k, v = oracle.inputs(2, 20)
  plain = jax.jit(partial(cosformer.attend, reweight="none"))(q, k, v)
  oracle.assert_close(jax.jit(partial(cosformer.attend, length=10**9))(q, k, v), plain, 1e-6)
  assert np.abs(jax.jit(cosformer.attend)(q, k, v) - plain).max() > 1e-3


def test_lra_padding_ignores_the_mask():
  q, k, v = oracle.inputs(4, 12)
  mask = jnp.asarray(oracle.masks(12))
  for module in (linear, cosformer):
    ignored = jax.jit(partial(module.attend, lra_padding=True))(q, k, v, mask=mask)
    np.testing.assert_array_equal(ignored, jax.jit(module.attend)(q, k, v))


@pytest.mark.parametrize(
  "options, error, text",
  [
    ({"feature_map": "nope"}, KeyError, "nope"),
    ({"reweight": "nope"}, ValueError, "nope"),
    ({"length": 8}, ValueError, "8 is less than the sequence length 9"),
    ({"length": 8, "lra_padding": True}, ValueError, "8 is less than the sequence length 9"),
  ],
)
@pytest.mark.parametrize("n, m", [(9, 9), (5, 9), (9, 5)])
def test_mistakes(options, error, text, n, m):
  with pytest.raises(error, match=text):
    cosformer.attend(*oracle.inputs(1, n, m), **options)


@kernel_mechanism
def test_chunks_of_any_size_agree(x64, name):
  q, k, v = oracle.inputs(4, 37)
  mask = jnp.asarray(oracle.masks(37))

  @jax.jit
  def run(*qkv):
    attend = partial(ATTENTION[name].attend, mask=mask, causal=True)
    return [
      oracle.value_and_grads(partial(attend, chunk=c), v, *qkv) for c in (1, 3, 16, 128, 10_000)
    ]

  first, *others = run(q, k, v)
  for other in others:
    oracle.assert_close(other, first, 1e-12)


@pytest.mark.parametrize(
  "name, options",
  [
    ("softmax", {}),
    ("linear", {}),
    ("cosformer", {"length": 21}),
    ("cosformer", {"length": jnp.array([21, 30, 50])}),
    ("cosformer", {"length": 21, "feature_map": "exp"}),
    ("cosformer", {"length": 21, "reweight": "none", "feature_map": "elu1"}),
  ],
)
def test_step_by_step_is_causal_attention(x64, name, options):
  q, k, v = oracle.inputs(3, 21)
  module = ATTENTION[name]
  like = {"reweight": options["reweight"]} if "reweight" in options else {}
  like |= {"length": 21} if name == "softmax" else {}

  @jax.jit
  def run(q, k, v):
    state = module.init_state(3, 2, 4, 3, jnp.float64, **like)
    rows = tuple(jnp.moveaxis(x, 1, 0) for x in (q, k, v))
    state, out = jax.lax.scan(lambda s, row: module.step(s, *row, **options), state, rows)
    return state.count, jnp.moveaxis(out, 0, 1), module.attend(q, k, v, causal=True, **options)

  count, out, expected = run(q, k, v)
  assert count == 21
  oracle.assert_close(out, expected, 1e-10)


@kernel_mechanism
@causal_or_not
def test_no_array_grows_faster_than_the_sequence(name, causal):
  d, largest = 32, []
  for n in (1024, 4096):
    q, k, v = (jax.ShapeDtypeStruct((1, n, 1, d), "float32") for _ in range(3))
    attend = partial(ATTENTION[name].attend, causal=causal)
    loss = jax.grad(lambda *qkv: attend(*qkv).sum(), (0, 1, 2))  # noqa: B023
    largest.append(max(oracle.array_sizes(jax.make_jaxpr(loss)(q, k, v).jaxpr)))
  assert largest[1] < 4096 * d * d / 4
  assert largest[1] <= 4.1 * largest[0]


@kernel_mechanism
@pytest.mark.parametrize("dtype, tolerance", [("float32", 1e-3), ("bfloat16", 5e-2)])
def test_long_sequences(name, dtype, tolerance):
  n = 65_536
  q, k, v = oracle.inputs(1, n, h=1, e=2, dtype=dtype)
  ones = jnp.ones_like(v)
  for causal in (False, True):
    attend = jax.jit(partial(ATTENTION[name].attend, causal=causal))
    for magnitude in (1.0, 2.9e38):
      out = attend(*(jnp.clip(x / 5, -1, 1) * jnp.asarray(magnitude, dtype) for x in (q, k, v)))
      assert out.dtype == dtype and np.all(np.isfinite(out))
    average = np.asarray(attend(q, k, ones), np.float64)
    alive = np.abs(average) > 0.5
    assert np.mean(alive) > 0.9
    np.testing.assert_allclose(average[alive], 1, atol=tolerance)


def test_scale_of_a_query_does_not_matter():
  rng = np.random.default_rng(0)
  q, k, v = (jnp.asarray(rng.uniform(0.1, 1, (2, 40, 2, 4)), "float32") for _ in range(3))
  scale = jnp.asarray(10.0 ** rng.uniform(0, 30, (2, 40, 2, 1)), "float32")
  for causal in (False, True):
    attend = jax.jit(partial(cosformer.attend, causal=causal))
    oracle.assert_close(attend(q * scale, k, v), attend(q, k, v), 1e-6)
    oracle.assert_close(attend(q, k * 1e30, v), attend(q, k, v), 1e-6)


@causal_or_not
def test_dead_features_give_zero_and_finite_gradients(causal):
  q, k, v = oracle.inputs(2, 9)
  attend = partial(cosformer.attend, causal=causal)
  run = jax.jit(lambda *qkv: oracle.value_and_grads(attend, jnp.ones(v.shape), *qkv))
  dead_queries = (-jnp.abs(q).at[:, 4].multiply(-1), k, v)
  dead_keys = (jnp.abs(q), -jnp.abs(k), v)
  out, *gradients = run(*dead_queries)
  assert not np.any(np.delete(out, 4, axis=1)) and np.any(out[:, 4])
  assert all(np.all(np.isfinite(g)) for g in gradients)
  out, *gradients = run(*dead_keys)
  assert not np.any(out)
  assert all(np.all(np.isfinite(g)) for g in gradients)


@kernel_mechanism
def test_order_of_keys_does_not_matter_without_reweighting(name):
  q, k, v = oracle.inputs(4, 15)
  mask = jnp.asarray(oracle.masks(15))
  order = np.random.default_rng(0).permutation(15)
  options = {"reweight": "none"} if name == "cosformer" else {}
  attend = jax.jit(partial(ATTENTION[name].attend, **options))
  shuffled = attend(q, k[:, order], v[:, order], mask=mask[:, order])
  oracle.assert_close(shuffled, attend(q, k, v, mask=mask), 1e-6)


@pytest.mark.parametrize("scale, causal", [(20.0, False), (200.0, False), (20.0, True)])
def test_exponential_features_do_not_overflow(scale, causal):
  rng = np.random.default_rng(0)
  low = [jnp.asarray(rng.uniform(-scale, scale, (4, 9, 2, 4)), "float32") for _ in range(3)]
  mask = oracle.masks(9)
  options = {"feature_map": "exp", "causal": causal}
  out = jax.jit(partial(cosformer.attend, **options))(*low, mask=jnp.asarray(mask))
  with jax.enable_x64(True):
    high = oracle.cosformer(*(np.asarray(x, np.float64) for x in low), mask=mask, **options)
  oracle.assert_close(out, high, 1e-4)
