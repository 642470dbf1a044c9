"""Predicting tokens: what is hidden and what counts, against sums by hand; whole runs of each task."""

import json
import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tiny
from lra.data import batches, token_baselines
from lra.data.batches import Batch, Dispatch
from lra.data.tasks.task import pack
from lra.system import devices
from lra.system.errors import UserError
from lra.training import objectives, parts, setup, step
from lra.training.evaluation import Evaluator
from models import heads
from models.attention import ATTENTION
from tiny import space  # noqa: F401

# ruff: noqa: F811
MODEL = {
  "attention": "cosformer",
  "attention_options": {},
  "num_layers": 1,
  "num_heads": 2,
  "emb_dim": 8,
  "embedding_std": 1.0,
  "qkv_dim": 8,
  "mlp_dim": 8,
  "dropout": 0.0,
  "positions": "sinusoidal",
  "cls": False,
  "pooling": "masked_mean",
  "interaction": "concat",
  "zero_is_padding": False,
}
LENGTHS = np.array([[7, 3], [9, 1], [4, 9]])


def build(objective, **config):
  sizes = {"vocab_size": 12, "num_classes": 3, "max_length": 9, "dtype": jnp.dtype("float32")}
  config = MODEL | config
  if objective == "next" and config["attention"] == "cosformer":
    config["attention_options"] = {"length": 9}
  return heads.build(config, **sizes, objective=objective)


def batch(n=9, seed=0):
  """Three pairs of documents; ids 1 to 11."""
  ids = np.random.default_rng(seed).integers(1, 12, (3, 2, 9))
  ids = np.where(np.arange(9) < LENGTHS[..., None], ids, 0)
  ids = np.pad(ids, ((0, 0), (0, 0), (0, n - 9)))
  whole = jnp.ones(3)
  return Batch(
    jnp.asarray(ids), jnp.asarray(LENGTHS), None, whole.astype(int), whole, jnp.arange(3)
  )


def start(model, b):
  init = jax.jit(partial(model.init, train=False))
  params = init(jax.random.key(1), b.ids, b.lengths)["params"]
  return params, jax.jit(partial(model.apply, {"params": params}, train=False))


def one_mesh():
  return jax.make_mesh((1,), ("data",), (jax.sharding.AxisType.Auto,), devices=jax.devices()[:1])


def mean_loss(scores):
  return np.asarray(scores.loss)[np.asarray(scores.counted)].mean()


def by_hand(logits, ids, counted, shift):
  """Mean loss and accuracy over what is counted, one token at a time."""
  losses, hits = [], []
  for at in zip(*np.nonzero(counted)):
    row = np.asarray(logits[at], np.float64)
    target = int(ids[(*at[:-1], at[-1] + shift)])
    losses.append(np.log(np.exp(row).sum()) - row[target])
    hits.append(row.argmax() == target)
  return np.mean(losses), np.mean(hits)


@pytest.mark.parametrize("cls", [False, True])
def test_masked_predicts_hidden_real_tokens_and_does_not_see_them(cls):
  model, b = build("masked", cls=cls), batch()
  params, apply = start(model, b)
  scores = objectives.make("masked", model, 0.4).scores(apply, b, jax.random.key(3))
  hidden = np.asarray(scores.counted)
  assert 0 < hidden.sum() < LENGTHS.sum()
  assert not (hidden & (np.arange(9) >= LENGTHS[..., None])).any()
  logits = apply(b.ids, b.lengths, None, scores.counted)
  loss, accuracy = by_hand(logits, b.ids, hidden, 0)
  assert float(mean_loss(scores)) == pytest.approx(loss, rel=1e-5)
  measured = step.metrics_of(scores, scores.counted).compute()
  assert float(measured["loss"]) == pytest.approx(loss, rel=1e-5)
  assert float(measured["accuracy"]) == pytest.approx(accuracy)
  other = jnp.where(hidden, 1 + b.ids % 11, b.ids)  # other tokens in the hidden places
  np.testing.assert_array_equal(apply(other, b.lengths, None, scores.counted), logits)
  seen = jnp.asarray(hidden).at[0, 0, 0].set(False)
  changed = b.ids.at[0, 0, 0].set(1 + b.ids[0, 0, 0] % 11)
  assert np.any(apply(changed, b.lengths, None, seen) != apply(b.ids, b.lengths, None, seen))


@pytest.mark.parametrize("attention", sorted(ATTENTION))
def test_next_sees_the_past_alone(attention):
  model, b = build("next", attention=attention), batch()
  params, apply = start(model, b)
  scores = objectives.make("next", model, 0.15).scores(apply, b, jax.random.key(3))
  counted = np.arange(9) < LENGTHS[..., None] - 1
  np.testing.assert_array_equal(scores.counted, counted)
  logits = apply(b.ids, b.lengths, None)
  loss, _ = by_hand(logits, b.ids, counted, 1)
  assert float(mean_loss(scores)) == pytest.approx(loss, rel=1e-5)
  for at in (0, 4):
    later = apply(b.ids.at[..., at + 1 :].set(5), b.lengths, None)
    change = np.abs(later - logits)
    assert change[..., : at + 1, :].max() < 1e-5 and change[1, 0, at + 1 :].max() > 1e-3


def test_what_is_hidden_depends_on_key_example_and_place_alone():
  hide = lambda key, examples, n: np.asarray(
    objectives.hide(jax.random.key(key), jnp.array(examples), (len(examples), 2, n), 0.3)
  )
  whole = hide(0, [0, 1, 2, 3], 400)
  assert abs(whole.mean() - 0.3) < 0.03
  np.testing.assert_array_equal(hide(0, [2, 0], 100), whole[[2, 0], :, :100])
  assert abs((hide(1, [0, 1, 2, 3], 400) & whole).mean() - 0.09) < 0.03  # as if independent
  for one, other in (((0, 0), (0, 1)), ((0, 0), (1, 0)), ((1, 1), (3, 0))):
    assert abs((whole[one] & whole[other]).mean() - 0.09) < 0.06


@pytest.mark.parametrize("objective", ["masked", "next"])
def test_gradient_is_that_of_the_mean_whatever_the_parts(objective):
  model, b = build(objective), batch()
  params, _ = start(model, b)
  made, mesh = objectives.make(objective, model, 0.3), one_mesh()
  key, options = jax.random.key(5), {"run": 1, "sharding": devices.replicated(mesh)}

  def mean(params):
    apply = partial(model.apply, {"params": params}, train=True, rngs={"dropout": key})
    scores = made.scores(apply, b, jax.random.fold_in(key, 1))
    return jnp.where(scores.counted, scores.loss, 0).sum() / scores.counted.sum()

  expected = jax.jit(jax.grad(mean))(params)
  for accumulate in (1, 3):
    trainer = step.Trainer(
      model, None, None, key=key, clock=None, accumulate=accumulate, objective=made, **options
    )
    grads, scores = jax.jit(trainer._gradients)(params, b, key)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6), grads, expected)
    assert scores.loss.shape == scores.counted.shape == b.ids.shape


@pytest.mark.parametrize("objective", ["masked", "next"])
def test_evaluation_does_not_depend_on_batches(objective, monkeypatch):
  monkeypatch.setattr(parts, "CACHE_TOKENS", 50)  # of the first way's 20 x 9: four parts
  rng = np.random.default_rng(0)
  documents = [rng.integers(1, 12, n, np.uint8) for n in rng.integers(2, 10, 20)]
  mesh = one_mesh()
  split = batches.Split(pack(documents, [0] * 20), 0, 9, mesh, on_device=True)
  model = build(objective)
  params, apply = start(model, batch())
  made = objectives.make(objective, model, 0.3)
  measured = [
    Evaluator(model, split, buckets, size, made)(params)
    for buckets, size in (((9,), 20), ((5, 9), 3))
  ]
  whole = split.batch(split.arrays(Dispatch(9, np.arange(20)[None]), 1), 0, 9)
  scores = made.scores(apply, whole, objectives.evaluation_key())
  for one in measured:
    assert one["tokens"] == int(scores.counted.sum()) > 10
    assert one["loss"] == pytest.approx(float(mean_loss(scores)), rel=1e-5)
    assert one["bits_per_token"] == pytest.approx(one["loss"] / math.log(2))
    assert one["perplexity"] == pytest.approx(math.exp(one["loss"]))
    assert one["accuracy"] == measured[0]["accuracy"]
  if objective == "next":
    assert measured[0]["tokens"] == sum(len(d) - 1 for d in documents)


@pytest.mark.parametrize("zero_is_padding", [False, True])
@pytest.mark.parametrize("chunk", [2**24, 5])
def test_baselines_of_tokens(monkeypatch, zero_is_padding, chunk):
  monkeypatch.setattr(token_baselines, "CHUNK", chunk)
  documents = [b"abab", b"\0b\0ab", b"b", b"", b"aab"]
  train = pack(documents, [0] * 5)
  accuracy, bits = token_baselines.token_baselines(
    train, train, following=True, zero_is_padding=zero_is_padding
  )
  cut = [bytes(filter(None, d)) if zero_is_padding else d for d in documents]
  pairs = [(d[i], d[i + 1]) for d in cut for i in range(len(d) - 1)]
  for name, key in (("unigram", lambda pair: 0), ("bigram", lambda pair: pair[0])):
    losses, hits = [], []
    for pair in pairs:
      others = [p[1] for p in pairs if key(p) == key(pair)]
      counts = np.bincount(others, minlength=256) + 1
      losses.append(-np.log2(counts[pair[1]] / (len(others) + 256)))
      hits.append(counts.argmax() == pair[1])
    assert bits[name] == pytest.approx(np.mean(losses)) and accuracy[name] == np.mean(hits)


@pytest.mark.parametrize(
  "changes, answer",
  [
    ({"train__objective": "guess"}, "config.train.objective is one of classify, masked, next, not"),
    ({"train__objective": "next", "model__cls": True}, "set config.model.cls=False"),
    ({"task__name": "lm"}, "the texts of task lm have no classes: set config.train.objective to"),
    ({"train__mask_share": 1.0}, "config.train.mask_share must be less than 1"),
  ],
)
def test_mistakes(changes, answer):
  config = tiny.config(**changes)
  with pytest.raises(UserError, match=answer) as raised:
    setup.check_training(config)
    setup.build(config)
  assert "\n" not in str(raised.value)


@pytest.mark.parametrize("objective", ["masked", pytest.param("next", marks=pytest.mark.slow)])
def test_run_over_tokens_stops_and_continues_bit_for_bit(space, one_device, tmp_path, objective):
  options = {"train__objective": objective, "model__dropout": 0.0}
  whole, output = tiny.run(space, tmp_path / "whole", **options)
  assert "bits/token" in output and whole["objective"] == objective and not whole["plateau"]
  assert whole["test"]["bits_per_token"] == pytest.approx(whole["test"]["loss"] / math.log(2))
  assert set(whole["baselines"]) == set(whole["baseline_bits"])
  assert whole["test"]["tokens"] > 0 and whole["test"]["examples"] == 40
  lines = [m for m in tiny.metrics(tmp_path / "whole") if "validation/loss" in m]
  best = min(lines, key=lambda m: m["validation/loss"])
  assert whole["validation"]["step"] == best["step"]
  assert whole["validation"]["loss"] == best["validation/loss"]
  assert lines[-1]["validation/loss"] < lines[0]["validation/loss"]
  if objective == "next":  # what follows is the same for both
    return
  tiny.run(space, tmp_path / "cut", tiny.After(4), **options)
  again, _ = tiny.run(space, tmp_path / "cut", **options)
  assert tiny.metrics(tmp_path / "cut") == tiny.metrics(tmp_path / "whole")
  assert tiny.comparable(again) == tiny.comparable(whole)
  assert json.loads((tmp_path / "cut/config.json").read_text())["train"]["objective"] == objective
