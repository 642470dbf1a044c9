"""Checkpoints of a run, newest kept, written atomically. Only this file knows orbax."""

import contextlib
import hashlib
import shutil
import sys
import textwrap
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
from absl import logging
from orbax.checkpoint import v1 as ocp

from lra.system import files, hosts
from lra.system.errors import UserError

SEAL = "sha256"  # in the folder of a checkpoint; those of earlier revisions have none


class Checkpoints:
  """The checkpoint folder of one run."""

  def __init__(self, folder: Path) -> None:
    self._folder = folder
    logging.set_verbosity(logging.FATAL)  # orbax logs a traceback of every error that it raises
    latest = ocp.training.preservation_policies.LatestN(1)
    self._orbax = ocp.training.Checkpointer(folder.absolute(), preservation_policy=latest)

  @property
  def latest(self) -> int | None:
    """The step of the newest complete checkpoint, or None."""
    newest = self._orbax.latest
    return None if newest is None else newest.step

  def save(self, step: int, tree: Any) -> None:
    """Returns when the checkpoint is on disk. Raises UserError when it cannot be written."""
    if self.latest == step:
      return
    try:
      with _one_error():
        self._orbax.save(step, tree)
      if jax.process_index() == 0:
        _seal(self._folder / str(step))
    except Exception as error:  # orbax and tensorstore raise many kinds for a full disk
      cause = str(error).splitlines()[0]
      if "No space left" in cause:
        cause = "no space left on device"
      kept = "none" if self.latest is None else f"step {self.latest}"
      raise UserError(
        f"cannot write the checkpoint of step {step} to {self._folder}: {cause}; free some space "
        f"and run the same command again (it continues from the last checkpoint: {kept})"
      ) from error

  def seal(self) -> None:
    """Seals the newest checkpoint if a killed process, or an earlier revision, has not."""
    if self.latest is not None and hosts.first():
      folder = self._folder / str(self.latest)
      if not (folder / SEAL).exists():
        _seal(folder)

  def load(self, like: Any, fix: str = "delete that folder to start the run anew") -> Any:
    """The newest checkpoint, with the structure, dtypes and shardings of `like`.

    Raises UserError, which ends with `fix`, if it is damaged or of another structure.
    """
    abstract = jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), like
    )
    _check_seal(self._folder / str(self.latest), fix)
    try:
      with _one_error():
        return self._orbax.load(None, abstract)
    except Exception as error:
      raise UserError(
        f"the checkpoint of step {self.latest} in {self._folder} cannot be read "
        f"({textwrap.shorten(str(error), 160)}); {fix}"
      ) from error

  def clear(self) -> None:
    """Deletes all checkpoints."""
    self.close()
    hosts.wait("clear checkpoints")
    if not hosts.first():
      return
    gone = self._folder.with_name("checkpoints.deleted")
    shutil.rmtree(gone, ignore_errors=True)  # of a process that was killed here
    self._folder.rename(gone)
    shutil.rmtree(gone)

  def close(self) -> None:
    self._orbax.close()


@contextlib.contextmanager
def _one_error() -> Iterator[None]:
  """When one of many reads or writes fails, the threads of the others do not complain, then or later."""
  shown = sys.excepthook, sys.unraisablehook
  sys.excepthook = sys.unraisablehook = lambda *_: None
  try:
    yield
  except BaseException:
    warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)
    raise
  sys.excepthook, sys.unraisablehook = shown


def _digest(folder: Path) -> str:
  """SHA-256 of the names and the bytes of all files of a checkpoint but its seal."""
  whole = hashlib.sha256()
  for path in sorted(path for path in folder.rglob("*") if path.is_file()):
    if path != folder / SEAL:
      with path.open("rb") as file:
        content = hashlib.file_digest(file, "sha256").hexdigest()
      whole.update(f"{content}  {path.relative_to(folder).as_posix()}\n".encode())
  return whole.hexdigest()


def _seal(folder: Path) -> None:
  """Writes the digest of a complete checkpoint beside its files, whole or not at all."""
  files.write(folder / SEAL, _digest(folder) + "\n")


def _check_seal(folder: Path, fix: str) -> None:
  """Raises UserError, which ends with `fix`, if a byte of a checkpoint has changed since."""
  seal = folder / SEAL
  if seal.exists() and seal.read_bytes() != _digest(folder).encode() + b"\n":
    raise UserError(
      f"the checkpoint of step {folder.name} in {folder.parent} cannot be read (it is damaged: its "
      f"files do not have the digest in {SEAL}); {fix}"
    )
