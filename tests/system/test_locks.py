"""Locks: one holder at a time, and a file that goes with its holder."""

import os

from lra.system.locks import FileLock


def test_one_holder_at_a_time(tmp_path):
  a, b = FileLock(tmp_path / "lock"), FileLock(tmp_path / "lock")
  assert a.acquire() and not b.acquire()
  a.release()
  assert list(tmp_path.iterdir()) == [] and b.acquire()
  a.release()  # of one that does not hold it nothing happens
  assert (tmp_path / "lock").exists() and not a.acquire()
  b.release()


def test_file_that_was_removed_between_opening_and_locking_is_no_lock(tmp_path, monkeypatch):
  lock, opened, open_ = FileLock(tmp_path / "lock"), [], os.open

  def removed(path, *rest):
    opened.append(open_(path, *rest))
    if len(opened) == 1:
      os.unlink(path)
    return opened[-1]

  monkeypatch.setattr(os, "open", removed)
  assert lock.acquire() and len(opened) == 2 and (tmp_path / "lock").exists()
  lock.release()
