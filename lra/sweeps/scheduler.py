"""The scheduler of a sweep: starts its cells as jobs, some at a time, and shows their progress."""

import collections
import contextlib
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from lra.sweeps import launch, plan
from lra.sweeps.plan import Cell, Running
from lra.system import cores
from lra.system.errors import UserError
from lra.system.process import StopRequest
from lra.system.progress import Progress, duration


class Outcome(NamedTuple):
  """Result of a sweep."""

  finished: dict[Cell, dict[str, Any]]  # the results
  failed: dict[Cell, str]  # the reasons
  left: list[Cell]  # not finished because the sweep was stopped


class Sweep:
  """A sweep in progress: its cells by state, and the jobs that run."""

  def __init__(
    self,
    cells: Sequence[Cell],
    *,
    cluster: str = "local",
    options: Mapping[str, Any] | None = None,
    jobs: int = 1,
    devices: Sequence[str] = (),
    cores: Sequence[int] = (),
    retries: int = 0,
    progress: Progress | None = None,
    period: float = 1.0,
  ) -> None:
    """jobs: how many at a time; cores: shared out among them, or () and each may use all.

    retries: of each failed cell; period: seconds between looks.
    """
    self.cluster, self.jobs, self.devices, self.period = cluster, jobs, devices, period
    self.cores, self._watch, self._stopping = cores, launch.Watch(cluster), False
    self.options, self.progress = dict(options or {}), progress or Progress()
    self.finished = {cell: found for cell in cells if (found := plan.result(cell)) is not None}
    self.failed: dict[Cell, str] = {}
    self.waiting = collections.deque(cell for cell in cells if cell not in self.finished)
    self.tries = dict.fromkeys(self.waiting, retries + 1)
    self.running: dict[Cell, tuple[Any, int, float, float]] = {}

  def run(self, stop: StopRequest) -> Outcome:
    """Until all cells are finished or failed, or `stop` wants the end."""
    if not self.waiting:
      return Outcome(self.finished, self.failed, [])
    home = self.waiting[0].log.parent
    home.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="jobs-", dir=home))
    paths = [str(plan.ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    os.environ["PYTHONPATH"] = os.pathsep.join(dict.fromkeys(paths))  # jobs import this module
    made = launch.executor(self.cluster, folder, self.options)
    stop.listen()
    try:
      while (self.waiting or self.running) and stop.reason is None:
        while self.waiting and len(self.running) < self.jobs and stop.reason is None:
          if not self._submit(made):
            break
          if self.cluster == "debug" and self._settle():  # the signal went to the job alone
            return self._outcome()
        self._settle()
        self.progress.live(self._overview())
        if self.running:
          time.sleep(self.period)
      if stop.reason:
        self._stop(stop.reason)
    finally:
      stop.restore()
      if not self.running:
        shutil.rmtree(folder, ignore_errors=True)
    return self._outcome()

  def _outcome(self) -> Outcome:
    return Outcome(self.finished, self.failed, [*self.running, *self.waiting])

  def _next(self) -> Cell | None:
    """The first waiting cell that has nothing to wait for; those that wait for a failed one fail."""
    for cell in list(self.waiting):
      if cell.parent is None or cell.parent in self.finished:
        self.waiting.remove(cell)
        return cell
      if cell.parent in self.failed:
        self.waiting.remove(cell)
        self.failed[cell] = f"{cell.parent.folder.name}, from which it starts, failed"
    return None

  def _submit(self, made: Any) -> bool:
    """Starts the next cell; False if the cluster takes no more jobs for now."""
    if (cell := self._next()) is None:
      return False
    taken = {slot for _, slot, _, _ in self.running.values()}
    slot = next(slot for slot in range(self.jobs) if slot not in taken)
    environment = (
      {} if self.cluster == "slurm" else launch.device_environment(slot, self.devices, self.jobs)
    )
    own = cores.share(slot, self.jobs, self.cores) if self.cores else ()
    kind = launch.InProcess if self.cluster == "debug" else launch.Training
    with launch.ignored(signal.SIGINT) if self.cluster == "local" else contextlib.nullcontext():
      try:
        job = launch.submit(made, kind(cell, environment, own))
      except UserError as error:
        self.waiting.appendleft(cell)
        if not self.running:
          raise
        self.progress.live(f"{len(self.running)} jobs are in; {error}")
        return False
    self.running[cell] = (job, slot, time.monotonic(), plan.fraction(cell))
    return True

  def _settle(self) -> bool:
    """Moves what has ended out of `running`; True if Ctrl-C stopped one of them."""
    stopped = False
    ended = self._watch.ended([job for job, *_ in self.running.values()])
    for cell, (job, _, begin, _) in list(self.running.items()):
      if job not in ended:
        continue
      try:
        code, asked = self._watch.outcome(job)
      except UserError as error:  # it was killed, or the cluster has lost it
        code, asked, reason = None, False, str(error)
      del self.running[cell]
      self.tries[cell] -= 1
      if (found := plan.result(cell)) is not None:
        self.finished[cell] = found
        took = duration(time.monotonic() - begin)
        self.progress.line(f"{cell.folder.name}: {found['test']['accuracy']:.4f} ({took})")
        continue
      if self._stopping or (asked and self.cluster == "debug"):
        stopped = True
        self.waiting.appendleft(cell)
        continue
      if asked:
        reason = "somebody else stopped it"
      elif code is not None:
        bare = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        bare = bare if code else "its --max_seconds were over; the same command continues it"
        reason = plan.last_error(cell.log) or bare
      if self.tries[cell] > 0:
        self.progress.line(f"{cell.folder.name}: tried again after {reason}")
        self.waiting.append(cell)
      else:
        self.failed[cell] = reason
        self.progress.line(f"{cell.folder.name}: failed: {reason}")
    return stopped

  def _overview(self) -> str:
    now, running, waiting = time.monotonic(), [], [cell.task for cell in self.waiting]
    for cell, (job, slot, begin, done_before) in list(self.running.items()):
      if job.job_id in self._watch.pending:  # its time begins when it has left the queue
        self.running[cell] = (job, slot, now, done_before)
        waiting.append(cell.task)
      else:
        running.append(Running(cell.task, now - begin, done_before, plan.fraction(cell)))
    known = collections.defaultdict(list)
    for cell, found in self.finished.items():
      known[cell.task].append(found["time"]["seconds"])
    at_once = len(running) if self.cluster == "slurm" else min(self.jobs, len(self.tries))
    left = plan.seconds_left(known, running, waiting, at_once)
    text = plan.overview(self.finished, running, len(self.failed), len(waiting), left)
    return text[: shutil.get_terminal_size().columns - 1] if sys.stdout.isatty() else text

  def _stop(self, reason: str) -> None:
    """Asks every job to write a checkpoint and end, and waits until all have."""
    self.progress.line(f"{reason}: {len(self.running)} runs write a checkpoint and end")
    self._stopping, asked = True, float("-inf")
    give_up = time.monotonic() + (120 if self.cluster == "slurm" else float("inf"))
    while self.running and time.monotonic() < give_up:
      if time.monotonic() - asked > 5:  # again: a job may just have been starting
        asked = time.monotonic()
        for job, *_ in self.running.values():
          if self.cluster == "slurm":
            job.cancel(check=False)
          else:  # of a local job the id is the process
            with contextlib.suppress(ProcessLookupError):
              os.kill(int(job.job_id), signal.SIGTERM)
      time.sleep(0.1)
      self._settle()
