"""What may stand in the place of cosFormer's cosine, and rotary positions, against their formulas."""

import inspect
import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import oracle
from models.attention import ATTENTION, cosformer, parameters

SIDE = 6
VARIANTS = {  # mechanism and what its attend is given
  "multiscale": ("cosformer", {"reweight": "multiscale", "frequencies": "learned"}),
  "cos2d": ("cosformer", {"reweight": "cos2d", "side": SIDE}),
  "decay": ("cosformer", {"reweight": "decay", "chunk": 8}),
  "cos and rope": ("cosformer", {"rope": True}),
  "decay and rope": ("cosformer", {"reweight": "decay", "rope": True, "chunk": 8}),
  "linear and rope": ("linear", {"rope": True}),
}
every_variant = pytest.mark.parametrize("name", VARIANTS)
causal_or_not = pytest.mark.parametrize("causal", [False, True])


def attend_of(name, form="attend"):
  """`attend` of a variant, or `weights` times values."""
  mechanism, given = VARIANTS[name]
  module = ATTENTION[mechanism]
  if form == "attend":
    return partial(module.attend, **given)
  known = inspect.signature(module.weights).parameters
  weights = partial(module.weights, **{k: x for k, x in given.items() if k in known})
  return lambda q, k, v, **more: jnp.einsum("bhnm,bmhe->bnhe", weights(q, k, **more), v)


def learned_of(name, h):
  """Parameters of a variant, other than at the start."""
  mechanism, given = VARIANTS[name]
  starts = parameters(mechanism, h, given)
  return {key: start(jax.random.key(0)) + 0.3 for key, start in starts.items()}


def between(name, i, j, length, learned, h):
  """The re-weighting of a variant by its formula, for lengths [b]: [#b #h n m]."""
  i, j = i[:, None], j[None, :]
  length = jnp.asarray(length)[:, None, None, None]
  reweight = VARIANTS[name][1].get("reweight", "cos" if name.startswith("cos") else "none")
  if reweight == "cos":
    return jnp.cos(jnp.pi / 2 * (jnp.minimum(i, length) - jnp.minimum(j, length)) / length)
  if reweight == "cos2d":
    rows, columns = (i // SIDE - j // SIDE), (i % SIDE - j % SIDE)
    return jnp.cos(jnp.pi * rows / 2 / SIDE) * jnp.cos(jnp.pi * columns / 2 / SIDE)
  if reweight == "multiscale":
    share = learned["reach"][:, None, None]
    return (1 + jnp.cos(jnp.pi * (i - j) / (length**share * 4 ** (1 - share)))) / 2
  if reweight == "decay":
    return jnp.exp(-jnp.exp(learned["log_rate"])[:, None, None] * abs(i - j))
  return jnp.ones((1, 1, 1, 1))


@every_variant
@pytest.mark.parametrize("n, m, causal", [(33, 33, False), (20, 33, True)])
def test_values_and_gradients(x64, name, n, m, causal):
  """Both forms against the formula; gradients of what is learned, too."""
  mask, qkv = oracle.masks(m), oracle.inputs(4, n, m, d=5)
  lengths = [max([1 if n == m else n, *(np.flatnonzero(row) + 1)]) for row in mask]
  learned = {"parameters": p} if (p := learned_of(name, 2)) else {}
  cotangent = np.cos(np.arange(4 * n * 2 * 3)).reshape(4, n, 2, 3)

  def formula(q, k, v, learned):
    w = between(name, jnp.arange(n), jnp.arange(m), lengths, learned.get("parameters"), 2)
    linear = VARIANTS[name][0] == "linear"
    how = {"feature_map": "elu1", "add": True} if linear else {}
    rope = "rope" in name
    return oracle.reweighted(q, k, v, w, mask, causal, rope=rope, **how)

  def form(form, q, k, v, learned):
    return attend_of(name, form)(q, k, v, mask=jnp.asarray(mask), causal=causal, **learned)

  @jax.jit
  def run(*inputs):
    forms = (formula, partial(form, "attend"), partial(form, "weights"))
    return [oracle.value_and_grads(f, cotangent, *inputs) for f in forms]

  expected, *others = run(*qkv, learned)
  for other in others:
    oracle.assert_close(other, expected, 1e-10)


@pytest.mark.parametrize(
  "name, causal", [*((name, False) for name in VARIANTS), ("decay", True), ("cos and rope", True)]
)
def test_masked_tokens_can_be_left_out(x64, name, causal):
  """With the positions of the others nothing changes for them, neither values nor gradients."""
  q, k, v = oracle.inputs(3, 33)
  mask = np.random.default_rng(1).random((3, 33)) < [[0.3], [0.6], [1.0]]
  mask[0, :12] = mask[1, -3:] = False
  order = np.argsort(~mask, axis=1, kind="stable")
  keep = mask.sum(1).max()
  real = jnp.asarray(np.arange(keep) < mask.sum(1)[:, None])
  order = jnp.asarray(order[:, :keep])
  attend = partial(attend_of(name), causal=causal)

  def cut(x):
    return jnp.where(real[..., None, None], jnp.take_along_axis(x, order[..., None, None], 1), 0)

  def short(q, k, v):
    out = attend(*map(cut, (q, k, v)), mask=real, positions=order * real)
    return jnp.where(real[..., None, None], out, 0)

  def whole(q, k, v):
    return cut(attend(q, k, v, mask=jnp.asarray(mask)))

  cotangent = jnp.cos(jnp.arange(3 * keep * 2 * 3)).reshape(3, keep, 2, 3)
  run = jax.jit(lambda *a: [oracle.value_and_grads(f, cotangent, *a) for f in (short, whole)])
  actual, expected = run(q, k, v)
  oracle.assert_close(actual, expected, 1e-10)


@every_variant
@pytest.mark.parametrize(
  "causal, dtype, tolerance", [(True, "float32", 2e-5), (False, "bfloat16", 4e-2)]
)
def test_low_precision_and_masked_keys(name, causal, dtype, tolerance):
  """Close to float64, and to the bit the same whatever stands at masked keys."""
  n = 33
  q, k, v = low = oracle.inputs(4, n, d=16, e=16, dtype=dtype)
  mask = jnp.asarray(oracle.masks(n))
  pad = ~mask[:, :, None, None]
  run = jax.jit(
    lambda *a: oracle.value_and_grads(
      partial(attend_of(name), mask=mask, causal=causal), jnp.ones(v.shape), *a
    )
  )
  out, *gradients = run(q, k, v)
  assert out.dtype == dtype and not np.any(out[3])
  again = run(q, jnp.where(pad, 1e30, k), jnp.where(pad, -1e30, v))
  for before, after in zip((out, *gradients), again, strict=True):
    np.testing.assert_array_equal(before, after)
  with jax.enable_x64(True):
    high = (x.astype("float64") for x in low)
    high = jax.jit(partial(attend_of(name, "weights"), causal=causal))(*high, mask=mask)
  oracle.assert_close(out, high, tolerance)


@every_variant
def test_finite_for_any_finite_input(name):
  """Magnitudes from 1e-30 to 3e38, constants, and parameters out of all proportion."""
  magnitudes = np.array(list(itertools.product((1e-30, 1.0, 1e15, 3e38), repeat=3)))
  rng = np.random.default_rng(0)
  q, k, v = (
    jnp.asarray(rng.uniform(-1, 1, (64, 9, 1, 4)) * m[:, None, None, None], "float32")
    for m in magnitudes.T
  )
  mask = jnp.asarray(np.tile(oracle.masks(9), (16, 1)))
  causal = "rope" in name
  ones = jnp.ones_like(q)

  @jax.jit
  def run(learned, *qkv):
    attend = partial(attend_of(name), mask=mask, causal=causal, **learned)
    return oracle.value_and_grads(attend, ones, *qkv)

  shapes = learned_of(name, 1)
  for value in (0.0, -1e30, 1e30) if shapes else (0.0,):
    given = {"parameters": {p: jnp.full(1, value) for p in shapes}} if shapes else {}
    assert np.all(np.isfinite(run(given, q, k, v)[0]))
    for constant in (0.0, -300.0, 300.0):
      for some in ((constant * ones, ones), (ones, constant * ones)):
        assert all(np.all(np.isfinite(x)) for x in run(given, *some, ones))


@pytest.mark.parametrize("name", [name for name in VARIANTS if name != "cos2d"] + ["none and rope"])
def test_step_by_step_is_causal_attention(x64, name):
  q, k, v = oracle.inputs(3, 21)
  mechanism, given = VARIANTS.get(name, ("cosformer", {"reweight": "none", "rope": True}))
  module, given = ATTENTION[mechanism], {k: x for k, x in given.items() if k != "chunk"}
  if mechanism == "cosformer" and given.get("reweight", "cos") in ("cos", "multiscale"):
    given["length"] = jnp.array([21, 30, 50])
  state = {k: x for k, x in given.items() if k in ("reweight", "rope")}

  @jax.jit
  def run(q, k, v):
    start = module.init_state(3, 2, 4, 3, jnp.float64, **state)
    rows = tuple(jnp.moveaxis(x, 1, 0) for x in (q, k, v))
    end, out = jax.lax.scan(lambda s, row: module.step(s, *row, **given), start, rows)
    return end.count, jnp.moveaxis(out, 0, 1), module.attend(q, k, v, causal=True, **given)

  count, out, expected = run(q, k, v)
  assert count == 21
  oracle.assert_close(out, expected, 1e-10)


@pytest.mark.parametrize(
  "name, causal", [*((name, True) for name in VARIANTS), ("decay", False), ("cos2d", False)]
)
def test_no_array_grows_faster_than_the_sequence(name, causal):
  d, largest = 32, []
  mechanism, given = VARIANTS[name]
  given = {k: x for k, x in given.items() if k != "chunk"} | (
    {"side": 64} if "side" in given else {}
  )
  for n in (1024, 4096):
    q, k, v = (jax.ShapeDtypeStruct((1, n, 1, d), "float32") for _ in range(3))
    attend = partial(ATTENTION[mechanism].attend, causal=causal, **given)
    loss = jax.grad(lambda *qkv: attend(*qkv).sum(), (0, 1, 2))  # noqa: B023
    largest.append(max(oracle.array_sizes(jax.make_jaxpr(loss)(q, k, v).jaxpr)))
  assert largest[1] < 4096 * d * d / 4
  assert largest[1] <= 4.1 * largest[0]


@causal_or_not
def test_decay_of_long_inputs_with_gaps(causal):
  """A row is an average of values, also where a million tokens are missing before the next."""
  n = 8192
  q, k, _ = (jnp.abs(x) + 0.1 for x in oracle.inputs(1, n, e=1, dtype="float32"))
  v = jnp.ones((1, n, 2, 1))
  at = jnp.arange(n)[None] + 1_000_000 * (jnp.arange(n)[None] // 1000)
  log_rate = jnp.log(jnp.array([3.0, 1e-4]))

  def total(log_rate, q, k, v):
    given = {"reweight": "decay", "positions": at, "parameters": {"log_rate": log_rate}}
    out = cosformer.attend(q, k, v, causal=causal, **given)
    return (out * jnp.cos(jnp.arange(n))[:, None, None]).sum(), out

  gradients, out = jax.jit(jax.grad(total, (0, 1, 2, 3), has_aux=True))(log_rate, q, k, v)
  np.testing.assert_allclose(out, 1, atol=1e-5)
  assert all(np.all(np.isfinite(g)) for g in gradients)


def test_chunks_of_any_size_agree(x64):
  q, k, v = oracle.inputs(4, 37)
  mask = jnp.asarray(oracle.masks(37))
  attend = partial(cosformer.attend, mask=mask, reweight="decay")
  run = jax.jit(
    lambda *a: [oracle.value_and_grads(partial(attend, chunk=c), v, *a) for c in (3, 16, 128)]
  )
  first, *others = run(q, k, v)
  for other in others:
    oracle.assert_close(other, first, 1e-12)


def test_weights_fall_with_distance():
  """On equal tokens: each head of decay at its own rate, cos2d in the picture and not in the raster."""
  ones = jnp.ones((1, SIDE * SIDE, 4, 2))
  decay = np.asarray(cosformer.weights(ones, ones, reweight="decay")[0, :, 0])
  steepness = decay[:, 1] / decay[:, 0]
  np.testing.assert_allclose(steepness, np.exp(-(2.0 ** -np.arange(2, 9, 2))), rtol=1e-5)
  square = np.asarray(cosformer.weights(ones, ones, reweight="cos2d", side=SIDE)[0, 0, 0])
  below, right, far = square[SIDE], square[1], square[SIDE - 1]
  np.testing.assert_allclose(below, right, rtol=1e-5)
  assert square[0] > right > far
  scales = np.asarray(cosformer.weights(ones, ones, reweight="multiscale")[0, :, 0])
  assert np.all(scales >= -1e-7) and np.argmin(scales[-1]) == 4 and np.argmin(scales[0]) == 35


@pytest.mark.parametrize(
  "options, text",
  [
    ({"reweight": "nope"}, "nope.*none, cos, multiscale, cos2d, decay"),
    ({"reweight": "multiscale", "frequencies": "nope"}, "nope.*geometric, learned"),
    ({"frequencies": "learned"}, "multiscale, not cos"),
    ({"reweight": "cos2d"}, "square images without CLS"),
  ],
)
def test_mistakes(options, text):
  with pytest.raises(ValueError, match=text):
    cosformer.attend(*oracle.inputs(1, 9), **options)


def test_steps_that_there_are_not():
  state = cosformer.init_state(1, 2, 4, 3, reweight="cos2d")
  row = [x[:, 0] for x in oracle.inputs(1, 1)]
  with pytest.raises(ValueError, match="cos2d has no step; cos, multiscale"):
    cosformer.step(state, *row, reweight="cos2d")
  for reweight in ("cos", "multiscale"):
    with pytest.raises(ValueError, match="needs to know M"):
      cosformer.step(state, *row, reweight=reweight)
