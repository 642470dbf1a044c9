"""Jobs: a cell of a sweep each, on this machine or a Slurm cluster. Only this file knows submitit.

A job is one process of train.py, or with --cluster debug a call in this one. The process is
stopped by a single SIGTERM, upon which it writes a checkpoint; it holds a lock, so that a job left
over from a killed sweep is waited for, not doubled.
"""

import collections
import contextlib
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import submitit
from absl import flags

from lra.runs import command
from lra.sweeps import plan
from lra.sweeps.plan import Cell
from lra.system import cores, locks
from lra.system.errors import UserError

YEAR = 365 * 24 * 60  # minutes


class Training(submitit.helpers.Checkpointable):
  """One train.py as a job; returns its exit code and whether it was asked to stop."""

  def __init__(
    self, cell: Cell, environment: Mapping[str, str | None], own: Sequence[int] = ()
  ) -> None:
    """environment: variables to set, or with None to unset; own: its cores, if not all."""
    self.arguments, self.log, self.own = cell.arguments, cell.log, list(own)
    self.environment = dict(environment) | cores.environment(own)

  def __call__(self) -> tuple[int, bool]:
    self._process, self._asked = None, set()
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2)
    before = {number: signal.signal(number, self._ask) for number in numbers}
    try:
      code = self._run()
    finally:
      for number, handler in before.items():
        signal.signal(number, handler)
      self._process, asked = None, self._asked
    if code and signal.SIGUSR2 in asked and callable(before[signal.SIGUSR2]):
      before[signal.SIGUSR2](signal.SIGUSR2, None)  # the end of a time slice: submitit requeues
    return code, bool(asked)

  def _ask(self, number: int, _: Any) -> None:
    """Passes the first signal on as SIGTERM; a second one would end train.py at once."""
    if not self._asked and self._process is not None:
      self._process.terminate()
    self._asked.add(number)

  def _run(self) -> int:
    environment = os.environ | {k: v for k, v in self.environment.items() if v is not None}
    for name in (name for name, value in self.environment.items() if value is None):
      environment.pop(name, None)
    with open(self.log.with_suffix(".lock"), "w") as lock:
      while not locks.take(lock.fileno()):
        if self._asked:
          return 128 + signal.SIGTERM
        time.sleep(0.5)
      with open(self.log, "wb") as log, ignored(signal.SIGUSR2), cores.only(self.own):
        process = subprocess.Popen(
          [sys.executable, "train.py", *self.arguments],
          cwd=plan.ROOT,
          env=environment,
          stdin=subprocess.DEVNULL,
          stdout=log,
          stderr=subprocess.STDOUT,
          start_new_session=True,  # out of reach of the terminal's Ctrl-C
          pass_fds=[lock.fileno()],  # the lock lasts as long as train.py
        )
      self._process = process
      if self._asked:
        process.terminate()
      while (code := process.poll()) is None:
        time.sleep(0.1)
      return code


class InProcess:
  """A job that calls train.py in this process, for a debugger; returns what Training does.

  Such a run is no result: its peak memory is that of all the runs before it, too.
  """

  def __init__(self, cell: Cell, *_: Any) -> None:
    self.arguments, self.log = cell.arguments, cell.log

  def __call__(self) -> tuple[int, bool]:
    import train  # the script above this package, which has flags of its own

    before, sys.argv = sys.argv, ["debugged_train.py", *self.arguments]
    self.log.unlink(missing_ok=True)
    try:
      with open(self.log.with_suffix(".lock"), "w") as lock, contextlib.chdir(plan.ROOT):
        if not locks.take(lock.fileno()):
          raise UserError("another process is at this run; try again when it has ended")
        code = train.main(command.define_flags(flags.FlagValues()))
    except (UserError, OSError) as error:  # any other one is for the debugger
      self.log.write_text(f"error: {error}\n")
      code = 1
    finally:
      sys.argv = before
    return code, code > 128


@contextlib.contextmanager
def ignored(number: int) -> Iterator[None]:
  """Processes started inside ignore the signal for good, unless they choose otherwise."""
  before = signal.signal(number, signal.SIG_IGN)
  try:
    yield
  finally:
    signal.signal(number, before)


def executor(cluster: str, folder: Path, options: Mapping[str, Any]) -> submitit.Executor:
  """The submitit executor. Raises UserError where there is no such cluster or option."""
  try:
    made = submitit.AutoExecutor(folder, cluster=cluster, slurm_max_num_timeout=1000)
    made.update_parameters(**({"timeout_min": YEAR} if cluster != "slurm" else {}) | options)
  except (RuntimeError, ValueError, NameError, TypeError) as error:
    raise UserError(f"--cluster {cluster}: {str(error).splitlines()[0]}") from None
  logging.getLogger("submitit").setLevel(logging.ERROR)
  return made


class Watch:
  """Tells which jobs have ended. Asks squeue, not sacct: that needs a database few have.

  `pending` holds the ids of those that have not begun.
  """

  SECONDS = 20.0  # between looks at the queue

  def __init__(self, cluster: str) -> None:
    self._slurm, self._looked, self._gone = cluster == "slurm", float("-inf"), collections.Counter()
    self.pending: frozenset[str] = frozenset()

  def ended(self, jobs: Sequence[submitit.Job]) -> list[submitit.Job]:
    """Those of `jobs` that have."""
    if not self._slurm:
      return [job for job in jobs if job.done()]
    if jobs and time.monotonic() - self._looked > self.SECONDS:
      self._looked = time.monotonic()
      states = _squeue()
      if states is not None:
        there = states.keys()
        self.pending = frozenset(job for job, state in states.items() if state == "PENDING")
        self._gone.update(job.job_id for job in jobs if job.job_id not in there)
    return [j for j in jobs if j.paths.result_pickle.exists() or self._gone[j.job_id] > 1]

  def outcome(self, job: submitit.Job) -> tuple[int, bool]:
    """The value that Training returned. Raises UserError if there is none."""
    if self._slurm and not job.paths.result_pickle.exists():
      raise UserError("the job has left the queue without a result: cancelled, or out of memory?")
    try:
      return job.result()
    except Exception as error:
      last = (str(error).strip().splitlines() or [type(error).__name__])[-1]
      raise UserError(f"the job ended without a result: {last}") from error


def _squeue() -> dict[str, str] | None:
  """The state of each of my jobs; None where Slurm does not answer."""
  command = ["squeue", "--me", "--noheader", "--format=%A %T"]
  try:
    listed = subprocess.run(command, capture_output=True, text=True, timeout=60)
  except subprocess.TimeoutExpired:
    return None
  return (
    dict(line.split() for line in listed.stdout.splitlines()) if not listed.returncode else None
  )


def submit(made: submitit.Executor, training: Training | InProcess) -> submitit.Job:
  """Raises UserError where the cluster does not take the job."""
  try:
    return made.submit(training)
  except submitit.core.utils.FailedJobError as error:  # sbatch says why in its last line
    raise UserError((str(error).strip().splitlines() or ["no reason given"])[-1]) from error


def gpus() -> list[str]:
  """Names of this machine's GPUs as CUDA_VISIBLE_DEVICES has them."""
  if (given := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
    return [name for name in given.split(",") if name]
  try:
    listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=30)
  except (OSError, subprocess.TimeoutExpired):
    return []
  names = [line for line in listed.stdout.splitlines() if line.startswith("GPU ")]
  return [str(i) for i in range(len(names))] if listed.returncode == 0 else []


def on_cpu() -> bool:
  """Whether runs would be on the CPU of this machine."""
  if given := os.environ.get("JAX_PLATFORMS"):
    return given == "cpu"
  if gpus():
    return False
  ask = [sys.executable, "-c", "import jax; print(jax.default_backend())"]
  try:  # in a process of its own: the one that finds a TPU holds it until it ends
    answer = subprocess.run(ask, capture_output=True, text=True, timeout=120)
  except subprocess.TimeoutExpired:
    return False
  return answer.stdout.strip() == "cpu"


def device_environment(slot: int, devices: Sequence[str], jobs: int) -> dict[str, str | None]:
  """Variables that give job `slot` of `jobs` its GPU; submitit's own setting hides them all."""
  if not devices:
    return {"CUDA_VISIBLE_DEVICES": os.environ.get("CUDA_VISIBLE_DEVICES")}
  environment = {"CUDA_VISIBLE_DEVICES": devices[slot % len(devices)]}
  if jobs > len(devices):  # several on one
    environment["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"
  return environment
