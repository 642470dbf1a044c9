"""Runs at a time on a CPU: a core each, as many threads, and the same by default."""

import json
import os
import subprocess
import sys

import pytest

from lra.sweeps import launch, plan
from lra.system import cores
from scripts import sweep as sweep_script
from sweeps.test_sweep import by_seed, fake  # noqa: F401

# ruff: noqa: F811
# submitit leaves log files of debug jobs open
pytestmark = pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")


def seen(tmp_path):
  """[thread counts, affinity] of each run of `fake`, by its seed."""
  return [json.loads(p.read_text()) for p in sorted(tmp_path.glob("runs/*/cores.json"))]


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this OS has no affinity")
def test_runs_at_a_time_have_cores_of_their_own(fake, tmp_path):
  here = cores.available()
  if len(here) < 2:
    pytest.skip("one core here, two are wanted")
  assert by_seed(fake(0, 4, cluster="local", jobs=2, cores=here[:2])) == ([0, 4], [], [])
  assert seen(tmp_path) == [[["1"], here[:1]], [["1"], here[1:2]]]
  assert cores.available() == here


def test_one_run_at_a_time_has_all_cores(fake, tmp_path):
  here = cores.available()
  fake(0, jobs=1, cores=here)
  affinity = here if hasattr(os, "sched_getaffinity") else None
  assert seen(tmp_path) == [[[str(len(here))], affinity]]


def test_without_affinity_the_thread_counts_are_left(monkeypatch):
  for name in ("sched_getaffinity", "sched_setaffinity"):
    monkeypatch.delattr(os, name, raising=False)
  monkeypatch.setattr(os, "cpu_count", lambda: 6)
  monkeypatch.delenv("NPROC", raising=False)
  assert cores.available() == list(range(6))
  (cell,) = plan.cells(["listops"], ["linear"], [0], preset="quick")
  training = launch.Training(cell, {}, cores.share(0, 2, range(6)))
  assert set(training.environment) == set(cores.THREADS)
  monkeypatch.setenv("NPROC", training.environment["NPROC"])
  assert cores.available() == [0, 1, 2]
  with cores.only([4]):
    pass


def test_cores_are_shared_out_evenly():
  deal = lambda jobs, *numbers: [cores.share(slot, jobs, numbers) for slot in range(jobs)]
  assert deal(1, 2, 5, 7) == [[2, 5, 7]]
  assert deal(2, 0, 1, 2, 3) == [[0, 1], [2, 3]]
  assert deal(2, 0, 1, 2) == [[0], [1]]  # all runs on as many
  assert deal(3, 4, 6) == [[4], [6], [4]]
  assert cores.plan(1, [0, 1]) == "one run at a time, on 2 cores"
  assert cores.plan(2, [0, 1]) == "2 runs at a time, one core each (a run on all cores: --jobs 1)"
  assert "3 runs at a time, one core each, 2 in all (" in cores.plan(3, [0, 1])


@pytest.mark.parametrize(
  "platforms, gpus, asked, jobs, own",
  [
    ("cpu", [], "", 3, [4, 5, 8]),
    ("cpu", ["0"], "", 3, [4, 5, 8]),
    ("", ["0", "1"], "", 2, []),
    ("", [], "cpu", 3, [4, 5, 8]),
    ("", [], "tpu", 1, []),
    ("cuda", [], "", 1, []),
  ],
)
def test_a_run_a_core_on_a_cpu_alone(monkeypatch, tmp_path, platforms, gpus, asked, jobs, own):
  class Asked:
    def __init__(self, cells, **options):
      assert (options["jobs"], options["cores"]) == (jobs, own)
      assert options["devices"] == ([] if own else gpus)
      raise InterruptedError

  monkeypatch.setenv("JAX_PLATFORMS", platforms)
  monkeypatch.setattr(launch, "gpus", lambda: gpus)
  answer = subprocess.CompletedProcess([], 0, f"{asked}\n")
  monkeypatch.setattr(launch.subprocess, "run", lambda *_, **__: answer)
  monkeypatch.setattr(cores, "available", lambda: [4, 5, 8])
  monkeypatch.setattr(sweep_script.scheduler, "Sweep", Asked)
  given = ["--tasks", "text", "image", "--seeds", "0", "--runs_dir", str(tmp_path)]
  monkeypatch.setattr(sys, "argv", ["sweep.py", *given])
  with pytest.raises(InterruptedError):
    sweep_script.main()
