"""Zeros as padding: tokens that no real one sees need not be computed."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import oracle
from models.attention import ATTENTION
from models.encoder import POSITIONS
from small_model import LOCAL, batch, build, parameters


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
