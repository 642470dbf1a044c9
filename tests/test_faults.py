"""Faults: killed, interrupted and starved runs end with the bytes of an undisturbed one.

By hand and nightly: `pytest -m faults`, about five minutes of one core. Moments are drawn anew every
time; $LRA_FAULTS_SEED repeats them, $LRA_FAULTS sets the number of kills. Nothing depends on how fast
the machine is: what disturbs a run is tied to a place in it (tests/disturbed.py) or to a file.
"""

import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest

import pair
import tiny
from lra.runs import parent_run, trained_run
from lra.system import aborts

pytestmark = [
  pytest.mark.faults,
  # preexec_fn forks this process, in which JAX has threads; the child does nothing but exec
  pytest.mark.filterwarnings("ignore:os.fork.. was called:RuntimeWarning"),
]
SEED = int(os.environ.get("LRA_FAULTS_SEED", time.time_ns() % 10**9))
KILLS = int(os.environ.get("LRA_FAULTS", 20))
PATIENCE = 900  # seconds, for a machine with much else to do
CHANGES = {"train.restarts": 1, "train.plateau_steps": 8}  # it starts again from another seed
FLAGS = [f"--config.{key}={value}" for key, value in CHANGES.items()]
# Phase -> (place, how often it is called, seconds that a call takes at most).
PHASES = {
  "data preparation": ("lra.data.store:_prepare", 1, 6.0),
  "compilation": ("lra.training.step:Trainer._compile", 2, 3.0),
  "training": ("lra.training.step:Trainer.__call__", 15, 0.1),
  "evaluation": ("lra.training.evaluation:Evaluator.__call__", 5, 0.3),
  "checkpoint": ("lra.training.checkpoint:Checkpoints.save", 3, 0.1),
  "restart": ("lra.runs.session:Session.discard", 1, 0.05),
  "test": ("train:test", 1, 0.5),
  "result": ("lra.runs.run_directory:RunDirectory.finish", 1, 0.02),
}


class Run:
  """A run with folders of its own, or with the data and the compiled programs of another one."""

  def __init__(self, folder, like=None):
    self.folder, self.workdir = folder, folder / "run"
    folder.mkdir()
    for name in ("data", "cache"):
      if like:
        (folder / name).symlink_to(like.folder / name)
      else:
        (folder / name).mkdir()

  def start(self, *flags, **options):
    return tiny.start(self.folder, "--workdir", str(self.workdir), *FLAGS, *flags, **options)

  def disturbed(self, place, call, what):
    """(exit code, errors) of the run, disturbed in one place."""
    process = self.start(through=("tests/disturbed.py", place, str(call), what))
    _, errors = process.communicate(timeout=PATIENCE)
    return process.returncode, errors

  def finish(self):
    process = self.start()
    _, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0 and not errors, errors


@pytest.fixture(scope="module")
def whole(space, tmp_path_factory):
  """A run that nothing disturbed."""
  made = Run(tmp_path_factory.mktemp("faults") / "whole")
  made.finish()
  return made


@pytest.fixture
def run(whole, one_device, tmp_path):
  """A run that uses what is prepared and compiled."""
  return Run(tmp_path / "run", like=whole)


def names(run):
  """All files of a run and of its data, but for what a checkpoint is made of."""
  files = [p.relative_to(run.workdir).as_posix() for p in run.workdir.rglob("*")]
  files = {re.sub(r"(checkpoints/\d+/|events\.out\.tfevents\.).*", r"\1", name) for name in files}
  return files, {p.name for p in (run.folder / "data").iterdir()}


def same(a, b):
  """Asserts the same bytes of metrics, result and best parameters, and no file more or less."""
  for name in ("metrics.attempt0.jsonl", "metrics.jsonl"):
    assert tiny.metrics(a.workdir, name=name) == tiny.metrics(b.workdir, name=name)
  results = [tiny.comparable(tiny.read_result(x.workdir)) for x in (a, b)]
  assert results[0] == results[1]
  found = [parent_run.digest(trained_run.load_best(x.workdir).best.params) for x in (a, b)]
  assert found[0] == found[1]
  assert names(a) == names(b)


@pytest.mark.parametrize("number", range(KILLS))
def test_kill_at_a_random_moment(whole, one_device, tmp_path, number):
  """Of every phase in turn."""
  phase, rng = list(PHASES)[number % len(PHASES)], random.Random(SEED + number)
  place, calls, longest = PHASES[phase]
  call, seconds = rng.randrange(calls), rng.uniform(0, longest)
  print(f"{phase}: {place}, call {call}, after {seconds:.4f} s; LRA_FAULTS_SEED={SEED}")
  run = Run(tmp_path / "run", like=whole)
  if phase in ("data preparation", "compilation"):  # there is nothing yet
    own = run.folder / ("data" if phase == "data preparation" else "cache")
    own.unlink()
    own.mkdir()
  code, errors = run.disturbed(place, call, f"KILL {seconds}")
  assert code == -signal.SIGKILL or (code == 0 and not errors), errors
  if phase == "compilation":  # what became of JAX's own files is not the matter
    shutil.rmtree(run.folder / "cache")
    (run.folder / "cache").symlink_to(whole.folder / "cache")
  run.finish()
  same(run, whole)


@pytest.mark.parametrize(
  "name",
  ["config.json", "metrics.jsonl", "result.json", "checkpoints/16/sha256"],
)
def test_kill_in_the_middle_of_a_write(run, whole, name):
  """As soon as the file, or what becomes it, is there."""
  process = run.start()
  while process.poll() is None and not list(run.workdir.glob(f"{name}*")):
    time.sleep(0.001)
  process.kill()
  process.communicate()
  run.finish()
  same(run, whole)


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
def test_signals_at_random_moments(whole, one_device, tmp_path, sent):
  rng, run = random.Random(SEED + sent), Run(tmp_path / "run", like=whole)
  (run.folder / "data").unlink()
  (run.folder / "data").mkdir()
  for phase in ("data preparation", "training", rng.choice(["evaluation", "checkpoint", "test"])):
    place, calls, longest = PHASES[phase]
    call, seconds = rng.randrange(min(calls, 3)), rng.uniform(0, longest)
    print(f"{phase}: call {call}, after {seconds:.4f} s; LRA_FAULTS_SEED={SEED}")
    code, errors = run.disturbed(place, call, f"{sent.name[3:]} {seconds}")
    assert code in (0, 130, 128 + sent, -sent) and "Traceback" not in errors, (code, errors)
    assert errors in ("", "interrupted\n"), errors
  run.finish()
  same(run, whole)


@pytest.mark.parametrize(
  "place, call, said",
  [
    ("lra.data.store:_write", 0, "cannot prepare data in .*--data_dir"),
    ("lra.runs.run_directory:RunDirectory.start", 0, "free some space"),
    ("lra.runs.run_directory:RunDirectory.log", 2, "free some space"),
    ("lra.runs.event_file:EventFile.log", 3, "free some space"),
    ("lra.training.checkpoint:Checkpoints.save", 1, "cannot write the checkpoint of step"),
    ("lra.training.checkpoint:_seal", 2, "cannot write the checkpoint of step"),
    ("lra.runs.session:Session.discard", 0, "free some space"),
    ("lra.runs.run_directory:RunDirectory.finish", 0, "free some space"),
  ],
)
def test_full_disk(whole, one_device, tmp_path, place, call, said):
  run = Run(tmp_path / "run", like=whole)
  if "data" in place:
    (run.folder / "data").unlink()
    (run.folder / "data").mkdir()
  code, errors = run.disturbed(place, call, "full")
  assert code == 1 and re.fullmatch(f"error: [^\n]*{said}[^\n]*\n", errors), errors
  assert not list(run.folder.rglob("*.tmp*")) and not list(run.folder.rglob("*.lock"))
  run.finish()
  same(run, whole)


REPORTS = {  # script -> (place, arguments: {run}, {records} and {out} are folders)
  "export_run": ("lra.reporting.run_record:write", "{run} --results {out}"),
  "plot": ("lra.reporting.pictures.style:write", "{records} --out {out}"),
  "report": ("lra.reporting.html_page:page", "{records} --out {out}/page.html"),
  "plot_attention": ("lra.reporting.pictures.style:write", "{run} --out {out} --data_dir {data}"),
}


@pytest.fixture(scope="module")
def records(whole, tmp_path_factory):
  """The record of the undisturbed run."""
  folder = tmp_path_factory.mktemp("records")
  code, errors = script("scripts/export_run.py", str(whole.workdir), "--results", str(folder))
  assert code == 0, errors
  return folder


def script(*arguments):
  """(exit code, errors) of a script of this repository."""
  process = subprocess.run(
    [sys.executable, *arguments],
    cwd=tiny.ROOT,
    env=os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""},
    capture_output=True,
    text=True,
    timeout=PATIENCE,
  )
  return process.returncode, process.stderr


@pytest.mark.parametrize("name", REPORTS)
def test_full_disk_where_results_are_shown(whole, records, tmp_path, name):
  """Nothing half written stays, and the same command does it when there is space."""
  place, arguments = REPORTS[name]
  folders = {"run": whole.workdir, "records": records, "out": tmp_path / "out"}
  folders["data"] = whole.folder / "data"
  arguments = [f"scripts/{name}.py", *arguments.format(**folders).split()]
  code, errors = script("tests/disturbed.py", place, "0", "full", *arguments)
  assert code == 1 and re.fullmatch("error: [^\n]*\n", errors), errors
  assert not list((tmp_path / "out").rglob("*"))
  code, errors = script(*arguments)
  assert code == 0 and list((tmp_path / "out").iterdir()), errors


def test_full_disk_under_the_table_of_the_readme(tmp_path):
  """In a copy of the repository: the page is as it was."""
  for name in ("lra", "models", "configs", "scripts", "results", "docs", "tests"):
    (tmp_path / name).symlink_to(tiny.ROOT / name)
  (tmp_path / "docs").unlink()
  (tmp_path / "scripts").unlink()
  shutil.copytree(tiny.ROOT / "docs", tmp_path / "docs")
  shutil.copytree(tiny.ROOT / "scripts", tmp_path / "scripts")
  before = (tiny.ROOT / "README.md").read_text()
  (tmp_path / "README.md").write_text(before)
  arguments = [str(tmp_path / "scripts/make_table.py"), "--update_readme"]
  place = "lra.reporting.table_text:between_markers"
  code, errors = script("tests/disturbed.py", place, "0", "full", *arguments)
  assert code == 1 and re.fullmatch("error: [^\n]*\n", errors), errors
  assert (tmp_path / "README.md").read_text() == before and not list(tmp_path.rglob("*.tmp"))


def test_user_without_a_home_and_without_writable_data(whole, tmp_path, monkeypatch):
  """A read-only data folder serves when it holds what is wanted, else it is one line."""
  if os.getuid() != 0:
    pytest.skip("only root can become another user")
  for folder in [*tmp_path.parents, tmp_path, whole.folder, *whole.folder.parents]:
    if str(folder).startswith("/tmp/"):
      folder.chmod(folder.stat().st_mode | 0o055)
  (tmp_path / "runs").mkdir()
  (tmp_path / "runs").chmod(0o777)

  def nobody():
    os.setgid(65534)
    os.setuid(65534)

  try:
    subprocess.run([sys.executable, "-c", ""], preexec_fn=nobody, check=True)
  except (PermissionError, subprocess.CalledProcessError):
    pytest.skip("no other user may run this Python")
  monkeypatch.setenv("HOME", "/nonexistent")
  for flags, code, said in (
    ((), 0, ""),
    (("--config.task.train=201",), 1, "cannot prepare data in .*Permission denied.*--data_dir"),
  ):
    workdir = tmp_path / "runs" / str(code)
    process = tiny.start(whole.folder, "--workdir", str(workdir), *FLAGS, *flags, preexec_fn=nobody)
    _, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == code and re.search(said, errors), errors
  assert tiny.metrics(tmp_path / "runs/0") == tiny.metrics(whole.workdir)


def test_two_runs_on_one_directory_and_two_preparations_of_one_task(whole, one_device, tmp_path):
  run, other = Run(tmp_path / "run", like=whole), tmp_path / "run/other"
  (run.folder / "data").unlink()
  (run.folder / "data").mkdir()
  first, second = run.start(), tiny.start(run.folder, "--workdir", str(other), *FLAGS)
  while first.poll() is None and not (run.workdir / ".lock").exists():
    time.sleep(0.01)
  first.send_signal(signal.SIGSTOP)  # so that it is still there, however slow the other one starts
  third = run.start()
  _, errors = third.communicate(timeout=PATIENCE)
  first.send_signal(signal.SIGCONT)
  assert third.returncode == 1, errors
  assert re.fullmatch("error: another process is at the run in [^\n]*\n", errors), errors
  for process in (first, second):
    _, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0 and not errors, errors
  same(run, whole)
  assert tiny.metrics(other) == tiny.metrics(whole.workdir)


@pytest.mark.parametrize("killed", [0, 1])
def test_killed_member_of_two_ends_both(space, one_device, tmp_path, monkeypatch, killed):
  changes = {"train.steps": 30_000, "train.eval_every": 10_000}
  started = pair.start(space, monkeypatch, tmp_path / "two", **changes)
  pair.until(started[0], "step")
  started[killed].kill()
  _, errors = started[1 - killed].communicate(timeout=PATIENCE)
  started[killed].communicate()
  assert started[1 - killed].returncode not in (0, None)
  said = tiny.said(errors)
  assert said == [aborts.LOST]
  again, _ = tiny.run(
    space, tmp_path / "two", tiny.After(1), train__steps=30_000, train__eval_every=10_000
  )
  assert again is None
