"""Sweeps: each run once, whatever fails or is stopped in between."""

import io
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import tiny
import train
from lra.runs import command
from lra.sweeps import launch, plan, scheduler
from lra.system import cores, locks
from lra.system.errors import UserError
from lra.system.process import StopRequest
from lra.system.progress import Progress
from scripts import sweep as sweep_script
from tiny import space  # noqa: F401

# ruff: noqa: F811
# submitit leaves log files of debug jobs open
pytestmark = pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")


@pytest.fixture
def fake(tmp_path, monkeypatch):
  """fake(*seeds, **options) -> Outcome of a sweep whose jobs are processes of a train.py of our own."""
  shutil.copy(tiny.ROOT / "tests/fake_train.py", tmp_path / "train.py")
  home = tmp_path / "runs"
  home.mkdir()

  def run(*seeds, cluster="debug", **options):
    cells = plan.cells(["listops"], ["linear"], seeds, preset="quick", runs_dir=home)
    for cell in cells:
      (home / f"{cell.seed}.json").write_text(json.dumps(cell.config))
    monkeypatch.setattr(plan, "ROOT", tmp_path)
    monkeypatch.setattr(launch, "InProcess", launch.Training)
    if cluster == "local":  # the processes of its jobs find that folder, too
      monkeypatch.chdir(tmp_path)
      for name in ("lra", "models", "configs"):
        (tmp_path / name).symlink_to(tiny.ROOT / name)
    try:
      return scheduler.Sweep(cells, cluster=cluster, **options).run(StopRequest())
    finally:
      monkeypatch.undo()

  return run


def by_seed(outcome):
  """(finished, failed, left) as seeds."""
  return tuple(sorted(cell.seed for cell in part) for part in outcome)


def test_pretraining_comes_first_and_its_failure_is_the_child_s(tmp_path, monkeypatch):
  cells = plan.cells(
    ["listops"], ["linear"], [0, 1], preset="quick", pretrain="masked", runs_dir=tmp_path
  )
  begun, going = [], scheduler.Sweep(cells, jobs=4, progress=Progress(io.StringIO()))
  while cell := going._next():
    begun.append(cell)
  assert begun == [cells[0], cells[2]]  # the children wait
  going.finished[cells[0]] = {}
  going.failed[cells[2]] = "no such luck"
  assert going._next() == cells[1] and going._next() is None
  assert cells[2].folder.name in going.failed[cells[3]] and not going.waiting


@pytest.mark.parametrize(
  "arguments, answer",
  [
    (["--gpus", "1"], "--gpus is for --cluster slurm"),
    (["--partition=gpu"], "--partition is for --cluster slurm"),
    (["--jobs", "0"], "--jobs must be at least 1, not 0"),
  ],
)
def test_options_that_would_be_ignored_are_refused(monkeypatch, arguments, answer):
  monkeypatch.setattr(sys, "argv", ["sweep.py", "--tasks", "text", "--seeds", "0", *arguments])
  with pytest.raises(UserError, match=answer):
    sweep_script.main()


def test_each_run_once_and_failures_are_listed_and_tried_again(fake, tmp_path, capsys):
  outcome = fake(0, 1, 2)
  assert by_seed(outcome) == ([0], [1, 2], [])
  assert list(outcome.failed.values()) == [
    "no such luck; try another seed",
    "ValueError: only the first time",
  ]
  assert "seed1: failed: no such luck" in capsys.readouterr().out
  outcome = fake(0, 1, 2, 4)
  assert by_seed(outcome) == ([0, 2, 4], [1], [])
  calls = {path.parent.name[-1]: path.read_text() for path in tmp_path.glob("runs/*/calls")}
  counts = {seed: text.count("\n") for seed, text in calls.items()}
  assert counts == {"0": 1, "1": 2, "2": 2, "4": 1}


def test_retries_within_a_sweep(fake):
  assert by_seed(fake(1, 2, retries=1)) == ([2], [1], [])


def test_interrupted_sweep_goes_on(fake):
  assert by_seed(fake(0, 3, 4)) == ([0], [], [3, 4])
  assert by_seed(fake(0, 3, 4)) == ([0, 3, 4], [], [])


def test_debug_sweep_trains_in_this_process(space, one_device, tmp_path, capsys):
  given = [f"--config.{key}={value}" for key, value in tiny.SMALL.items()]
  given += [f"--data_dir={space / 'data'}", "--config.model.attention_options.length=4"]
  make = lambda *more: plan.cells(
    ["listops"], ["linear"], [0], preset="quick", arguments=[*given, *more], runs_dir=tmp_path
  )
  before, run = sys.argv, lambda cells: scheduler.Sweep(cells, cluster="debug").run(StopRequest())
  handler = signal.getsignal(signal.SIGINT)
  cells = make()
  assert run(cells).failed[cells[0]].startswith("config.model.attention_options.length 4 is less")
  given.pop()
  cells = make("--max_seconds=0")
  assert "--max_seconds" in run(cells).failed[cells[0]]
  cells = make()
  finished = run(cells).finished
  assert finished[cells[0]]["steps"] == 24 and "test accuracy" in capsys.readouterr().out
  kept = json.loads((cells[0].folder / "environment.json").read_text())["command"]
  assert (
    f"python {kept}" == cells[0].command.replace("train.py", "debugged_train.py", 1)
    and sys.argv is before
  )
  assert signal.getsignal(signal.SIGINT) is handler


def test_finished_run_of_another_config_is_not_finished(fake, tmp_path):
  fake(0)
  (path,) = tmp_path.glob("runs/*seed0/config.json")
  path.write_text("{}")
  cells = plan.cells(["listops"], ["linear"], [0], preset="quick", runs_dir=tmp_path / "runs")
  assert plan.result(cells[0]) is None


def test_a_run_waits_for_one_that_a_killed_sweep_left(tmp_path):
  file = tmp_path / "lock"
  with open(file, "w") as first, open(file, "w") as second:
    assert locks.take(first.fileno()) and not locks.take(second.fileno())
    first.close()
    assert locks.take(second.fileno())


def test_gpus_are_dealt_one_each(monkeypatch, fake, tmp_path):
  monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,GPU-abc")
  assert launch.gpus() == ["4", "GPU-abc"]
  deal = lambda slot, jobs: launch.device_environment(slot, launch.gpus(), jobs)
  assert [deal(slot, 2) for slot in (0, 1)] == [
    {"CUDA_VISIBLE_DEVICES": "4"},
    {"CUDA_VISIBLE_DEVICES": "GPU-abc"},
  ]
  shared = {"CUDA_VISIBLE_DEVICES": "4", "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
  assert deal(2, 3) == shared
  monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
  assert launch.device_environment(0, [], 1) == {"CUDA_VISIBLE_DEVICES": None}
  fake(0, devices=["7"])
  assert next(tmp_path.glob("runs/*/calls")).read_text() == "7\n"


def typed(home):
  """The command line of a sweep of two seeds on listops and linear attention."""
  given = tiny.SMALL | {"train.steps": 900, "train.eval_every": 900, "train.log_every": 20}
  return [
    *("scripts/sweep.py", "--tasks", "listops", "--attentions", "linear", "--seeds", "0", "1"),
    *("--preset", "quick", "--runs_dir", str(home), "--jobs", "2"),
    *("--", *(f"--config.{key}={value}" for key, value in given.items())),
  ]


def start(space, home):
  """A process of that sweep."""
  environment = {name.upper(): str(value) for name, value in tiny.CACHE.items()}
  return subprocess.Popen(
    [sys.executable, *typed(home)],
    cwd=tiny.ROOT,
    env=os.environ
    | environment
    | {
      "JAX_COMPILATION_CACHE_DIR": str(space / "cache"),
      "XLA_FLAGS": tiny.flags(1),
      "LRA_DATA_DIR": str(space / "data"),
    },
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
    start_new_session=True,
  )


@pytest.mark.faults
def test_local_sweep_is_stopped_by_ctrl_c_and_finishes_when_run_again(
  space, one_device, tmp_path, monkeypatch, capsys
):
  script, *given = typed(tmp_path)
  monkeypatch.setattr(sys, "argv", [script, "--dry_run", *given])
  assert sweep_script.main() == 0
  commands = capsys.readouterr().out.splitlines()
  folders = [command.read(shlex.split(c)[2:]).workdir for c in commands]
  assert len(folders) == 2 and all(c.startswith("python train.py --config ") for c in commands)

  one = cores.available()[:1]
  with cores.only(one):  # both on the same core, so that neither ends before the other begins
    first = start(space, tmp_path)
  deadline = time.monotonic() + 600
  begun = lambda folder: (file := Path(folder, "metrics.jsonl")).exists() and file.stat().st_size
  while not all(map(begun, folders)):
    assert time.monotonic() < deadline and first.poll() is None
    time.sleep(0.02)
  os.killpg(first.pid, signal.SIGINT)  # what Ctrl-C does
  out, _ = first.communicate(timeout=600)
  if hasattr(os, "sched_setaffinity"):
    made = [json.loads(Path(folder, "environment.json").read_text()) for folder in folders]
    assert cores.plan(2, one) in out and [m["device"] for m in made] == ["1 CPU core"] * 2
  assert first.returncode == 130 and "2 runs write a checkpoint and end" in out, out
  assert "stopped; the same command continues" in out
  assert not any(os.path.exists(f"{folder}/result.json") for folder in folders)
  assert all(os.listdir(f"{folder}/checkpoints") for folder in folders)

  # One by its own command, in this process; the sweep then skips it.
  values = command.read([*shlex.split(commands[0])[2:], f"--data_dir={space / 'data'}"])
  train.train(values.config, Path(folders[0]), **command.folders(values), stop=tiny.Never())
  assert "continuing after step" in capsys.readouterr().out
  out, _ = start(space, tmp_path).communicate(timeout=600)
  assert "runs: 2, finished before: 1" in out
  assert out.splitlines()[-1] == "2 of 2 runs finished, 0 failed", out
  log = tmp_path / ".sweep" / f"{os.path.basename(folders[1])}.log"
  assert "continuing after step" in log.read_text()
