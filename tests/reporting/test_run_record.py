"""Exported records: complete, the same every time, nobody's machine; refusals."""

import json
import subprocess
import sys

import pytest

import handmade
import tiny
from lra.reporting import run_record
from lra.system.errors import UserError


@pytest.fixture
def folder(tmp_path):
  """A finished run."""
  return handmade.run_folder(tmp_path / "run", *handmade.arguments())


def change(folder, name, **changes):
  """Other values in a JSON file of the run."""
  path = folder / f"{name}.json"
  path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_record_says_what_the_run_was(folder):
  made = run_record.make(folder)
  assert made["name"] == "listops_cosformer-quick-seed0"
  assert (made["task"], made["attention"], made["seed"]) == ("listops", "cosformer", 0)
  assert (made["preset"], made["overrides"], made["test"]["accuracy"]) == ("quick", {}, 0.5)
  assert made["config"] == json.loads((folder / "config.json").read_text())
  assert made["environment"] == handmade.ENVIRONMENT
  assert made["data"]["digest"] == "d" * 64 and made["time"]["seconds"] == 60
  assert made["curve"]["validation"]["step"][-1] == made["steps"]


def test_command_of_a_record_makes_the_same_run(tmp_path):
  more = ("--config.optim.eps=1e-3", "--config.model.cls=true", f"--workdir={tmp_path}/x")
  given = handmade.arguments("listops", "softmax", 2, "default", *more, "--data_dir", str(tmp_path))
  made = run_record.make(handmade.run_folder(tmp_path / "run", *given))
  assert made["preset"] == "default"
  assert made["overrides"] == {"model.cls": True, "optim.eps": 1e-3}
  assert made["name"] == "listops_softmax-model.cls=True-optim.eps=0.001-seed2"
  again = made["command"].split()[2:]
  same = run_record.make(handmade.run_folder(tmp_path / "again", *again))
  assert same == made
  assert str(tmp_path) not in run_record.text(made)


def test_absolute_path_of_a_recipe_is_not_kept(tmp_path):
  recipe = f"--config={tiny.ROOT}/configs/lra/listops_linear.py:quick"
  made = run_record.make(handmade.run_folder(tmp_path / "run", recipe))
  assert made["name"] == "listops_linear-quick-seed0"
  assert str(tiny.ROOT) not in run_record.text(made)


def test_file_is_small_and_the_same_every_time(folder, tmp_path):
  path = run_record.write(run_record.make(folder), tmp_path / "results")
  before = path.read_text()
  assert path.name == "listops_cosformer-quick-seed0.json" and len(before) < 30_000
  assert run_record.write(run_record.make(folder), tmp_path / "results") == path
  assert path.read_text() == before
  assert run_record.read(path) == run_record.make(folder) == run_record.read(folder)


def test_another_run_does_not_replace_a_record(folder, tmp_path):
  run_record.write(run_record.make(folder), tmp_path)
  change(folder, "result", test={"accuracy": 0.6, "loss": 1.0, "examples": 2000})
  with pytest.raises(UserError, match="another run of the same command; --replace"):
    run_record.write(run_record.make(folder), tmp_path)
  path = run_record.write(run_record.make(folder), tmp_path, replace=True)
  assert run_record.read(path)["test"]["accuracy"] == 0.6


def test_record_edited_by_hand_is_refused(folder, tmp_path):
  path = run_record.write(run_record.make(folder), tmp_path)
  path.write_text(path.read_text().replace('"accuracy": 0.5,', '"accuracy": 0.9,'))
  with pytest.raises(UserError, match="not as scripts/export_run.py wrote it"):
    run_record.read(path)


def test_keys_that_came_later_have_their_defaults(folder, tmp_path):
  made = run_record.make(folder)
  old = made | {"config": made["config"] | {"model": dict(made["config"]["model"])}}
  del old["config"]["model"]["embedding_std"]
  old["sha256"] = run_record.digest(old)
  assert run_record.read(run_record.write(old, tmp_path)) == old | {"config": made["config"]}


@pytest.mark.parametrize("count", [1, 199, 200, 201, 5000])
def test_thin_keeps_both_ends_in_order(count):
  kept = run_record.thin(range(count))
  assert len(kept) == min(count, 200) and kept == sorted(set(kept))
  assert kept[0] == 0 and kept[-1] == count - 1


@pytest.mark.parametrize(
  "name, changes, answer",
  [
    ("result", {"seed": 1}, "seed is 0 in config.json, 1 in result.json"),
    ("result", {"attention": "linear"}, "attention is 'cosformer' in config.json"),
    ("result", {"steps": 2000}, "2000 steps of 3000"),
    ("result", {"validation": {"accuracy": 0.9, "step": 3000}}, "validation accuracy of result"),
    ("result", {"validation": {"accuracy": 0.55, "step": 7}}, "no evaluation at step 7"),
    ("result", {"restarts": 1}, "the restarts"),
    ("result", {"test": {"accuracy": 1.5, "loss": 1.0, "examples": 2000}}, "impossible"),
    (
      "result",
      {"test": {"accuracy": 0.12345, "loss": 1.0, "examples": 2000}},
      "2000 test examples",
    ),
    ("environment", {"data": "e" * 64}, "data of result.json are not those of environment.json"),
    ("result", {"time": {"examples_per_second": 1e9}}, "speed of result.json is not the median"),
    ("config", {"data": {"buckets": 5}}, "config.data.buckets is 5, but the run's command gives 2"),
    ("environment", {"command": "pytest -q"}, "was made by pytest"),
    ("environment", {"command": "debugged_train.py --config=x"}, "only runs of train.py"),
    ("environment", {"command": "train.py --config=configs/lra/none.py"}, "check out revision"),
    ("environment", {"device": "/dev/gpu of a person"}, "names this machine"),
  ],
)
def test_disagreement_is_refused(folder, name, changes, answer):
  change(folder, name, **changes)
  with pytest.raises(UserError, match=answer):
    run_record.make(folder)


def test_missing_result_and_passed_over_evaluation_are_refused(folder):
  metrics, result = folder / "metrics.jsonl", json.loads((folder / "result.json").read_text())
  metrics.write_text(metrics.read_text().replace("0.55", "0.65", 1))
  with pytest.raises(UserError, match="a better evaluation than the one selected"):
    run_record.make(folder)
  del result["data"], result["plateau"]
  (folder / "result.json").write_text(json.dumps(result))
  with pytest.raises(UserError, match="result.json has no plateau, data; run it again"):
    run_record.make(folder)


@pytest.mark.parametrize("prefix", ["../", "./", "/home/somebody/lra/", ""])
def test_config_may_have_been_typed_from_anywhere(folder, prefix):
  given = "train.py --config PREconfigs/lra/listops_cosformer.py:quick --config.seed=0"
  change(folder, "environment", command=given.replace("PRE", prefix))
  assert run_record.make(folder)["command"] == given.replace("PRE", "").replace(
    "train", "python train", 1
  )


def test_metrics_of_another_run_are_refused(folder):
  path = folder / "metrics.jsonl"
  lines = path.read_text().splitlines(keepends=True)
  for text in (lines[:-3], [*lines, '{"step": 5}\n'], [*lines, '{"step": 50']):
    path.write_text("".join(text))
    with pytest.raises(UserError, match=r"metrics\.jsonl"):
      run_record.make(folder)


def test_script_exports_finished_runs_only(folder, tmp_path):
  unfinished = handmade.run_folder(tmp_path / "other", *handmade.arguments(seed=1))
  (unfinished / "result.json").unlink()
  script = [sys.executable, "scripts/export_run.py", "--results", str(tmp_path / "results")]
  call = lambda *runs: subprocess.run(
    [*script, *map(str, runs)], cwd=tiny.ROOT, capture_output=True, text=True, timeout=100
  )
  done = call(folder, unfinished)
  assert done.returncode == 0 and "skipped, not finished" in done.stdout, done.stderr
  assert [p.name for p in (tmp_path / "results").iterdir()] == [
    "listops_cosformer-quick-seed0.json"
  ]
  alone = call(unfinished)
  assert alone.returncode == 1 and "is not finished" in alone.stderr
