"""The end of a process: requests to stop, exit codes, and errors as one line."""

import signal
import sys
import time
import traceback
from collections.abc import Callable
from types import FrameType

from lra.system import aborts, hosts
from lra.system.errors import UserError


class StopRequest:
  """A request to stop a run before its end: a time limit, Ctrl-C or a scheduler's signal."""

  def __init__(self, max_seconds: float | None = None) -> None:
    self._deadline = time.monotonic() + (float("inf") if max_seconds is None else max_seconds)
    self._signal, self._previous = 0, {}

  def listen(self) -> None:
    """From here on a signal is a request; before, it ends the process."""
    if not self._previous:
      self._previous = {
        number: signal.signal(number, self._on_signal) for number in (signal.SIGINT, signal.SIGTERM)
      }

  def _on_signal(self, number: int, _: FrameType | None) -> None:
    self._signal = number
    self.restore()  # a second one ends the process at once

  def restore(self) -> None:
    """Puts back the handlers that were there before."""
    for number, handler in self._previous.items():
      signal.signal(number, handler)

  @property
  def reason(self) -> str | None:
    """The reason to stop, None while the run may go on."""
    if self._signal:
      return signal.Signals(self._signal).name
    return "--max_seconds is over" if time.monotonic() > self._deadline else None

  @property
  def exit_code(self) -> int:
    """Exit code of the process: 0, or 128 + signal as shells have it."""
    return 128 + self._signal if self._signal else 0


def run_main(main: Callable[[], int]) -> None:
  """Runs main and exits with its code; a UserError or a full disk is one line and exit code 1."""
  try:
    sys.exit(main())
  except UserError as error:
    print(f"error: {error}", file=sys.stderr)
  except KeyboardInterrupt:
    print("interrupted", file=sys.stderr)
    sys.exit(130)
  except Exception as error:
    if hosts.lost(error):
      print(aborts.LOST, file=sys.stderr)
    elif not isinstance(error, OSError):
      traceback.print_exc()
    else:
      print(f"error: {error}; free some space or mend the path, then run it again", file=sys.stderr)
  hosts.leave()
  sys.exit(1)
