"""Locks between processes. They end with the process that holds them, however it ends."""

import fcntl
import os
from pathlib import Path


def take(descriptor: int, wait: bool = False) -> bool:
  """Locks an open file; False if another process has it. A file system without locks has it free."""
  try:
    fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
  except BlockingIOError:
    return False
  except OSError:
    pass
  return True


class FileLock:
  """A lock file that is there for as long as the lock is held, or until the next holder's end."""

  def __init__(self, path: Path) -> None:
    self.path, self._descriptor = path, None

  def acquire(self, wait: bool = False) -> bool:
    """Makes the file; False if another process holds the lock, which `wait` waits for."""
    while True:
      descriptor = os.open(self.path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o666)
      if not take(descriptor, wait):
        os.close(descriptor)
        return False
      try:
        if os.path.samestat(os.fstat(descriptor), os.stat(self.path)):
          self._descriptor = descriptor
          return True
      except FileNotFoundError:
        pass
      os.close(descriptor)  # the holder before removed the file after we had opened it

  def release(self) -> None:
    """Removes the file, then lets go."""
    if self._descriptor is not None:
      self.path.unlink(missing_ok=True)
      os.close(self._descriptor)
      self._descriptor = None
