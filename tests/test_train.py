"""Whole runs: what they leave behind, and what they refuse."""

import contextlib
import json
import struct
import time

import jax
import numpy as np
import pytest
from tensorboardX.proto import event_pb2

import documented
import tiny
import train
from lra.runs import sealed_json, session
from lra.system.errors import UserError
from lra.system.progress import Clock
from models.attention import ATTENTION

pytestmark = pytest.mark.usefixtures("one_device")


def test_run_leaves_a_complete_record(whole):
  folder, result, output = whole
  assert result == tiny.read_result(folder)
  assert result["task"] == "listops" and result["attention"] == "cosformer"
  assert result["steps"] == 24 and result["seed"] == 0 and result["parameters"] == 2378
  assert result["test"]["examples"] == 40 and set(result["test"]) == {
    "accuracy",
    "examples",
    "loss",
  }
  assert set(result["baselines"]) == {"majority class", "mode given the root operator"}
  assert result["data"]["origin"] == "generated" and len(result["data"]["digest"]) == 64
  assert result["time"]["examples_per_second"] > 0 and result["peak_memory_gigabytes"] > 0
  config = sealed_json.read(folder / "config.json")
  assert config == json.loads(json.dumps(tiny.config().to_dict()))
  environment = sealed_json.read(folder / "environment.json")
  assert environment["devices"] == jax.device_count() and environment["platform"] == "cpu"
  assert list(folder.glob("events.out.tfevents.*"))
  assert f"{result['test']['accuracy']:.4f} on 40 examples" in output
  for name in result["baselines"]:
    assert name in output


def test_a_log_line_is_of_the_steps_since_the_last_one(space, whole, tmp_path):
  tiny.run(space, tmp_path, train__log_every=8)
  fine, coarse = (
    [line for line in tiny.metrics(folder) if "train/loss" in line]
    for folder in (whole[0], tmp_path)
  )
  for first, second, both in zip(fine[::2], fine[1::2], coarse, strict=True):
    for key in ("train/loss", "train/accuracy"):
      assert both[key] == pytest.approx((first[key] + second[key]) / 2, rel=1e-5)


def test_waiting_for_steps_counts_as_training(space, tmp_path, monkeypatch):
  """Not as the evaluation or the checkpoint that waits for them."""
  pause, check, paused, seen = Clock.pause, session.Session.check_finite, [], []

  @contextlib.contextmanager
  def noted(clock, name):
    paused.append(name)
    with pause(clock, name):
      yield
    paused.pop()

  def waits(self):
    seen.append((self.t, *paused))
    check(self)

  monkeypatch.setattr(Clock, "pause", noted)
  monkeypatch.setattr(session.Session, "check_finite", waits)
  tiny.run(space, tmp_path, train__eval_every=6, train__steps=12)
  assert seen == [(4,), (6,), (6,), (8,), (12,), (12,), (12,)]


def test_metrics_have_a_line_for_each_log_and_evaluation(whole):
  lines = tiny.metrics(whole[0], timeless=False)
  logs = [line for line in lines if "train/loss" in line]
  evaluations = [line for line in lines if "validation/loss" in line]
  assert [line["step"] for line in logs] == [4, 8, 12, 16, 20, 24]
  assert [line["step"] for line in evaluations] == [8, 16, 24]
  assert len(lines) == len(logs) + len(evaluations)
  for line in logs:
    assert 0 < line["train/real_token_share"] <= 1 and line["time/examples_per_second"] > 0
    assert line["train/learning_rate"] == pytest.approx(2e-3 * (line["step"] - 1) / 200)
    examples = line["time/examples_per_second"] * line["time/seconds"]
    assert examples == pytest.approx(4 * 16)  # each line is of the steps since the last one
  best = max(line["validation/accuracy"] for line in evaluations)
  first = next(line["step"] for line in evaluations if line["validation/accuracy"] == best)
  assert whole[1]["validation"] == {"accuracy": best, "step": first}


def test_finished_run_is_shown_and_not_run_again(space, whole):
  before = {path: path.stat().st_mtime_ns for path in whole[0].rglob("*")}
  result, output = tiny.run(space, whole[0])
  assert result == whole[1] and "finished before: nothing was run" in output
  assert f"test accuracy   {result['test']['accuracy']:.4f}" in output
  assert before == {path: path.stat().st_mtime_ns for path in whole[0].rglob("*")}


@pytest.mark.parametrize("year", [-1, pytest.param(0, marks=pytest.mark.slow)])
def test_clock_that_goes_backwards_or_stands_changes_nothing(
  space, whole, tmp_path, monkeypatch, year
):
  """Sessions a year before the one before them, or all in one second."""
  now = time.time()
  for n, begin in enumerate((now, now + 365 * 24 * 3600 * year, now + 730 * 24 * 3600 * year)):
    monkeypatch.setattr(time, "time", lambda: begin)
    monkeypatch.setattr(time, "time_ns", lambda: int(begin * 1e9))
    result, _ = tiny.run(space, tmp_path, tiny.After(3) if n < 2 else None)
  assert result is not None
  tiny.same_as(whole, tmp_path)
  files = sorted(tmp_path.glob("events.out.tfevents.*"))
  steps = [event.step for file in files for event in events(file)]
  assert len(files) == 3 and steps == sorted(steps)
  assert sum(step == 24 for step in steps) > 1


def events(path):
  """The events of scalars in a file of TensorBoard's."""
  data, at = path.read_bytes(), 0
  while at < len(data):  # a length, its checksum, an event, its checksum
    (size,) = struct.unpack_from("<Q", data, at)
    event = event_pb2.Event.FromString(data[at + 12 : at + 12 + size])
    at += 16 + size
    if event.summary.value:
      yield event


class Spy:
  """Stands for Evaluator: validation accuracies are 0.5, 0.75, 0.25; remembers what it was given."""

  made, seen = [], []

  def __init__(self, model, split, buckets, batch_size, objective):
    self.name = "validation" if not Spy.made else "test"
    Spy.made.append(self)

  def __call__(self, params):
    Spy.seen.append((self.name, np.array(params["logits"]["kernel"])))
    nth = sum(name == self.name for name, _ in Spy.seen) - 1
    return {"loss": 1.0, "accuracy": (0.5, 0.75, 0.25)[nth]}

  def memory(self, params):
    return 0, 0


@pytest.mark.parametrize("select, chosen", [("best", 1), ("last", 2)])
def test_test_set_is_read_once_with_the_selected_parameters(
  space,
  tmp_path,
  monkeypatch,
  select,
  chosen,
):
  monkeypatch.setattr(session, "Evaluator", Spy)
  Spy.made, Spy.seen = [], []
  result, _ = tiny.run(space, tmp_path, train__select=select)
  assert [name for name, _ in Spy.seen] == ["validation"] * 3 + ["test"]
  kernels = [kernel for _, kernel in Spy.seen]
  assert [(kernel == kernels[3]).all() for kernel in kernels[:3]] == [i == chosen for i in range(3)]
  assert result["validation"]["step"] == 8 * (chosen + 1)
  assert result["validation"]["accuracy"] == (0.5, 0.75, 0.25)[chosen]


def test_other_config_in_the_same_folder_is_refused(space, whole):
  before = (whole[0] / "config.json").read_text()
  with pytest.raises(UserError) as raised:
    tiny.run(space, whole[0], seed=1, train__batch_size=8)
  message = str(raised.value)
  assert "config.seed: there 0, now 1" in message
  assert "config.train.batch_size: there 16, now 8" in message
  assert "--workdir" in message and "\n" not in message and "model" not in message
  assert (whole[0] / "config.json").read_text() == before


def test_command_that_failed_before_its_first_step_leaves_no_run(tmp_path):
  where = {"data_dir": tmp_path / "data", "stop": tiny.Never(), "raw_dir": tmp_path / "none"}
  with pytest.raises(UserError, match="the folder of raw files .*none"):
    train.train(tiny.config(), tmp_path / "run", **where)
  assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_run_without_progress_starts_again_from_another_seed(space, tmp_path, monkeypatch):
  """A plateau is certain here: no accuracy of so few examples is far enough from the baseline."""
  options = {"train__plateau_steps": 16, "train__restarts": 1}
  whole = tmp_path / "whole"
  result, output = tiny.run(space, whole, **options)
  assert result["restarts"] == 1 and result["plateau"] and result["steps"] == 24
  assert "starting again from another seed" in output and "nothing was learned" in output
  first = [json.loads(line) for line in (whole / "metrics.attempt0.jsonl").read_text().splitlines()]
  again = tiny.metrics(whole)
  assert first[-1]["step"] == 16 and again[-1]["step"] == 24
  assert first[0]["train/loss"] != again[0]["train/loss"]
  cut = tmp_path / "cut"
  with monkeypatch.context() as patch:  # a first session that seems to have taken long
    patch.setattr(train, "Clock", lambda before=1000.0: Clock(before))
    tiny.run(space, cut, tiny.After(3), **options)
  assert not (cut / "metrics.attempt0.jsonl").exists()
  tiny.run(space, cut, tiny.After(6), **options)  # within the second attempt
  assert (cut / "metrics.attempt0.jsonl").exists()
  again, _ = tiny.run(space, cut, **options)
  tiny.same_as((whole, result), cut)
  assert again["time"]["seconds"] > 1000 > result["time"]["seconds"]


def test_loss_that_is_not_finite_stops_the_run(space, tmp_path):
  with pytest.raises(UserError, match=r"not finite at step \d+ \(steps \d+ to \d+\)") as raised:
    tiny.run(
      space, tmp_path, optim__learning_rate=1e3, optim__weight_decay=1e3, optim__warmup_steps=1
    )
  assert "learning_rate" in str(raised.value) and "\n" not in str(raised.value)
  assert not (tmp_path / "result.json").exists()


def test_attention_of_the_docs_trains(space, tmp_path, monkeypatch):
  monkeypatch.setitem(ATTENTION, "relu", documented.attention())
  result, output = tiny.run(space, tmp_path, model__attention="relu")
  assert result["attention"] == "relu" and "relu" in output
