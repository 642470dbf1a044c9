"""The encoder, its heads and `build`."""

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
from small_model import LENGTHS, LOCAL, batch, build, parameters

every_mechanism = pytest.mark.parametrize("attention", sorted(ATTENTION))


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
