"""Raw files given by the user: look-up, hashes, and reading of a folder or a tar archive alike."""

import contextlib
import errno
import fcntl
import gzip
import hashlib
import lzma
import os
import shutil
import tarfile
import tempfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from lra.system.errors import UserError
from lra.system.progress import once_a_second

BLOCK = 1 << 20
LRA = ("lra_release.gz", "lra_release.tar.gz")  # names of the benchmark's release


def digest(path: Path, algorithm: str = "sha256") -> str:
  """Hexadecimal hash of the file at `path`."""
  with path.open("rb") as file:
    return hashlib.file_digest(file, algorithm).hexdigest()


def find(raw_dir: str | Path | None, *names: str, itself: tuple[str, ...] = ()) -> Path | None:
  """The first of `names` (files or folders) in `raw_dir`, or `raw_dir` if one of `itself` is in it.

  Of NAME.gz, NAME will do: the plain tar that some browsers make of it.
  """
  if not raw_dir:
    return None
  for path in (Path(raw_dir) / name for name in names):
    if path.exists():
      return path
    if path.suffix == ".gz" and path.with_suffix("").is_file():
      return path.with_suffix("")
  return Path(raw_dir) if any((Path(raw_dir) / name).exists() for name in itself) else None


@contextlib.contextmanager
def locked(file: Path, report: Callable[[str], None]) -> Iterator[None]:
  """A lock file for the time inside: one process at a time, the others wait and report it."""
  with open(file, "w") as f:
    try:
      fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
      report("waiting for another process that prepares the same data\n")
      fcntl.flock(f, fcntl.LOCK_EX)
    yield


@contextlib.contextmanager
def reading(path: Path) -> Iterator[None]:
  """Turns the errors of a file that is truncated, corrupt or out of reach into a UserError."""
  try:
    yield
  except (FileNotFoundError, PermissionError) as error:
    raise UserError(f"cannot read {error.filename or path}: {error.strerror}") from error
  except (tarfile.TarError, zlib.error, lzma.LZMAError, EOFError, OSError) as error:
    if getattr(error, "errno", None) not in (None, errno.EIO):  # a full disk, a closed pipe, ...
      raise
    raise UserError(
      f"{path} is truncated or corrupt ({error}): delete it and get it again"
    ) from error


def members(
  path: Path, report: Callable[[str], None]
) -> Iterator[tuple[str, Callable[[], BinaryIO]]]:
  """(name, open) of the files of a folder, or of a tar, gzipped or not, read in one pass.

  Open, and read, a member before the next one is asked for. An archive iterated to its end has had
  its CRC checked. Use inside `reading(path)`.
  """
  if path.is_dir():
    for folder, folders, names in os.walk(path):
      folders.sort()
      for file in (Path(folder) / name for name in sorted(names)):
        yield file.relative_to(path.parent).as_posix(), lambda file=file: file.open("rb")
    return
  size, say = path.stat().st_size, once_a_second(report)
  with path.open("rb") as packed:
    gzipped = packed.read(2) == b"\x1f\x8b"
    packed.seek(0)
    plain = gzip.GzipFile(fileobj=packed) if gzipped else packed
    with tarfile.open(fileobj=plain, mode="r|") as tar:
      while member := tar.next():
        tar.members.clear()  # type: ignore[attr-defined]  # else all headers are kept, which is gigabytes for the LRA release
        say(f"reading {path.name} ({packed.tell() / size:.0%})")
        if member.isfile():
          yield member.name, lambda member=member: tar.extractfile(member)
    while plain.read(BLOCK):
      pass


@contextlib.contextmanager
def unpacked(
  path: Path, target: Callable[[str], str | None], cache_dir: Path, report: Callable[[str], None]
) -> Iterator[Path]:
  """A folder, while inside, of those members of a tar that `target` has a relative path for.

  A UserError from inside names the tar in its place. What killed processes have left is removed.
  """
  cache_dir.mkdir(parents=True, exist_ok=True)
  with contextlib.ExitStack() as stack:
    with locked(cache_dir / ".unpacked.lock", report):
      for left in cache_dir.glob("unpacked-*"):
        with contextlib.suppress(BlockingIOError), _held(left):
          shutil.rmtree(left)
      made = tempfile.TemporaryDirectory(prefix="unpacked-", dir=cache_dir)
      folder = Path(stack.enter_context(made))
      stack.enter_context(_held(folder))
    try:
      with reading(path):
        for name, open_member in members(path, report):
          if place := target(name):
            (folder / place).parent.mkdir(parents=True, exist_ok=True)
            with open_member() as member, (folder / place).open("wb") as file:
              shutil.copyfileobj(member, file)
      yield folder
    except UserError as error:
      raise UserError(str(error).replace(str(folder), str(path))) from error


@contextlib.contextmanager
def _held(folder: Path) -> Iterator[None]:
  """Marks a folder as in use for as long as this process lives. BlockingIOError: another one's."""
  descriptor = os.open(folder, os.O_RDONLY)
  try:
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    yield
  finally:
    os.close(descriptor)
