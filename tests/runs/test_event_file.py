"""The event file: what TensorBoard reads of it, and a disk that is full."""

import errno
import struct

import pytest
from tensorboardX.proto.event_pb2 import Event, SessionLog

from lra.runs.event_file import EventFile


def events(folder):
  """What the one event file of a folder holds, a record after the other."""
  (path,) = folder.glob("events.out.tfevents.*")
  data, found = path.read_bytes(), []
  while data:
    (size,) = struct.unpack("<Q", data[:8])  # then its checksum, the event, and that one's checksum
    found.append(Event.FromString(data[12 : 12 + size]))
    data = data[16 + size :]
  return found


def test_finite_values_are_there_as_soon_as_they_are_logged(tmp_path):
  file = EventFile(tmp_path, purge=5)
  file.log(7, {"train/loss": 0.5, "train/accuracy": float("nan")})
  version, start, *scalars = events(tmp_path)
  file.close()
  assert version.file_version == "brain.Event:2"
  assert (start.step, start.session_log.status) == (5, SessionLog.START)
  assert [(e.step, e.summary.value[0].tag, e.summary.value[0].simple_value) for e in scalars] == [
    (7, "train/loss", 0.5)
  ]


def test_full_disk_is_told_by_the_line_that_does_not_fit(tmp_path, monkeypatch):
  file = EventFile(tmp_path, purge=1)

  def full():
    raise OSError(errno.ENOSPC, "No space left on device")

  monkeypatch.setattr(file._writer, "flush", full)
  with pytest.raises(OSError, match="No space left"):
    file.log(1, {"train/loss": 0.5})
  file.close()
  monkeypatch.undo()
  file.close()
