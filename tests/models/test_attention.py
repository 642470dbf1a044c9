"""The contract of `models.attention`, held by whatever is in ATTENTION."""

import inspect
import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import documented
import models.attention
import oracle
from models.attention import options

DOCUMENTED = "the one in docs/extending.md"
ATTENTION = models.attention.ATTENTION | {DOCUMENTED: documented.attention()}
MECHANISMS = sorted(ATTENTION)
every_mechanism = pytest.mark.parametrize("name", MECHANISMS)
built_in = pytest.mark.parametrize("name", sorted(models.attention.ATTENTION))
causal_or_not = pytest.mark.parametrize("causal", [False, True])
MAGNITUDES = (1e-30, 1e-6, 1.0, 200.0, 1e15, 3e38)


def dense(name, q, k, v, **arguments):
  """weights @ v."""
  known = inspect.signature(ATTENTION[name].weights).parameters
  matrix = ATTENTION[name].weights(q, k, **{a: arguments[a] for a in arguments if a in known})
  return jnp.einsum("bhnm,bmhe->bnhe", matrix, v.astype(matrix.dtype))


@every_mechanism
@causal_or_not
@pytest.mark.parametrize("n, m, masked", [(7, 7, False), (20, 33, True)])
def test_attend_is_weights_times_values(x64, name, causal, n, m, masked):
  q, k, v = oracle.inputs(4, n, m)
  mask = jnp.asarray(oracle.masks(m)) if masked else None
  cotangent = jnp.cos(jnp.arange(4 * n * 2 * 3)).reshape(4, n, 2, 3)
  arguments = {"mask": mask, "causal": causal}

  @jax.jit
  def both(*qkv):
    attend = partial(ATTENTION[name].attend, **arguments)
    return tuple(
      oracle.value_and_grads(f, cotangent, *qkv)
      for f in (attend, partial(dense, name, **arguments))
    )

  actual, expected = both(q, k, v)
  assert actual[0].shape == (4, n, 2, 3)
  oracle.assert_close(actual, expected, 1e-10)


@built_in
@pytest.mark.parametrize("form, causal", [("attend", False), ("attend", True), ("dense", False)])
def test_masked_tokens_can_be_left_out(x64, name, causal, form):
  """With the positions of the others, nothing changes for them: values and gradients."""
  q, k, v = oracle.inputs(3, 20)
  mask = np.random.default_rng(1).random((3, 20)) < [[0.3], [0.6], [1.0]]
  mask[0, :4] = mask[1, -3:] = False
  order = np.argsort(~mask, axis=1, kind="stable")
  keep = mask.sum(1).max()
  real = jnp.asarray(np.arange(keep) < mask.sum(1)[:, None])
  order = jnp.asarray(order[:, :keep])
  attend = ATTENTION[name].attend if form == "attend" else partial(dense, name)
  positions = "positions" in inspect.signature(ATTENTION[name].attend).parameters
  given = {"positions": order * real} if positions else {}

  def cut(x):
    return jnp.where(real[..., None, None], jnp.take_along_axis(x, order[..., None, None], 1), 0)

  def short(q, k, v):
    out = attend(*map(cut, (q, k, v)), mask=real, causal=causal, **given)
    return jnp.where(real[..., None, None], out, 0)

  def whole(q, k, v):
    return cut(attend(q, k, v, mask=jnp.asarray(mask), causal=causal))

  cotangent = jnp.cos(jnp.arange(3 * keep * 2 * 3)).reshape(3, keep, 2, 3)
  run = jax.jit(lambda *a: [oracle.value_and_grads(f, cotangent, *a) for f in (short, whole)])
  actual, expected = run(q, k, v)
  oracle.assert_close(actual, expected, 1e-10)


def test_positions_are_those_of_self_attention():
  q, k, v = oracle.inputs(2, 5, 7)
  with pytest.raises(ValueError, match="self-attention"):
    ATTENTION["cosformer"].attend(q, k, v, positions=jnp.zeros((2, 5), int))


@every_mechanism
@causal_or_not
def test_rows_sum_to_one_or_nothing(name, causal):
  q, k, _ = oracle.inputs(4, 33, d=2)
  mask = oracle.masks(33)
  rows = jax.jit(partial(ATTENTION[name].weights, causal=causal))(q, k, mask=jnp.asarray(mask))
  assert rows.shape == (4, 2, 33, 33)
  see = np.broadcast_to(oracle.visible(4, 33, 33, mask, causal)[:, None], rows.shape)
  assert not np.any(rows[~see])
  total = np.sum(rows, -1)
  one, zero = abs(total - 1) < 1e-4, total == 0
  assert np.all(one | zero) and np.mean(one) > 0.4
  assert np.all(zero[~see.any(-1)])


@every_mechanism
@pytest.mark.parametrize("causal, dtype", [(False, "bfloat16"), (True, "float32")])
def test_masked_keys_have_no_influence(name, causal, dtype):
  q, k, v = oracle.inputs(4, 20, dtype=dtype)
  mask = jnp.asarray(oracle.masks(20))
  pad = ~mask[:, :, None, None]

  @jax.jit
  def run(q, k, v):
    attend = partial(ATTENTION[name].attend, mask=mask, causal=causal)
    return oracle.value_and_grads(attend, jnp.ones(v.shape), q, k, v)

  out, dq, dk, dv = run(q, k, v)
  assert not np.any(out[3]) and np.any(out[:3])
  assert not np.any(np.where(pad, dk, 0)) and not np.any(np.where(pad, dv, 0))
  for x in (77.0, -1e30, 1e30):
    again = run(q, jnp.where(pad, x, k), jnp.where(pad, x, v))
    for before, after in zip((out, dq, dk, dv), again, strict=True):
      np.testing.assert_array_equal(before, after)
  for x in (-3e38, 3e38):
    again, *_ = run(q, jnp.where(pad, x, k), jnp.where(pad, x, v))
    np.testing.assert_array_equal(out, again)


@every_mechanism
def test_causal_rows_do_not_see_the_future(name):
  q, k, v = oracle.inputs(2, 20, seed=1)
  attend = jax.jit(partial(ATTENTION[name].attend, causal=True))
  out = attend(q, k, v)
  for i in (0, 6, 18):
    future = (jnp.arange(20) > i)[:, None, None]
    changed = attend(*(jnp.where(future, 50 - 9 * x, x) for x in (q, k, v)))
    np.testing.assert_array_equal(out[:, : i + 1], changed[:, : i + 1])
    assert np.all(np.abs(out - changed)[:, i + 1 :].max((0, 2, 3)) > 0)
    row = jnp.zeros(v.shape).at[:, i].set(1)
    _, dq, dk, dv = oracle.value_and_grads(attend, row, q, k, v)
    assert not np.any(dq[:, i + 1 :]) and not np.any(dq[:, :i])
    assert not np.any(dk[:, i + 1 :]) and not np.any(dv[:, i + 1 :])
    assert np.any(dv[:, i])


@built_in
@causal_or_not
def test_examples_and_heads_do_not_mix(name, causal):
  q, k, v = oracle.inputs(4, 9, h=3)
  mask = jnp.asarray(oracle.masks(9))
  attend = jax.jit(partial(ATTENTION[name].attend, causal=causal))
  out = attend(q, k, v, mask=mask)
  batch, heads = np.array([2, 0, 3, 1]), np.array([1, 2, 0])
  swapped = attend(*(x[batch][:, :, heads] for x in (q, k, v)), mask=mask[batch])
  np.testing.assert_array_equal(out[batch][:, :, heads], swapped)
  changed = attend(*(x.at[1, :, 2].multiply(-1e3) for x in (q, k, v)), mask=mask)
  same = np.ones(out.shape, bool)
  same[1, :, 2] = False
  np.testing.assert_array_equal(out[same], changed[same])
  assert np.any(out[1, :, 2] != changed[1, :, 2])


@built_in
@causal_or_not
@pytest.mark.parametrize("dtype, tolerance", [("float32", 2e-5), ("bfloat16", 3e-2)])
def test_low_precision(name, causal, dtype, tolerance):
  n = 100
  low = oracle.inputs(4, n, d=16, e=16, dtype=dtype)
  mask = jnp.asarray(oracle.masks(n))
  out = jax.jit(partial(ATTENTION[name].attend, causal=causal))(*low, mask=mask)
  assert out.dtype == dtype
  with jax.enable_x64(True):
    high = (x.astype("float64") for x in low)
    high = jax.jit(partial(dense, name, causal=causal))(*high, mask=mask)
  oracle.assert_close(out, high, tolerance)


@built_in
def test_jit_vmap_and_eager_agree(name):
  q, k, v = (x.reshape(2, 4, *x.shape[1:]) for x in oracle.inputs(8, 9))
  mask = jnp.asarray(oracle.masks(9))
  attend = lambda q, k, v: ATTENTION[name].attend(q, k, v, mask=mask)
  eager = np.stack([attend(*one) for one in zip(q, k, v, strict=True)])
  oracle.assert_close(jax.jit(attend)(q[0], k[0], v[0]), eager[0], 1e-6)
  oracle.assert_close(jax.jit(jax.vmap(attend))(q, k, v), eager, 1e-6)


def extreme(dtype, n):
  """Every combination of magnitudes for q, k and v, as random numbers and as signs: [2 * 216 n 1 d]."""
  magnitudes = np.array(list(itertools.product(MAGNITUDES, repeat=3)))  # [216, 3]
  rng = np.random.default_rng(0)
  qkv = []
  for magnitude in magnitudes.T:
    x = rng.uniform(-1, 1, (len(magnitude), n, 1, 4))
    x = np.concatenate([x, np.sign(x)]) * np.tile(magnitude, 2)[:, None, None, None]
    qkv.append(jnp.asarray(x, dtype))
  return qkv


@every_mechanism
@causal_or_not
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_finite_for_any_finite_input(name, causal, dtype):
  q, k, v = extreme(dtype, 9)
  for x in (q, k, v):
    assert np.all(np.isfinite(x)) and np.abs(x).max() > 2.9e38
  mask = jnp.asarray(np.tile(oracle.masks(9), (len(q) // 4, 1)))
  attend = jax.jit(partial(ATTENTION[name].attend, causal=causal))
  for some in (mask, jnp.ones_like(mask)):
    out = attend(q, k, v, mask=some)
    assert np.all(np.isfinite(out))
    bound = np.abs(v.astype("float32")).max((1, 2, 3), keepdims=True)  # rows are averages of values
    assert np.all(np.abs(out.astype("float32")) <= 1.05 * bound)


@built_in
@causal_or_not
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_gradients_are_finite_for_constant_input(name, causal, dtype):
  q, k, v = oracle.inputs(4, 9, dtype=dtype)
  mask = jnp.asarray(oracle.masks(9))

  @jax.jit
  def run(*qkv):
    attend = partial(ATTENTION[name].attend, mask=mask, causal=causal)
    return oracle.value_and_grads(attend, v, *qkv)

  for value in (0.0, -300.0, 300.0):
    for arguments in ((jnp.full_like(q, value), k), (q, jnp.full_like(k, value))):
      assert all(np.all(np.isfinite(x)) for x in run(*arguments, v))


@every_mechanism
def test_options_are_the_keywords_of_attend(name, monkeypatch):
  monkeypatch.setattr(models.attention, "ATTENTION", ATTENTION)
  assert not {"q", "k", "v", "mask", "causal", "dropout_key"} & set(options(name))
  q, k, v = oracle.inputs(1, 3)
  parameters = inspect.signature(ATTENTION[name].attend).parameters
  given = {option: parameters[option].default for option in options(name)}
  assert inspect.Parameter.empty not in given.values()
  np.testing.assert_array_equal(
    jax.jit(ATTENTION[name].attend)(q, k, v),
    jax.jit(partial(ATTENTION[name].attend, **given))(q, k, v),
  )


def test_unknown_mechanism_is_named_beside_those_there_are(monkeypatch):
  monkeypatch.setattr(models.attention, "ATTENTION", ATTENTION)
  with pytest.raises(KeyError, match=f"'nope'.*{', '.join(MECHANISMS)}"):
    options("nope")
