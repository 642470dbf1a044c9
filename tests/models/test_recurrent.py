"""Token by token in a constant state, against the parallel form of the same parameters."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import oracle
from models import heads, recurrent
from models.attention import ATTENTION

CONFIG = {
  "num_layers": 2,
  "num_heads": 2,
  "emb_dim": 12,
  "embedding_std": 1.0,
  "qkv_dim": 8,
  "mlp_dim": 10,
  "dropout": 0.1,
  "cls": False,
  "pooling": "masked_mean",
  "interaction": "nli",
  "zero_is_padding": False,
}
LENGTH = 9


def build(attention, objective="next", positions="sinusoidal", layer=None, **options):
  if attention == "cosformer":
    options = {"length": LENGTH} | options
  config = CONFIG | {"attention": attention, "attention_options": options, "positions": positions}
  config |= layer or {}
  sizes = {"vocab_size": 20, "num_classes": 2, "max_length": LENGTH, "dtype": jnp.dtype("float32")}
  model = heads.build(config, **sizes, objective=objective)
  ids = jnp.asarray(np.random.default_rng(0).integers(1, 20, (3, 1, LENGTH)))
  init = jax.jit(partial(model.init, train=False))
  return model, init(jax.random.key(0), ids, jnp.full((3, 1), LENGTH))["params"], ids


@pytest.mark.parametrize(
  "attention, options",
  [
    ("softmax", {}),
    ("softmax", {"positions": "learned"}),
    ("linear", {"positions": "none"}),
    ("linear", {"positions": "row_column"}),
    ("cosformer", {}),
    ("cosformer", {"feature_map": "elu1", "reweight": "none", "positions": "learned"}),
    ("softmax", {"layer": {"convolution": 5, "output_norm": True}}),
    ("cosformer", {"layer": {"convolution": 3, "output_norm": True}}),
    ("cosformer", {"layer": {"convolution": 4}, "reweight": "decay", "rope": True}),
  ],
)
def test_steps_are_the_rows_of_the_parallel_form(attention, options):
  model, params, ids = build(attention, **options)
  recurrent.check(model, params)
  lengths = jnp.full((3, 1), LENGTH)
  expected = jax.jit(partial(model.apply, train=False))({"params": params}, ids, lengths)[:, 0]

  @jax.jit
  def run(params, ids):
    body = lambda state, token: recurrent.step(model, params, state, token)
    state, logits = jax.lax.scan(body, recurrent.init_state(model, 3), ids[:, 0].T)
    return state.count, jnp.moveaxis(logits, 0, 1)

  count, logits = run(params, ids)
  assert count == LENGTH
  oracle.assert_close(logits, expected, 1e-5)
  assert np.abs(expected[:, 1:] - expected[:, :-1]).max() > 0.1


def test_state_of_kernel_attention_does_not_grow():
  sizes = {}
  for attention in ("softmax", "linear", "cosformer"):
    for length in (10, 1000):
      model = build(attention)[0]
      model = model.clone(encoder=model.encoder.clone(max_length=length))
      state = jax.eval_shape(partial(recurrent.init_state, model, 1))
      sizes[attention, length] = sum(x.size for x in jax.tree.leaves(state))
  assert sizes["linear", 10] == sizes["linear", 1000]
  assert sizes["cosformer", 10] == sizes["cosformer", 1000]
  assert sizes["softmax", 1000] > 90 * sizes["softmax", 10]


def test_models_without_a_recurrent_form(monkeypatch):
  model, params, _ = build("linear", "masked")
  with pytest.raises(ValueError, match="only a causal model.*reads token by token"):
    recurrent.check(model, params)
  model, params, _ = build("linear")
  strange = {"encoder": {"block0": {"attention": {"gate": 0}}}}
  with pytest.raises(ValueError, match="gate of the attention layer has no recurrent step"):
    recurrent.check(model, strange)
  monkeypatch.delattr(ATTENTION["linear"], "step")
  with pytest.raises(ValueError, match="linear attention has no recurrent step"):
    recurrent.check(model, params)
