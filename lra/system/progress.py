"""Progress lines on the terminal, and the clock of a run."""

import collections
import contextlib
import math
import sys
import time
from collections.abc import Callable, Iterator
from typing import TextIO


class Progress:
  """Prints to `stream`: a live line is overwritten by the next one, or, where the stream is no
  terminal, printed at most every ten seconds; a plain line stays."""

  def __init__(self, stream: TextIO | None = None) -> None:
    """stream: None for sys.stdout."""
    self._stream = stream or sys.stdout
    self._live = self._stream.isatty()
    self._shown = 0  # characters of the live line on the screen
    self._last = float("-inf")

  def live(self, text: str) -> None:
    """Shows the present state; a text that ends with a newline is a plain line."""
    if text.endswith("\n"):
      self.line(text.rstrip("\n"))
    elif self._live:
      self._stream.write("\r" + text.ljust(self._shown))
      self._stream.flush()
      self._shown = len(text)
    elif time.monotonic() - self._last >= 10:
      self._last = time.monotonic()
      print(text, file=self._stream, flush=True)

  def line(self, text: str) -> None:
    """Prints a line that stays."""
    if self._shown:
      self._stream.write("\r" + " " * self._shown + "\r")
      self._shown = 0
    print(text, file=self._stream, flush=True)


def once_a_second(report: Callable[[str], None]) -> Callable[[str], None]:
  """`report`, but calls within a second of the last one that got through are dropped."""
  last = -math.inf

  def say(text: str) -> None:
    nonlocal last
    if time.monotonic() - last >= 1.0:
      last = time.monotonic()
      report(text)

  return say


def duration(seconds: float) -> str:
  """Seconds as 45s, 3m20s or 2h05m."""
  seconds = round(seconds)
  if seconds < 60:
    return f"{seconds}s"
  if seconds < 3600:
    return f"{seconds // 60}m{seconds % 60:02d}s"
  return f"{seconds // 3600}h{seconds % 3600 // 60:02d}m"


class Clock:
  """Clock of a session: wall time, and the pauses in it that are not training.

  `before` is the time of the same run's earlier sessions and attempts, for whoever knows it to set.
  """

  def __init__(self, before: float = 0.0) -> None:
    self.before = before
    self._begin = time.monotonic()
    self._mark = 0.0
    self.pauses = collections.defaultdict(float)  # seconds by name

  @property
  def total(self) -> float:
    """Seconds since the session began."""
    return time.monotonic() - self._begin

  @property
  def run(self) -> float:
    """Seconds the whole run has taken."""
    return self.before + self.total

  @property
  def training(self) -> float:
    """Seconds outside pauses."""
    return self.total - sum(self.pauses.values())

  def lap(self) -> float:
    """Training seconds since the last lap."""
    before, self._mark = self._mark, self.training
    return self._mark - before

  @contextlib.contextmanager
  def pause(self, name: str) -> Iterator[None]:
    """Counts what happens inside under `name`."""
    before = time.monotonic()
    try:
      yield
    finally:
      self.pauses[name] += time.monotonic() - before
