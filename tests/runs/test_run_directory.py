"""The run directory: what is refused, what is dropped, what is written whole."""

import json
import os

import jax
import pytest
from ml_collections import ConfigDict

import tiny
from lra.runs import environment, run_result, sealed_json
from lra.runs.run_directory import RunDirectory
from lra.system.errors import UserError

CONFIG = {"seed": 0, "model": {"width": 8, "length": None}, "train": {"rate": 0.1}}


def lines(folder):
  return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def trained(folder, config=CONFIG):
  """A run with one line of metrics."""
  with RunDirectory(folder, config) as run:
    run.start(0, "data")
    run.log(1, {"train/loss": 1.0})


def test_same_config_is_taken_up_again(tmp_path):
  folder = tmp_path / "new/run"
  trained(folder)
  assert sealed_json.read(folder / "config.json") == CONFIG
  assert RunDirectory(folder, ConfigDict(CONFIG).to_dict()).result is None


def test_run_of_an_earlier_revision_is_taken_up(tmp_path):
  config = tiny.config().to_dict()
  trained(tmp_path, config)
  old = sealed_json.read(tmp_path / "config.json")
  del old["model"]["embedding_std"]
  (tmp_path / "config.json").write_text(json.dumps(old))
  RunDirectory(tmp_path, config)
  config["model"]["embedding_std"] = 0.5
  with pytest.raises(UserError, match="embedding_std: there 1.0, now 0.5"):
    RunDirectory(tmp_path, config)


@pytest.mark.parametrize(
  "config, differing",
  [
    (CONFIG | {"seed": 1}, "config.seed: there 0, now 1"),
    (CONFIG | {"model": {"width": 8, "length": 9}}, "config.model.length: there None, now 9"),
    (CONFIG | {"new": 5}, "config.new: there None, now 5"),
    ({"seed": 0, "model": CONFIG["model"]}, "config.train.rate: there 0.1, now None"),
  ],
)
def test_other_config_is_refused_by_its_differing_keys(tmp_path, config, differing):
  trained(tmp_path)
  with pytest.raises(UserError) as raised:
    RunDirectory(tmp_path, config)
  assert f"({differing})" in str(raised.value) and "--workdir" in str(raised.value)


@pytest.mark.parametrize("name", ["config.json", "result.json"])
def test_unreadable_record_is_a_user_error(tmp_path, name):
  trained(tmp_path)
  (tmp_path / name).write_text('{"seed"')
  with pytest.raises(UserError, match=f"{name} is damaged; delete it"):
    print(RunDirectory(tmp_path, CONFIG).result)


def test_folder_that_cannot_be_made_is_a_user_error(tmp_path):
  (tmp_path / "file").write_text("")
  with pytest.raises(UserError, match="cannot write to .*file/run: .*--workdir"):
    RunDirectory(tmp_path / "file/run", CONFIG).__enter__()


def test_folder_in_which_nothing_was_trained_is_free(tmp_path):
  folder = tmp_path / "run"
  with RunDirectory(folder, CONFIG):
    assert (folder / ".lock").exists()
  assert not folder.exists()
  with RunDirectory(folder, CONFIG) as run:
    run.start(0, "data")
  other = CONFIG | {"seed": 1}
  (folder / "checkpoints").mkdir()
  (folder / "metrics.jsonl").write_text('{"step": 1, "tr')
  trained(folder, other)
  assert sealed_json.read(folder / "config.json") == other
  assert len(list(folder.glob("events.out.tfevents.*"))) == 1
  with pytest.raises(UserError, match="config.seed: there 1, now 0"):
    RunDirectory(folder, CONFIG)


def test_checkpoint_without_metrics_is_a_run(tmp_path):
  with RunDirectory(tmp_path, CONFIG) as run:
    run.start(0, "data")
  (tmp_path / "checkpoints/7").mkdir(parents=True)
  with pytest.raises(UserError, match="config.seed: there 0, now 1"):
    RunDirectory(tmp_path, CONFIG | {"seed": 1})
  (tmp_path / "config.json").unlink()
  with pytest.raises(UserError, match="a run without its config.json; choose another --workdir"):
    RunDirectory(tmp_path, CONFIG)


def test_second_process_at_a_run_is_refused(tmp_path):
  with RunDirectory(tmp_path, CONFIG):
    with pytest.raises(UserError, match="another process is at the run in .*; wait for its end"):
      with RunDirectory(tmp_path, CONFIG):
        pass
    assert (tmp_path / ".lock").exists()
  with RunDirectory(tmp_path, CONFIG) as run:
    run.start(0, "data")
  assert not (tmp_path / ".lock").exists()


def test_run_that_somebody_else_took_meanwhile_is_refused(tmp_path):
  run = RunDirectory(tmp_path, CONFIG)
  trained(tmp_path, CONFIG | {"seed": 1})
  with run, pytest.raises(UserError, match="config.seed: there 1, now 0"):
    run.start(0, "data")


def test_metrics_continue_after_the_step_of_the_checkpoint(tmp_path):
  run = RunDirectory(tmp_path, CONFIG)
  run.start(0, "data")
  for step in (1, 2, 3):
    run.log(step, {"train/loss": 1 / step})
  run.close()
  with open(tmp_path / "metrics.jsonl", "a") as file:
    file.write('{"step": 4, "tra')
  run = RunDirectory(tmp_path, CONFIG)
  run.start(2, "data")
  run.log(3, {"train/loss": 0.1 + 0.2})
  run.close()
  assert lines(tmp_path) == [
    {"step": 1, "train/loss": 1.0},
    {"step": 2, "train/loss": 0.5},
    {"step": 3, "train/loss": 0.30000000000000004},
  ]


def test_other_data_is_refused_and_every_session_is_named(tmp_path, monkeypatch):
  run = RunDirectory(tmp_path, CONFIG)
  run.start(0, "some")
  run.close()
  with pytest.raises(UserError, match="trained on other data .some. than is there now .other."):
    RunDirectory(tmp_path, CONFIG).start(2, "other")
  now = environment.describe()
  monkeypatch.setattr(environment, "describe", lambda: now | {"revision": "f" * 40})
  for _ in range(2):
    run = RunDirectory(tmp_path, CONFIG)
    run.start(2, "some")
    run.close()
  written = sealed_json.read(tmp_path / "environment.json")
  assert [s["revision"] for s in written["sessions"]] == [now["revision"], "f" * 40]
  run = RunDirectory(tmp_path, CONFIG)
  run.start(0, "other")
  run.close()
  assert len(sealed_json.read(tmp_path / "environment.json")["sessions"]) == 1


def test_rates_are_medians_and_finishing_is_final(tmp_path):
  run = RunDirectory(tmp_path, CONFIG)
  run.start(0, "data")
  for step, rate in enumerate((1.0, 100.0, 3.0)):
    run.log(step, {"time/examples_per_second": rate, "time/tokens_per_second": 2 * rate})
    run.log(step, {"validation/loss": float("nan")})
  rates = run_result.rates(run.metrics())
  assert rates == {"examples_per_second": 3.0, "tokens_per_second": 6.0} and not run_result.rates(
    []
  )
  run.finish({"test": {"accuracy": 0.5}})
  assert RunDirectory(tmp_path, CONFIG).result == {"test": {"accuracy": 0.5}}
  assert list(tmp_path.glob("*.tmp")) == [] and list(tmp_path.glob("events.out.tfevents.*"))


def test_peak_memory_is_that_of_all_sessions():
  now = environment.peak_memory_gigabytes()
  assert 0.05 < now < 100
  lines = [{"time/peak_memory_gigabytes": value} for value in (500.0, 800.0, 1.0)]
  assert environment.peak_memory_gigabytes([{"step": 1}, *lines]) == 800
  assert now <= environment.peak_memory_gigabytes(lines[2:]) < 500


def test_restart_puts_the_metrics_aside(tmp_path):
  run = RunDirectory(tmp_path, CONFIG)
  for attempt in range(3):
    assert run.attempt == attempt
    run.start(0, "data")
    run.log(1, {"train/loss": float(attempt)})
    run.restart()
  assert [json.loads((tmp_path / f"metrics.attempt{i}.jsonl").read_text()) for i in range(3)] == [
    {"step": 1, "train/loss": float(i)} for i in range(3)
  ]


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="this OS has no affinity")
@pytest.mark.skipif(jax.default_backend() != "cpu", reason="on a CPU")
def test_cores_are_those_the_process_may_use_and_another_number_is_another_session(
  tmp_path, monkeypatch
):
  for mask in ({3}, {0, 2, 5}):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: mask)
    run = RunDirectory(tmp_path, CONFIG)
    run.start(2, "data")
    run.close()
  written = sealed_json.read(tmp_path / "environment.json")
  assert [s["device"] for s in written["sessions"]] == ["1 CPU core", "3 CPU cores"]
  assert written["device"] == "3 CPU cores"


def test_environment_names_versions_and_revision():
  here = environment.describe()
  assert here["packages"]["jax"] and here["devices"] >= 1 and here["platform"]
  assert here["revision"] is None or len(here["revision"]) == 40
  json.dumps(here)
