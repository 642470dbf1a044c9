"""The encoder, its heads and `build`."""

import importlib
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

import oracle
from models import heads
from models.attention import ATTENTION
from models.encoder import POSITIONS, lookup, sinusoids

every_mechanism = pytest.mark.parametrize("attention", sorted(ATTENTION))
CONFIG = {
  "attention": "cosformer",
  "attention_options": {},
  "num_layers": 1,
  "num_heads": 2,
  "emb_dim": 12,
  "embedding_std": 1.0,
  "qkv_dim": 8,
  "mlp_dim": 10,
  "dropout": 0.0,
  "positions": "sinusoidal",
  "cls": True,
  "pooling": "first",
  "interaction": "nli",
  "zero_is_padding": False,
}
LENGTHS = np.array([[16], [1], [9]])


def build(max_length=16, dtype="float32", side=None, **config):
  sizes = {"vocab_size": 50, "num_classes": 3, "max_length": max_length, "side": side}
  return heads.build(CONFIG | config, **sizes, dtype=jnp.dtype(dtype))


def batch(n=16, lengths=LENGTHS, seed=0):
  """Random ids 1..49, 0 past the lengths."""
  ids = np.random.default_rng(seed).integers(1, 50, (*lengths.shape, 64))[..., :n]
  return jnp.asarray(np.where(np.arange(n) < lengths[..., None], ids, 0)), jnp.asarray(lengths)


def parameters(model, ids, lengths):
  """Random parameters, none of them zero."""
  shapes = jax.eval_shape(partial(model.init, train=False), jax.random.key(0), ids, lengths)
  flat = traverse_util.flatten_dict(shapes)
  rng = np.random.default_rng(1)
  flat = {
    name: jnp.asarray((name[-1] == "scale") + 0.3 * rng.normal(size=x.shape), x.dtype)
    for name, x in flat.items()
  }
  return traverse_util.unflatten_dict(flat)


@every_mechanism
@pytest.mark.parametrize(
  "cls, pooling, positions, streams",
  [
    (True, "first", "sinusoidal", 1),
    (True, "masked_mean", "learned", 1),
    (False, "first", "sinusoidal", 2),
    (False, "masked_mean", "none", 1),
  ],
)
def test_padding_does_not_change_logits(attention, cls, pooling, positions, streams):
  options = {"attention": attention, "cls": cls, "pooling": pooling, "positions": positions}
  model = build(64, **options)
  lengths = np.concatenate([LENGTHS, LENGTHS[::-1]], 1)[:, :streams]
  ids, lengths = batch(16, lengths)
  params = parameters(model, ids, lengths)
  run = jax.jit(partial(model.apply, train=False))
  logits = run(params, ids, lengths)
  assert logits.shape == (3, 3) and logits.dtype == "float32"
  longer = jnp.pad(ids, ((0, 0), (0, 0), (0, 21)), constant_values=7)
  oracle.assert_close(run(params, longer, lengths), logits, 1e-5)
  changed = run(params, ids.at[:, :, 0].set(3), lengths)
  assert np.all(np.abs(changed - logits).max(1) > 1e-4)


LOCAL = [  # mechanism, its options, what else the layer does
  ("cosformer", {"reweight": "multiscale", "frequencies": "learned"}, {"convolution": 5}),
  ("cosformer", {"reweight": "decay", "rope": True}, {"convolution": 4, "output_norm": True}),
  ("cosformer", {"reweight": "cos2d"}, {"output_norm": True}),
  ("linear", {"rope": True}, {"convolution": 3}),
  ("softmax", {}, {"convolution": 5, "output_norm": True}),
]


@pytest.mark.parametrize("attention, options, layer", LOCAL)
def test_padding_does_not_change_logits_with_neighbours(attention, options, layer):
  exact = {"cls": False, "pooling": "masked_mean", "side": 8}
  model = build(64, attention=attention, attention_options=options, **exact, **layer)
  ids, lengths = batch(16)
  params = parameters(model, ids, lengths)
  run = jax.jit(partial(model.apply, train=False))
  longer = jnp.pad(ids, ((0, 0), (0, 0), (0, 5)), constant_values=7)
  oracle.assert_close(run(params, longer, lengths), run(params, ids, lengths), 1e-5)


@pytest.mark.parametrize("attention, options, layer", LOCAL)
def test_every_parameter_learns(attention, options, layer):
  exact = {"cls": False, "pooling": "masked_mean", "side": 8}
  model = build(64, attention=attention, attention_options=options, **exact, **layer)
  ids, lengths = batch(16)
  params = parameters(model, ids, lengths)
  loss = lambda params: jnp.sin(model.apply(params, ids, lengths, train=False)).sum()
  own = traverse_util.flatten_dict(params["params"]["encoder"]["block0"]["attention"], sep="/")
  layer = {key for key, value in layer.items() if value}
  mechanism = {"decay": {"log_rate"}, "multiscale": {"reach"}}.get(options.get("reweight"), set())
  assert own.keys() == {f"{x}/kernel" for x in ("query", "key", "value", "out")} | layer | mechanism
  gradients = jax.jit(jax.grad(loss))(params)["params"]["encoder"]["block0"]["attention"]
  assert all(np.any(gradients[name]) for name in layer | mechanism)


def test_row_column_positions_tell_pixels_apart():
  for cls in (False, True):
    model = build(positions="row_column", pooling="masked_mean", cls=cls)
    ids, lengths = batch(16, np.full((1, 1), 16))
    params = parameters(model, ids, lengths)
    run = jax.jit(partial(model.apply, train=False))
    turned = ids.reshape(4, 4).T.reshape(1, 1, 16)
    assert np.abs(run(params, turned, lengths) - run(params, ids, lengths)).max() > 1e-4
    names = params["params"]["encoder"]
    assert names["rows"].shape == (4, 1, 12) and names["columns"].shape == (1, 4, 12)
    with pytest.raises(ValueError, match="square"):
      model.apply(params, ids[..., :9], lengths, train=False)


def test_without_positions_order_does_not_matter():
  model = build(positions="none", attention="softmax", pooling="masked_mean", cls=False)
  ids, lengths = batch(16, np.full((2, 1), 16))
  params = parameters(model, ids, lengths)
  run = jax.jit(partial(model.apply, train=False))
  oracle.assert_close(run(params, ids[..., ::-1], lengths), run(params, ids, lengths), 1e-5)


def test_sinusoids():
  table = sinusoids(9, 7)
  for position, channel in ((0, 0), (0, 1), (5, 0), (5, 3), (8, 6)):
    angle = position / 10000 ** ((channel - channel % 2) / 7)
    expected = np.cos(angle) if channel % 2 else np.sin(angle)
    assert table[position, channel] == pytest.approx(expected, abs=1e-6)


def test_poolings():
  rng = np.random.default_rng(0)
  x = rng.normal(size=(3, 5, 4)).astype("float32")
  mask = np.arange(5) < np.array([[5], [2], [0]])
  first, mean, masked = (
    heads.POOLING[name](jnp.asarray(x), jnp.asarray(mask))
    for name in ("first", "mean", "masked_mean")
  )
  np.testing.assert_array_equal(first, x[:, 0])
  np.testing.assert_allclose(mean, x.mean(1), atol=1e-6)
  np.testing.assert_allclose(masked, [x[0].mean(0), x[1, :2].mean(0), 0 * x[2, 0]], atol=1e-6)


def test_cls_is_masked_as_the_first_token_is():
  encoder = build().encoder
  ids, _ = batch()
  ids = jnp.repeat(ids[:1, 0], 2, 0)
  mask = jnp.arange(16) >= jnp.array([[0], [1]])
  params = parameters(encoder, ids, mask)
  x, wider = jax.jit(partial(encoder.apply, train=False))(params, ids, mask)
  assert x.shape == (2, 17, 12)
  np.testing.assert_array_equal(wider, np.concatenate([mask[:, :1], mask], 1))


def test_two_streams_share_the_encoder_and_meet_in_the_features():
  rng = np.random.default_rng(0)
  u, v = rng.normal(size=(2, 3, 4))
  assert np.array_equal(np.concatenate(heads.INTERACTION["concat"](u, v), 1), np.hstack([u, v]))
  nli = np.concatenate(heads.INTERACTION["nli"](u, v), 1)
  assert np.array_equal(nli, np.hstack([u, v, u * v, u - v]))
  ids, lengths = batch(16, np.array([[16, 5], [9, 16]]))
  for interaction, width in (("concat", 24), ("nli", 48)):
    model = build(interaction=interaction)
    params = parameters(model, ids, lengths)
    assert params["params"]["head0"]["kernel"].shape == (width, 10)
    assert params["params"]["head1"]["kernel"].shape == (10, 5)
    run = jax.jit(partial(model.apply, train=False))
    same = jnp.repeat(ids[:, :1], 2, 1)
    swapped = run(params, ids[:, ::-1], lengths[:, ::-1])
    assert np.abs(swapped - run(params, ids, lengths)).max() > 1e-4
    twins = run(params, same, jnp.repeat(lengths[:, :1], 2, 1))
    oracle.assert_close(run(params, same[:, ::-1], jnp.repeat(lengths[:, :1], 2, 1)), twins, 1e-6)


def compacted(ids, cut):
  """ids [b s n] without zeros, padded to `cut`; lengths and positions."""
  order = np.argsort(ids == 0, axis=-1, kind="stable")
  lengths = (ids > 0).sum(-1)
  real = np.arange(ids.shape[-1]) < lengths[..., None]
  assert lengths.max() < cut
  return np.take_along_axis(ids, order, -1)[..., :cut], lengths, (order * real)[..., :cut]


@pytest.mark.parametrize(
  "attention, options, positions, layer",
  [(name, {}, "learned", {}) for name in sorted(ATTENTION)]
  + [("cosformer", {"length": 40}, "learned", {}), ("softmax", {"block": 64}, "sinusoidal", {})]
  + [("cosformer", {}, positions, {}) for positions in POSITIONS if positions != "learned"]
  + [(attention, options, "learned", layer) for attention, options, layer in LOCAL],
)
def test_masked_pixels_need_not_be_computed(attention, options, positions, layer):
  model = build(
    max_length=36,
    attention=attention,
    attention_options=options,
    num_layers=1 + (positions == "none"),
    positions=positions,
    cls=False,
    pooling="masked_mean",
    zero_is_padding=True,
    side=6,
    **layer,
  )
  assert model.ignores_zeros
  params = parameters(model, jnp.ones((4, 1, 36), int), jnp.full((4, 1), 36))

  @jax.jit
  def logits_and_gradients(*inputs):
    return jax.value_and_grad(
      lambda params: (out := model.apply(params, *inputs, train=False), jnp.sin(out).sum())[::-1],
      has_aux=True,
    )(params)

  for seed in range(2):
    rng = np.random.default_rng(seed)
    ids = rng.integers(1, 50, (4, 1, 36)) * (rng.random((4, 1, 36)) < rng.random((4, 1, 1)) ** 2)
    ids[1] = 0  # an image that is black
    ids[2, 0, :5], ids[2, 0, -1] = 0, 1
    whole = logits_and_gradients(ids, np.full((4, 1), 36))
    oracle.assert_close(logits_and_gradients(*compacted(ids, 33)), whole, 2e-5)


@pytest.mark.parametrize(
  "config",
  [
    {"zero_is_padding": False},
    {"cls": True},
    {"pooling": "mean"},
    {"pooling": "first"},
    {"attention_options": {"lra_padding": True}},
  ],
)
def test_zeros_stay_where_something_sees_them(config):
  exact = {"cls": False, "pooling": "masked_mean", "zero_is_padding": True}
  assert build(**exact).ignores_zeros and not build(**exact | config).ignores_zeros


def test_tokens_are_not_left_out_beside_cls():
  with pytest.raises(ValueError, match="without CLS"):
    build().init(jax.random.key(0), *batch(), batch()[0], train=False)


def test_a_zero_is_a_value_unless_it_is_padding():
  """Black pixels: the mask comes from the length, or from the ids where the published code does."""
  ids, lengths = batch(16, np.full((1, 1), 16))
  ids = ids.at[0, 0, 5].set(0)
  for zero_is_padding in (False, True):
    model = build(zero_is_padding=zero_is_padding, pooling="masked_mean", attention="linear")
    params = parameters(model, ids, lengths)
    run = jax.jit(partial(model.apply, train=False))
    before = run(params, ids, lengths)
    embed = params["params"]["encoder"]["embed"]
    embed["embedding"] = embed["embedding"].at[0].multiply(-2)
    difference = np.abs(run(params, ids, lengths) - before).max()
    assert difference < 1e-6 if zero_is_padding else difference > 1e-4


@every_mechanism
def test_dropout_acts_in_training_only(attention):
  model = build(dropout=0.5, attention=attention)
  ids, lengths = batch()
  params = parameters(model, ids, lengths)
  run = jax.jit(model.apply, static_argnames="train")
  one, two = ({"dropout": jax.random.key(i)} for i in range(2))
  trained = run(params, ids, lengths, train=True, rngs=one)
  np.testing.assert_array_equal(trained, run(params, ids, lengths, train=True, rngs=one))
  assert np.any(trained != run(params, ids, lengths, train=True, rngs=two))
  evaluated = run(params, ids, lengths, train=False)
  np.testing.assert_array_equal(
    evaluated, jax.jit(partial(build(attention=attention).apply, train=False))(params, ids, lengths)
  )
  assert np.any(trained != evaluated)


def test_dropout_of_weights_acts_in_training_only():
  model = build(attention="softmax", attention_options={"dropout": 0.5})
  ids, lengths = batch()
  params = parameters(model, ids, lengths)
  run = jax.jit(model.apply, static_argnames="train")
  one, two = ({"dropout": jax.random.key(i)} for i in range(2))
  trained = run(params, ids, lengths, train=True, rngs=one)
  assert np.any(trained != run(params, ids, lengths, train=True, rngs=two))
  plain = jax.jit(partial(build(attention="softmax").apply, train=False))(params, ids, lengths)
  np.testing.assert_array_equal(run(params, ids, lengths, train=False), plain)


@every_mechanism
def test_bfloat16_activations(attention):
  ids, lengths = batch()
  low, high = build(dtype="bfloat16", attention=attention), build(attention=attention)
  params = parameters(high, ids, lengths)
  initial = jax.eval_shape(partial(low.init, train=False), jax.random.key(0), ids, lengths)
  assert {p.dtype.name for p in jax.tree.leaves(initial)} == {"float32"}
  logits = jax.jit(partial(low.apply, train=False))(params, ids, lengths)
  assert logits.dtype == "float32"
  exact = jax.jit(partial(high.apply, train=False))(params, ids, lengths)
  oracle.assert_close(logits, exact, 0.1)


@pytest.mark.parametrize(
  "config, error, text",
  [
    ({"attention": "nope"}, KeyError, "nope"),
    ({"attention_options": {"dropout": 0.1}}, ValueError, "no option dropout; it has length"),
    (
      {"attention": "softmax", "attention_options": {"rope": True}},
      ValueError,
      "linear and cosfor",
    ),
    (
      {"attention_options": {"reweight": "cos2d"}},
      ValueError,
      "image, pathfinder, pathx and cls=F",
    ),
    ({"convolution": 1}, ValueError, "a width of 2 to 9 tokens, not 1"),
    ({"num_heads": 3}, ValueError, "qkv_dim 8 is not a multiple of num_heads 3"),
    ({"pooling": "nope"}, ValueError, "nope.*first, mean, masked_mean"),
    ({"interaction": "nope"}, ValueError, "nope.*concat, nli"),
    ({"positions": "nope"}, ValueError, f"nope.*{', '.join(POSITIONS)}"),
    ({"nope": 1}, TypeError, "nope"),
  ],
)
def test_mistakes(config, error, text):
  with pytest.raises(error, match=text):
    model = build(**config)
    jax.eval_shape(partial(model.init, train=False), jax.random.key(0), *batch())


def test_options_left_at_none_are_the_mechanism_s():
  ids, lengths = batch()
  given = build(attention_options={"reweight": "cos", "feature_map": None, "dropout": None})
  params = parameters(given, ids, lengths)
  run = lambda model: jax.jit(partial(model.apply, train=False))(params, ids, lengths)
  np.testing.assert_array_equal(run(given), run(build()))
  assert np.any(run(build(attention_options={"reweight": "none"})) != run(build()))


# task, vocabulary, classes, length, streams -> parameters by mechanism
OFFICIAL = [
  ("listops", 17, 10, 2000, 1, {"softmax": 8_948_746, "linear": 8_948_746}),
  ("text", 257, 2, 1000, 1, {"softmax": 3_486_722, "linear": 3_486_722}),
  ("retrieval", 257, 2, 4000, 2, {"softmax": 1_087_618, "linear": 1_087_618}),
  ("image", 256, 10, 1024, 1, {"softmax": 248_458, "linear": 248_458}),
  ("pathfinder", 256, 2, 1024, 1, {"softmax": 26_530, "linear": 116_098}),
]


def official(task, attention, vocab_size, num_classes, length, streams, **changes):
  """Shapes of the parameters and a function that makes them."""
  module = importlib.import_module(f"configs.lra.{task}_{attention}")
  config = module.get_config("official").model.to_dict() | changes
  config.pop("dtype")
  model = heads.build(
    config,
    vocab_size=vocab_size,
    num_classes=num_classes,
    max_length=length,
    dtype=jnp.dtype("float32"),
  )

  def init(key):
    ids = jnp.ones((1, streams, length), int)
    return model.init(key, ids, jnp.full((1, streams), length), train=False)["params"]

  return jax.eval_shape(init, jax.random.key(0)), init


@pytest.mark.parametrize("task, vocabulary, classes, length, streams, counts", OFFICIAL)
def test_official_presets_have_the_published_number_of_parameters(
  task, vocabulary, classes, length, streams, counts
):
  for attention, count in counts.items():
    shapes, _ = official(task, attention, vocabulary, classes, length, streams)
    assert sum(x.size for x in jax.tree.leaves(shapes)) == count


def test_names_shapes_and_initial_values():
  """Distributions as in the published code: mean and standard deviation within sampling error."""
  _, init = official("image", "softmax", 256, 10, 1024, 1)
  params = traverse_util.flatten_dict(jax.jit(init)(jax.random.key(0)), sep="/")
  xavier = lambda fan_in, fan_out: np.sqrt(2 / (fan_in + fan_out))
  block, w = "encoder/block0", 128
  expected = {  # shape, mean, standard deviation
    "encoder/embed/embedding": ((256, w), 0, 1),
    "encoder/cls": ((w,), 0, 0),
    "encoder/positions": ((1025, w), 0, 0.02),
    f"{block}/norm1/scale": ((w,), 1, 0),
    f"{block}/norm1/bias": ((w,), 0, 0),
    f"{block}/attention/query/kernel": ((w, 64), 0, xavier(w, 64)),
    f"{block}/attention/key/kernel": ((w, 64), 0, xavier(w, 64)),
    f"{block}/attention/value/kernel": ((w, 64), 0, xavier(w, 64)),
    f"{block}/attention/out/kernel": ((64, w), 0, xavier(64, w)),
    f"{block}/norm2/scale": ((w,), 1, 0),
    f"{block}/norm2/bias": ((w,), 0, 0),
    f"{block}/mlp/up/kernel": ((w, w), 0, xavier(w, w)),
    f"{block}/mlp/up/bias": ((w,), 0, 1e-6),
    f"{block}/mlp/down/kernel": ((w, w), 0, xavier(w, w)),
    f"{block}/mlp/down/bias": ((w,), 0, 1e-6),
    "encoder/norm/scale": ((w,), 1, 0),
    "encoder/norm/bias": ((w,), 0, 0),
    "head0/kernel": ((w, w), 0, w**-0.5),
    "head0/bias": ((w,), 0, 0),
    "logits/kernel": ((w, 10), 0, w**-0.5),
    "logits/bias": ((10,), 0, 0),
  }
  assert params.keys() == expected.keys()
  for name, (shape, mean, deviation) in expected.items():
    x = np.asarray(params[name], np.float64)
    assert x.shape == shape, name
    assert abs(x.mean() - mean) <= 5 * deviation / np.sqrt(x.size), name
    assert abs(x.std() - deviation) <= 5 * deviation / np.sqrt(2 * x.size), name
    uniform = "block0" in name and name.endswith("kernel")
    assert not uniform or abs(x).max() <= np.sqrt(3) * deviation * 1.0001, name


@pytest.mark.parametrize("backend", ["cpu", "gpu"])
def test_gradient_of_the_embedding_sums_over_tokens(monkeypatch, backend):
  monkeypatch.setattr(jax, "default_backend", lambda: backend)
  rng = np.random.default_rng(0)
  table = jnp.asarray(rng.normal(size=(7, 3)), "float32")
  ids = jnp.asarray(rng.integers(0, 7, (4, 9)))
  cotangent = jnp.asarray(rng.normal(size=(4, 9, 3)), "float32")
  out, back = jax.vjp(lambda table: lookup(table, ids), table)
  np.testing.assert_array_equal(out, table[ids])
  expected = np.zeros((7, 3))
  np.add.at(expected, ids, cotangent)
  oracle.assert_close(back(cotangent)[0], expected, 1e-6)
  scatters = "scatter" in str(jax.make_jaxpr(back)(cotangent))
  assert scatters == (backend == "cpu")
