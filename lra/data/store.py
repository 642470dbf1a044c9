"""Prepared splits on disk: flat arrays and a manifest that hashes them, one directory a data set.

The directory's name is derived from the task's options, so that options never share data. It appears
whole by one rename or not at all; a lock file makes concurrent runs prepare it once.
"""

import contextlib
import dataclasses
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lra.data import archives
from lra.data.tasks import SPLITS, Examples, Prepared, Task
from lra.data.tasks.task import duplicates
from lra.system.errors import UserError

SEAL = "manifest.sha256"  # of the manifest; stores of earlier revisions have none
FORMAT = 1  # raise it when the layout of a store changes


@dataclasses.dataclass(frozen=True)
class Store:
  """Verified splits, memory-mapped, and the manifest they were checked against."""

  path: Path
  splits: dict[str, Examples]
  manifest: dict[str, Any]

  @property
  def digest(self) -> str:
    """SHA-256 of the manifest, hence of every byte of the data."""
    return _sha256(self.path / "manifest.json")


def open_store(
  task: Task,
  options: Mapping[str, Any],
  *,
  data_dir: Path,
  raw_dir: Path | None,
  report: Callable[[str], None],
) -> Store:
  """The task's data under `data_dir`, prepared first if it is not there yet.

  Raises UserError when it is damaged, cannot be written, or has no source.
  """
  path = (
    data_dir / f"{task.name}-{_identity(task.name, options, task.fingerprint(raw_dir, options))}"
  )
  if not path.exists():
    with _writable(data_dir), archives.locked(data_dir / f".{path.name}.lock", report):
      if not path.exists():
        _prepare(path, task, options, data_dir, raw_dir, report)
  return _load(path)


def _prepare(path, task, options, data_dir, raw_dir, report):
  """Prepares into a directory beside `path`, then renames."""
  for left in data_dir.glob(f".{path.name}.tmp*"):  # of a process that was killed
    shutil.rmtree(left)
  temporary = data_dir / f".{path.name}.tmp{os.getpid()}"
  temporary.mkdir()
  try:
    start = time.monotonic()
    report(f"{task.name}: preparing {path}")
    if raw_dir and not raw_dir.is_dir():
      raise UserError(f"the folder of raw files {raw_dir} (--raw_dir or $LRA_RAW_DIR) is not there")
    prepared = task.prepare(
      raw_dir=raw_dir, cache_dir=data_dir / "downloads", report=report, **options
    )
    shared = duplicates(prepared.splits)
    if prepared.source["origin"] != "generated":
      prepared.source["duplicates"] = shared
    elif any(shared.values()):
      raise UserError(f"{task.name}: splits share examples ({shared}); take another task.seed")
    _write(temporary, task.name, options, prepared)
    temporary.rename(path)
    report(f"{task.name}: prepared in {time.monotonic() - start:.1f} s")
  except BaseException:
    shutil.rmtree(temporary, ignore_errors=True)
    raise


def _write(path: Path, name: str, options: Mapping[str, Any], prepared: Prepared) -> None:
  files, splits = {}, {}
  for split in SPLITS:
    examples = prepared.splits[split]
    splits[split] = {
      "examples": len(examples.labels),
      "documents": len(examples.offsets) - 1,
      "tokens": len(examples.tokens),
      "labels": np.bincount(examples.labels).tolist(),
    }
    for field, array in examples._asdict().items():
      file = path / f"{split}.{field}.npy"
      with open(file, "wb") as f:
        np.save(f, array)
        f.flush()
        os.fsync(f.fileno())
      files[file.name] = {"bytes": file.stat().st_size, "sha256": _sha256(file)}
  manifest = {
    "format": FORMAT,
    "task": name,
    "options": dict(options),
    "source": prepared.source,
    "splits": splits,
    "files": files,
  }
  (path / "manifest.json").write_text(json.dumps(manifest, indent=1, sort_keys=True) + "\n")
  (path / SEAL).write_text(_sha256(path / "manifest.json") + "\n")


def _load(path: Path) -> Store:
  """The store at `path`, memory-mapped. Raises UserError unless every byte matches its hash."""

  def damaged(what: str) -> UserError:
    return UserError(f"data store {path} is damaged: {what}; delete it and run again to rebuild it")

  seal = path / SEAL
  try:
    if seal.exists() and seal.read_bytes() != _sha256(path / "manifest.json").encode() + b"\n":
      raise damaged(f"manifest.json or {SEAL} was altered")
    manifest = json.loads((path / "manifest.json").read_text())
    names = [f"{split}.{field}.npy" for split in SPLITS for field in Examples._fields]
    files = {n: (manifest["files"][n]["bytes"], manifest["files"][n]["sha256"]) for n in names}
  except FileNotFoundError:
    raise damaged("manifest.json is missing") from None
    known = manifest["source"]["origin"], [manifest["splits"][split] for split in SPLITS]
    if not all(isinstance(size, int) for size, _ in files.values()) or not all(known):
      raise ValueError
  except (ValueError, KeyError, TypeError, RecursionError):
    raise damaged("manifest.json cannot be read") from None
  for name, (size, digest) in files.items():
    file = path / name
    if not file.exists():
      raise damaged(f"{name} is missing")
    if file.stat().st_size != size:
      raise damaged(f"{name} has {file.stat().st_size:,} bytes instead of {size:,}")
    if _sha256(file) != digest:
      raise damaged(f"the content of {name} was altered")
  try:
    splits = {
      split: Examples(
        *(np.load(path / f"{split}.{field}.npy", mmap_mode="r") for field in Examples._fields)
      )
      for split in SPLITS
    }
  except (OSError, ValueError) as error:
    raise damaged(str(error)) from None
  return Store(path, splits, manifest)


def _identity(name: str, options: Mapping[str, Any], files: Any) -> str:
  what = [FORMAT, name, dict(options), *([] if files is None else [files])]
  canonical = json.dumps(what, sort_keys=True)
  return hashlib.sha256(canonical.encode()).hexdigest()[:10]


def _sha256(file: Path) -> str:
  with open(file, "rb") as f:
    return hashlib.file_digest(f, "sha256").hexdigest()


@contextlib.contextmanager
def _writable(data_dir: Path) -> Iterator[None]:
  """Turns OSErrors of a folder that cannot be written, or of a full disk, into a UserError."""
  try:
    data_dir.mkdir(parents=True, exist_ok=True)
    yield
  except OSError as error:
    at = Path(error.filename or data_dir)
    if not (at.is_relative_to(data_dir) or data_dir.is_relative_to(at)):
      raise UserError(f"cannot read {error.filename}: {error.strerror}") from error
    raise UserError(
      f"cannot prepare data in {data_dir}: {error.strerror or f'a write fell short ({error})'}; "
      "free some space or choose another folder with --data_dir or $LRA_DATA_DIR"
    ) from error
