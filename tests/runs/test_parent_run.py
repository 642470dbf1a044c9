"""Starting from another run: the same encoder under a fresh head, and a record that says so."""

import json

import jax
import numpy as np
import pytest
from flax import traverse_util

import tiny
from lra.runs import parent_run, trained_run
from lra.system.errors import UserError
from tiny import space  # noqa: F401

# ruff: noqa: F811
pytestmark = pytest.mark.usefixtures("one_device")
SHORT = {"train__steps": 8, "train__eval_every": 4, "model__dropout": 0.0}


@pytest.fixture
def masked(space):
  """A finished run of the objective "masked", made once."""
  folder = space / "masked"
  if not (folder / "result.json").exists():
    tiny.run(space, folder, train__objective="masked", **SHORT)
  return folder


def flat(params):
  return {k: np.asarray(v) for k, v in traverse_util.flatten_dict(params, sep="/").items()}


def test_encoder_is_taken_and_the_head_is_fresh(space, masked, tmp_path):
  """The first checkpoint of a run without a step of learning has the parent's very numbers."""
  options = SHORT | {"optim__learning_rate": 1e-30, "optim__weight_decay": 0.0}
  result, output = tiny.run(space, tmp_path / "child", init_from=masked, **options)
  there = flat(trained_run.load_best(masked).best.params)
  here = flat(trained_run.load_best(tmp_path / "child").best.params)
  encoder = [name for name in here if name.startswith("encoder/")]
  for name in encoder:
    np.testing.assert_allclose(here[name], there[name], atol=1e-20)
  assert {n for n in there if n not in here} == {
    "encoder/mask_token",
    "tokens/kernel",
    "tokens/bias",
  }
  assert f"start: {len(encoder)} arrays of the encoder of masked (masked on listops" in output
  assert "fresh here: head0, logits; not taken: encoder, tokens" in output.replace(
    "encoder/mask_token", "encoder"
  )
  parent = result["parent"]
  assert parent["run"] == "masked" and parent["objective"] == "masked" and parent["steps"] == 8
  assert parent["data"] == {} and "parent" not in parent
  assert parent["digest"] == parent_run.digest(trained_run.load_best(masked).best.params)
  assert json.loads((tmp_path / "child/environment.json").read_text())["parent"] == parent


def test_record_names_other_data_and_the_run_before(space, masked, tmp_path):
  """A curriculum: each stage has harder data, and the last one's record has them all."""
  short = SHORT | {"task__max_length": 30}
  first, _ = tiny.run(space, tmp_path / "first", init_from=masked, **short)
  second, _ = tiny.run(space, tmp_path / "second", init_from=tmp_path / "first", **SHORT)
  parent, longest = second["parent"], tiny.config(**SHORT).task.max_length
  assert parent["run"] == "first" and parent["data"] == {"max_length": 30}
  assert parent["parent"] == first["parent"] and first["parent"]["data"] == {"max_length": longest}


def test_stopped_run_continues_and_another_parent_is_refused(space, masked, tmp_path):
  whole, _ = tiny.run(space, tmp_path / "whole", init_from=masked, **SHORT)
  plain, _ = tiny.run(space, tmp_path / "plain", **SHORT)
  assert tiny.metrics(tmp_path / "whole") != tiny.metrics(tmp_path / "plain")
  assert "parent" not in plain
  tiny.run(space, tmp_path / "cut", tiny.After(1), init_from=masked, **SHORT)
  with pytest.raises(UserError, match="was started from masked .*now it is fresh parameters"):
    tiny.run(space, tmp_path / "cut", **SHORT)
  again, _ = tiny.run(space, tmp_path / "cut", init_from=masked, **SHORT)
  assert tiny.metrics(tmp_path / "cut") == tiny.metrics(tmp_path / "whole")
  assert tiny.comparable(again) == tiny.comparable(whole)
  with pytest.raises(UserError, match="started from masked, not from fresh parameters"):
    tiny.run(space, tmp_path / "cut", **SHORT)


@pytest.mark.parametrize(
  "changes, answer",
  [
    ({"model__attention": "linear"}, "config.model.attention: there 'cosformer', here 'linear'"),
    ({"model__mlp_dim": 8}, "config.model.mlp_dim: there 16, here 8"),
    ({"task__name": "text"}, None),
  ],
)
def test_another_encoder_is_refused(masked, changes, answer):
  config = tiny.config(**SHORT | changes)
  if answer is None:  # what is pretrained on may be another task of the same vocabulary
    assert parent_run.load(masked, config).record["task"] == "listops"
    return
  with pytest.raises(UserError, match=answer) as raised:
    parent_run.load(masked, config)
  assert "\n" not in str(raised.value) and str(masked) in str(raised.value)


def test_other_shapes_are_refused():
  array = lambda *shape: jax.numpy.zeros(shape)
  parent = parent_run.Parent({"encoder": {"embed": array(17, 4)}}, {"run": "there"})
  with pytest.raises(UserError, match="encoder/embed: there 17 x 4, here 9 x 4.*vocabulary"):
    parent_run.start(parent, {"encoder": {"embed": array(9, 4)}})
  with pytest.raises(UserError, match="encoder/cls: there nothing, here 4"):
    parent_run.start(parent, {"encoder": {"embed": array(17, 4), "cls": array(4)}})


def test_unfinished_run_and_no_run_are_refused(tmp_path):
  with pytest.raises(UserError, match="is not a run.*train it there first"):
    parent_run.load(tmp_path, tiny.config())
  (tmp_path / "config.json").write_text("{}")
  with pytest.raises(UserError, match="not finished; the same train.py continues it"):
    parent_run.load(tmp_path, tiny.config())
