"""Raw files given by the user: look-up, hashes, and reading of a folder, a tar or a zip alike."""

import contextlib
import errno
import fcntl
import hashlib
import itertools
import lzma
import os
import shutil
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from lra.data import packed
from lra.system import locks
from lra.system.errors import UserError
from lra.system.progress import once_a_second

LINE = 1 << 26  # bytes of a line, at most; the longest paper has a few millions
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
  lock = locks.FileLock(file)
  if not lock.acquire():
    report("waiting for another process that prepares the same data\n")
    lock.acquire(wait=True)
  try:
    yield
  finally:
    lock.release()


@contextlib.contextmanager
def reading(path: Path) -> Iterator[None]:
  """Turns the errors of a file that is truncated, corrupt or out of reach into a UserError."""
  try:
    yield
  except (FileNotFoundError, PermissionError) as error:
    raise UserError(f"cannot read {error.filename or path}: {error.strerror}") from error
  except (
    *(tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, OSError),
  ) as error:
    if getattr(error, "errno", None) not in (None, errno.EIO):  # a full disk, a closed pipe, ...
      raise
    raise UserError(
      f"{path} is truncated or corrupt ({error}): delete it and get it again"
    ) from error


def content(opened: IO[bytes], most: int, where: str) -> bytes:
  """All bytes of an open file. Raises UserError beyond `most`, before there are many more."""
  data = opened.read(most + 1)
  if len(data) > most:
    raise UserError(f"{where} has more than {most:,} bytes, which no such file has: get it again")
  return data


def lines(opened: IO, where: str, most: int = LINE) -> Iterator[Any]:
  """Lines of an open file, text or bytes. Raises UserError at one that is longer than `most`."""
  for number in itertools.count(1):
    line = opened.readline(most + 1)
    if len(line) > most:
      raise UserError(f"line {number} of {where} is longer than {most:,} bytes: get it again")
    if not line:
      return
    yield line


def members(path: Path, report: Callable[[str], None]) -> Iterator[packed.Member]:
  """(name, open) of the files of a folder, of a zip, or of a tar, gzipped or not, read in one pass.

  Open, and read, a member before the next one is asked for. An archive iterated to its end has had
  its checksums verified. What an archive of data does not hold is refused: paths that lead out of
  it, links, devices, sparse files, and far more bytes than its size can hold. Use inside
  `reading(path)`.
  """
  say = once_a_second(report)
  if path.is_dir():
    yield from _of_folder(path)
  elif path.suffix == ".zip":
    yield from packed.of_zip(path, say)
  else:
    yield from packed.of_tar(path, say)


def _of_folder(path: Path) -> Iterator[packed.Member]:
  for folder, folders, names in os.walk(path):
    folders.sort()
    for file in (Path(folder) / name for name in sorted(names)):
      if file.is_file():  # no pipe, which would be waited for
        yield file.relative_to(path.parent).as_posix(), lambda file=file: file.open("rb")


@contextlib.contextmanager
def unpacked(
  path: Path, target: Callable[[str], str | None], cache_dir: Path, report: Callable[[str], None]
) -> Iterator[Path]:
  """A folder, while inside, of those members of a tar that `target` has a relative path for.

  A UserError from inside names the tar in its place. What killed processes have left is removed.
  Raises UserError for a path that leads out of the folder, or to what is there already as a folder.
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
            if packed.leads_out(place):
              raise tarfile.ReadError(f"{name!r} leads out of it")
            try:
              (folder / place).parent.mkdir(parents=True, exist_ok=True)
              file = (folder / place).open("wb")
            except (FileExistsError, NotADirectoryError, IsADirectoryError) as error:
              raise tarfile.ReadError(f"{name!r} is a file and a folder") from error
            except (OSError, UnicodeEncodeError) as error:
              if getattr(error, "errno", None) not in (None, errno.ENAMETOOLONG, errno.EILSEQ):
                raise
              raise tarfile.ReadError(f"{name[:80]!r} is no file name") from error
            with open_member() as member, file:
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
