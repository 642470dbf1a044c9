"""Faults: killed, interrupted and starved runs end with the bytes of an undisturbed one.

By hand and nightly: `pytest -m faults`; bounded, about a quarter of an hour on two cores. The moments
of kills are drawn anew every time; $LRA_FAULTS_SEED repeats them, $LRA_FAULTS sets their number.
"""

import contextlib
import os
import random
import re
import resource
import signal
import subprocess
import time

import jax
import numpy as np
import pytest

import pair
import tiny
from lra.runs import trained_run

pytestmark = [
  pytest.mark.faults,
  # preexec_fn forks this process, in which JAX has threads; the child does nothing but exec
  pytest.mark.filterwarnings("ignore:os.fork.. was called:RuntimeWarning"),
]
SEED = int(os.environ.get("LRA_FAULTS_SEED", time.time_ns() % 10**9))
KILLS = int(os.environ.get("LRA_FAULTS", 20))
STRAY = re.compile(r"\.tmp|\.lock$|\.deleted|orbax-checkpoint-tmp")


class Fresh:
  """A place of its own: data, program cache and run, as on a new machine."""

  def __init__(self, folder):
    self.folder, self.workdir = folder, folder / "run"
    folder.mkdir()

  def start(self, *flags, **options):
    return tiny.start(self.folder, "--workdir", str(self.workdir), *flags, **options)

  def finish(self):
    process = self.start()
    out, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    return out

  def strays(self):
    inside = [p for p in self.workdir.rglob("*") if STRAY.search(p.name)]
    return inside + [p for p in (self.folder / "data").iterdir() if ".tmp" in p.name]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
  """(a finished run, seconds it took)."""
  made, begin = Fresh(tmp_path_factory.mktemp("faults") / "whole"), time.monotonic()
  made.finish()
  return made, time.monotonic() - begin


def same(a, b):
  """Asserts the same bytes of metrics, result and best parameters, and that no stray file is left."""
  assert tiny.metrics(a.workdir) == tiny.metrics(b.workdir)
  results = [tiny.comparable(tiny.read_result(x.workdir)) for x in (a, b)]
  assert results[0] == results[1]
  params = [trained_run.load(x.workdir, x.folder / "data", None, print).best.params for x in (a, b)]
  for x, y in zip(*map(jax.tree.leaves, params), strict=True):
    np.testing.assert_array_equal(x, y)
  assert not a.strays()


@pytest.mark.parametrize("number", range(KILLS))
def test_kill_at_a_random_moment(undisturbed, one_device, tmp_path, number):
  """One moment in each KILLS-th part of the run, from data preparation to the result."""
  whole, seconds = undisturbed
  made = Fresh(tmp_path / "killed")
  process = made.start()
  moment = (number + random.Random(SEED + number).random()) / KILLS * seconds
  with contextlib.suppress(subprocess.TimeoutExpired):
    process.wait(timeout=moment)
  process.kill()
  process.communicate()
  made.finish()
  same(made, whole)


@pytest.mark.parametrize(
  "name", ["config.json", "environment.json", "metrics.jsonl", "result.json"]
)
def test_kill_in_the_middle_of_a_write(undisturbed, one_device, tmp_path, name):
  """As soon as the file, or what becomes it, is there."""
  made, whole = Fresh(tmp_path / "killed"), undisturbed[0]
  process = made.start()
  while process.poll() is None and not list(made.workdir.glob(f"{name}*")):
    time.sleep(0.001)
  process.kill()
  process.communicate()
  made.finish()
  same(made, whole)


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT])
def test_signals_at_random_moments(undisturbed, one_device, tmp_path, sent):
  rng, (whole, seconds), made = random.Random(SEED + sent), undisturbed, Fresh(tmp_path / "asked")
  for _ in range(3):
    process = made.start(
      preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler)
    )
    with contextlib.suppress(subprocess.TimeoutExpired):
      process.wait(timeout=rng.uniform(0.3, 1) * seconds)
    process.send_signal(sent)
    _, errors = process.communicate(timeout=120)
    assert process.returncode in (0, 130, 128 + sent, -sent), errors
    assert sent == signal.SIGINT or "Traceback" not in errors
  made.finish()
  same(made, whole)


@pytest.mark.parametrize("limit", [0, 300, 2000, 6000, 20_000, 60_000])
def test_full_disk(undisturbed, one_device, tmp_path, limit):
  """No file may grow beyond `limit` bytes: locks, data, records, metrics, checkpoints, in this order."""
  made, whole = Fresh(tmp_path / "full"), undisturbed[0]
  process = made.start(preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)))
  _, errors = process.communicate(timeout=300)
  said = [line for line in errors.splitlines() if line.startswith("error: ")]
  assert "Traceback" not in errors, errors
  assert process.returncode == 0 or (process.returncode == 1 and len(said) == 1), errors
  made.finish()
  same(made, whole)


def test_user_without_a_home_and_without_writable_data(undisturbed, tmp_path, monkeypatch):
  """A read-only data folder serves when it holds what is wanted, else it is one line."""
  if os.getuid() != 0:
    pytest.skip("only root can become another user")
  whole = undisturbed[0]
  for folder in [*tmp_path.parents, tmp_path, whole.folder, *whole.folder.parents]:
    if str(folder).startswith("/tmp/"):
      folder.chmod(folder.stat().st_mode | 0o055)
  (tmp_path / "runs").mkdir()
  (tmp_path / "runs").chmod(0o777)

  def nobody():
    os.setgid(65534)
    os.setuid(65534)

  monkeypatch.setenv("HOME", "/nonexistent")
  for flags, code, said in (
    ((), 0, ""),
    (("--config.task.train=201",), 1, "cannot prepare data in .*Permission denied.*--data_dir"),
  ):
    workdir = tmp_path / "runs" / str(code)
    process = tiny.start(whole.folder, "--workdir", str(workdir), *flags, preexec_fn=nobody)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == code and re.search(said, errors), errors
  assert tiny.metrics(tmp_path / "runs/0") == tiny.metrics(whole.workdir)


def test_two_runs_on_one_directory_and_two_preparations_of_one_task(
  undisturbed, one_device, tmp_path
):
  whole, made = undisturbed[0], Fresh(tmp_path / "twice")
  other = made.folder / "other"
  a, b = made.start(), tiny.start(made.folder, "--workdir", str(other))
  while a.poll() is None and not (made.workdir / ".lock").exists():
    time.sleep(0.01)
  c = made.start()
  _, errors = c.communicate(timeout=300)
  assert c.returncode == 1 and "another process is at the run in" in errors, errors
  for process in (a, b):
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
  same(made, whole)
  assert tiny.metrics(other) == tiny.metrics(whole.workdir)
  assert len(list((made.folder / "data").glob("listops-*"))) == 1


@pytest.mark.parametrize("killed", [0, 1])
def test_killed_member_of_two_ends_both(space, one_device, tmp_path, monkeypatch, killed):
  changes = {"train.steps": 3000, "train.eval_every": 1000}
  started = pair.start(space, monkeypatch, tmp_path / "two", **changes)
  pair.until(started[0], "step")
  started[killed].kill()
  begin = time.monotonic()
  _, errors = started[1 - killed].communicate(timeout=60)
  started[killed].communicate()
  assert time.monotonic() - begin < 60 and started[1 - killed].returncode not in (0, None)
  if killed == 1:  # without its coordinator, JAX ends the process itself
    said = [line for line in errors.splitlines() if line.startswith("error: ")]
    assert (
      said
      == [
        "error: another process of this run has ended; the same command continues from the newest "
        "checkpoint"
      ]
      and "Traceback" not in errors
    ), errors
  again, _ = tiny.run(
    space, tmp_path / "two", tiny.After(1), train__steps=3000, train__eval_every=1000
  )
  assert again is None
