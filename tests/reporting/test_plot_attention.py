"""Attention pictures: the matrices are those that the model multiplied its values by."""

import functools
import json
import shutil
import sys
import types
from unittest import mock
from xml.etree import ElementTree

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from lra.reporting import attention_maps as maps
from lra.reporting.pictures import attention
from lra.runs import sealed_json, trained_run
from lra.system.errors import UserError
from models.attention import ATTENTION
from models.attention.layer import SelfAttention
from scripts import plot_attention

OPTIONS = {
  "softmax": {"block": 4},
  "linear": {"chunk": 4},
  "cosformer": {"reweight": "cos", "length": 99},
}
LAYERS = [
  *OPTIONS.items(),
  ("linear", {"rope": True}),
  ("cosformer", {"reweight": "multiscale"}),
  ("cosformer", {"reweight": "decay", "rope": True}),
  ("cosformer", {"reweight": "cos2d"}),
]


@pytest.fixture
def trained(whole, space, one_device):
  return trained_run.load(whole[0], space / "data", None, print)


def layer(attention, n=12, real=(12, 7)):
  """(module, parameters, input, mask) of a layer on a batch of two."""
  rng = np.random.default_rng(0)
  module = SelfAttention(attention, 2, 8, OPTIONS[attention], side=4)
  x = jnp.asarray(rng.normal(size=(len(real) * n, 8)), jnp.float32)
  mask = jnp.arange(n) < jnp.array(real)[:, None]
  return module, x, mask


@pytest.mark.parametrize("attention, options", LAYERS)
def test_caught_weights_make_the_output_of_the_layer(attention, options):
  module, x, mask = layer(attention)
  module = module.clone(attention_options=options, convolution=3)
  variables = jax.jit(functools.partial(module.init, train=False))(jax.random.key(0), x, mask)
  seen, mechanism = [], ATTENTION[attention]

  @functools.wraps(mechanism.attend)
  def attend(q, k, v, **options):
    seen.append((q, k, v))
    return mechanism.attend(q, k, v, **options)

  spy = types.SimpleNamespace(**vars(mechanism) | {"attend": attend})
  with mock.patch.dict("models.attention.layer.ATTENTION", {attention: spy}):
    out = module.apply(variables, x, mask, train=False)
  (call,), ours = caught(module, variables, x, mask)
  np.testing.assert_array_equal(ours, out)
  (q, k, v) = seen[0]
  np.testing.assert_array_equal(call.q, q)
  np.testing.assert_array_equal(call.k, k)
  dense = np.array([[maps.matrix(call, b, h) for h in range(2)] for b in range(2)])
  assert dense.shape == (2, 2, 12, 12)
  assert not dense[1, :, :, 7:].any()
  for b, length in enumerate((12, 7)):
    if not options.get("rope"):
      np.testing.assert_allclose(dense[b, :, :length].sum(-1), 1, atol=1e-4)
  mixed = np.einsum("bhnm,bmhe->bnhe", dense, v).reshape(len(x), -1)
  np.testing.assert_allclose(mixed @ variables["params"]["out"]["kernel"], out, atol=1e-4)


def caught(module, variables, x, mask):
  """`maps.calls` of a lone layer."""

  def apply(variables, x, mask, **options):
    out, seen = module.apply(variables, x, mask, **options)
    return out, {maps.CAUGHT: {"encoder": {"block0": {"attention": seen[maps.CAUGHT]}}}}

  fields = ("attention", "num_heads", "attention_options")
  encoder = types.SimpleNamespace(num_layers=1, **{name: getattr(module, name) for name in fields})
  model = types.SimpleNamespace(encoder=encoder, apply=apply)
  return maps.calls(model, variables["params"], x, mask)


def test_matrices_of_a_trained_run_are_the_mechanisms_weights(trained):
  ids, lengths, label = maps.example(trained, "validation", 3)
  split = trained.data.splits["validation"]
  document = split.tokens[split.offsets[3] : split.offsets[4]]
  n = len(document)
  assert lengths.tolist() == [[n]] and label == split.labels[3]
  np.testing.assert_array_equal(ids[0, 0, :n], document + trained.parts.task.id_offset)
  (call,), logits = maps.calls(trained.parts.model, trained.best.params, ids, lengths)
  expected = trained.parts.model.apply({"params": trained.best.params}, ids, lengths, train=False)
  np.testing.assert_array_equal(logits, expected)

  cls = trained.config.model.cls
  made = maps.layer(call, 0, 0, n + cls)
  weights = ATTENTION["cosformer"].weights(call.q, call.k, mask=call.mask)[0]
  weights = np.asarray(weights)[:, : n + cls, : n + cls]
  for matrix, dense in zip(made.matrices, weights, strict=True):
    np.testing.assert_allclose(matrix / (n + cls), dense, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(matrix.mean(1), 1, atol=1e-4)
  assert made.length == n + cls and len(made.profiles) == 2 and made.plain is not None


def test_the_cosine_brings_the_weight_nearer():
  module, x, mask = layer("cosformer", n=40, real=(40,))
  module = module.clone(attention_options={})
  variables = module.init(jax.random.key(0), x, mask, train=False)
  (call,), _ = caught(module, variables, x, mask)
  made = maps.layer(call, 0, 0, 40)
  far = abs(made.distances) > 30
  assert np.mean(made.profiles, 0)[far].mean() < 0.6 * made.plain[far].mean()
  near = abs(made.distances) < 10
  assert np.mean(made.profiles, 0)[near].mean() > made.plain[near].mean()


def test_block_average_and_distance_profile():
  rng = np.random.default_rng(1)
  dense = rng.random((10, 10))
  np.testing.assert_allclose(maps.block_average(dense, 10), dense)
  small = maps.block_average(dense, 4)  # blocks of 3, 3, 3, 1
  assert small.shape == (4, 4)
  np.testing.assert_allclose(small[1, 2], dense[3:6, 6:9].mean())
  np.testing.assert_allclose(small[3, 0], dense[9, :3].mean())
  real = np.arange(10) != 4
  profile = maps.distance_profile(dense, real)
  pairs = [(i, j) for i in range(10) for j in range(10) if real[i] and real[j]]
  for distance in range(-9, 10):
    values = [dense[i, j] for i, j in pairs if i - j == distance]
    np.testing.assert_allclose(profile[distance + 9], np.mean(values))
  assert maps.block_average(np.ones((1000, 1000)), maps.PIXELS).shape == (250, 250)


def script(monkeypatch, *arguments):
  monkeypatch.setattr(sys, "argv", ["plot_attention.py", *map(str, arguments)])
  return plot_attention.main()


def test_script_writes_pictures_that_open(whole, space, one_device, tmp_path, monkeypatch, capsys):
  given = (whole[0], "--data_dir", space / "data", "--out", tmp_path, "--example", 2)
  assert script(monkeypatch, *given) == 0
  picture = Image.open(tmp_path / "attention-validation-2.png")
  picture.load()
  assert min(picture.size) > 100
  assert ElementTree.parse(tmp_path / "attention-validation-2.svg").getroot().tag.endswith("svg")
  assert "cosFormer on ListOps, validation example 2" in capsys.readouterr().out


@pytest.mark.parametrize(
  "more, answer",
  [
    (("--example", 99), "--example 99: validation has 40, from 0"),
    (("--layers", 0, 1), "--layers 1: the model has layers 0 to 0"),
    (("--document", 1), "--document 1: an example of listops has 1"),
  ],
)
def test_what_is_not_there_is_one_line(whole, space, one_device, monkeypatch, more, answer):
  with pytest.raises(UserError, match=answer):
    script(monkeypatch, whole[0], "--data_dir", space / "data", *more)


def test_other_data_and_parameters_of_another_model_are_one_line(
  whole, space, one_device, tmp_path, monkeypatch
):
  run = tmp_path / "run"
  shutil.copytree(whole[0], run)
  kept = sealed_json.read(run / "environment.json")
  (run / "environment.json").write_text(json.dumps(kept | {"data": "f" * 64}))
  with pytest.raises(UserError, match="was trained on other data .ffffffffffff."):
    script(monkeypatch, run, "--data_dir", space / "data")
  config = sealed_json.read(run / "config.json")
  config["model"]["emb_dim"] = 32
  (run / "config.json").write_text(json.dumps(config))
  with pytest.raises(UserError, match="another revision. check that out$"):
    script(monkeypatch, run, "--data_dir", space / "data")


def test_run_of_an_earlier_revision_is_drawn(whole, space, one_device, tmp_path, monkeypatch):
  run = tmp_path / "run"
  shutil.copytree(whole[0], run)
  config = sealed_json.read(run / "config.json")
  del config["model"]["embedding_std"]
  (run / "config.json").write_text(json.dumps(config))
  assert script(monkeypatch, run, "--data_dir", space / "data") == 0
  assert (run / "attention-validation-0.png").exists()


@pytest.mark.parametrize("low", [0.0, -30.0])
def test_scale_shows_negative_weights(low):
  distances = np.arange(-9, 10)
  profile = np.linspace(low, 40.0, 19)
  matrix = np.linspace(low, 40.0, 100).reshape(10, 10)
  layer = maps.Layer(0, 10, [matrix] * 2, distances, [profile] * 2, None)
  figure = attention.draw([layer], "signed")
  (image,) = figure.axes[0].images
  assert (image.norm.vmin < 0) == (low < 0)
  shown = np.asarray(image.get_array())
  np.testing.assert_allclose(shown, matrix if low < 0 else np.maximum(matrix, attention.FLOOR))
  bottom, top = figure.axes[2].get_ylim()
  assert bottom <= 0.9 * low and top >= 36
  bar = [text.get_text() for text in figure.axes[-1].get_xticklabels()]
  assert ("−10" in bar) == (low < 0) == ("≤ 0.1" not in bar)


def test_run_without_checkpoint_is_one_line(whole, one_device, tmp_path, monkeypatch):
  with pytest.raises(UserError, match="is not a run"):
    script(monkeypatch, tmp_path)
  (tmp_path / "config.json").write_text((whole[0] / "config.json").read_text())
  with pytest.raises(UserError, match="has no checkpoint"):
    script(monkeypatch, tmp_path)
  (tmp_path / "checkpoints").mkdir()
  with pytest.raises(UserError, match="has no checkpoint"):
    script(monkeypatch, tmp_path)
