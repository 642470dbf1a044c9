"""TensorBoard's event file of a session. Only this file knows TensorBoard.

It is written in this thread. tensorboardX's SummaryWriter has a thread for that; a full disk ends it,
and the run then waits for it for ever.
"""

import contextlib
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.summary import scalar


class EventFile:
  """Scalars by step; what other files of the folder have after `purge` is not shown."""

  def __init__(self, folder: Path, purge: int) -> None:
    _put_first(sorted(folder.glob("events.out.tfevents.*")))
    self._writer = EventsWriter(str(folder / "events"))
    self._write(Event(step=purge, session_log=SessionLog(status=SessionLog.START)))

  def log(self, step: int, values: Mapping[str, float]) -> None:
    """Writes what is finite of `values`. Raises OSError when the disk is full."""
    for name, value in values.items():
      if math.isfinite(value):
        self._write(Event(step=step, summary=scalar(name, value)))
    self._writer.flush()

  def close(self) -> None:
    """Closes the file. A full disk has been told of by `log`."""
    with contextlib.suppress(OSError):
      self._writer.close()

  def _write(self, event: Event) -> None:
    event.wall_time = time.time()
    self._writer.write_event(event)


def _put_first(events: Sequence[Path]) -> None:
  """Numbers event files where the clock has gone back, or stands: a new one is named after it.

  TensorBoard reads them in the order of their names.
  """
  if events and events[-1].name.split(".")[3] >= str(time.time())[:10]:
    for number, path in enumerate(events):
      prefix, host = f"events.out.tfevents.{number:010}", path.name.split(".", 4)[4]
      path.rename(path.with_name(f"{prefix}.{host}"))
