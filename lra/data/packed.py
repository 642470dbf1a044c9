"""Members of a tar or a zip, one after the other, in bounded memory and time.

What an archive of data does not hold is refused by an exception of tarfile or zipfile: paths that lead
out of it, links, devices, sparse files, sizes that are only declared, and content without end.
"""

import contextlib
import errno
import gzip
import stat
import struct
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import IO, Any, Self

BLOCK = 1 << 20
SLACK, RATIO = 1 << 28, 200  # an archive unpacks to SLACK + RATIO times its bytes, at most
HEADER = 1 << 20  # bytes of a tar's extended header, at most
Member = tuple[str, Callable[[], IO[bytes]]]  # name, and a function that opens it


def leads_out(name: str) -> bool:
  """Whether a path does not stay below the folder it is taken from."""
  path = PurePosixPath(name)
  return path.is_absolute() or ".." in path.parts or "\0" in name


def of_tar(path: Path, say: Callable[[str], None]) -> Iterator[Member]:
  """The files of a tar, gzipped or not. Open, and read, one before the next one is asked for."""
  size = path.stat().st_size
  with path.open("rb") as packed:
    gzipped = packed.read(2) == b"\x1f\x8b"
    packed.seek(0)
    plain = gzip.GzipFile(fileobj=packed) if gzipped else packed
    plain = _Bounded(plain, SLACK + RATIO * size)
    with _bad_tar():  # it reads the first header
      tar = tarfile.open(fileobj=plain, mode="r|", tarinfo=_Member)
    with tar:
      while member := _next(tar):
        tar.members.clear()  # else all headers are kept, which is gigabytes for the LRA release
        say(f"reading {path.name} ({packed.tell() / size:.0%})")
        if leads_out(member.name):
          raise tarfile.ReadError(f"{member.name[:80]!r} leads out of it")
        if member.issparse():
          raise tarfile.ReadError(f"{member.name[:80]!r} is a sparse file")
        if not member.isfile() and not member.isdir():
          raise tarfile.ReadError(f"{member.name[:80]!r} is a link or a device")
        if member.isfile():
          yield member.name, lambda member=member: tar.extractfile(member)
    while plain.read(BLOCK):
      pass


def of_zip(path: Path, say: Callable[[str], None]) -> Iterator[Member]:
  """The files of a zip."""
  with _bad_zip():
    packed = zipfile.ZipFile(path)

  def opened(info: zipfile.ZipInfo) -> IO[bytes]:
    with _bad_zip():
      return packed.open(info)

  with packed:
    infos = packed.infolist()
    if sum(info.file_size for info in infos) > SLACK + RATIO * path.stat().st_size:
      raise zipfile.BadZipFile(f"it unpacks to more than {RATIO} times its size")
    for info in infos:
      say(f"reading {path.name}")
      if leads_out(info.filename):
        raise zipfile.BadZipFile(f"{info.filename[:80]!r} leads out of it")
      if stat.S_IFMT(info.external_attr >> 16) not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise zipfile.BadZipFile(f"{info.filename[:80]!r} is a link or a device")
      if not info.filename.endswith("/"):  # is_dir takes no empty name
        yield info.filename, lambda info=info: opened(info)


class _Bounded:
  """A stream that ends with an error where an archive unpacks to far more than archives do."""

  def __init__(self, stream: Any, most: int) -> None:
    self._stream, self._left = stream, most

  def read(self, size: int) -> bytes:
    data = self._stream.read(min(size, BLOCK))
    self._left -= len(data)
    if self._left < 0:
      raise tarfile.ReadError(f"it unpacks to more than {RATIO} times its size")
    return data


class _Member(tarfile.TarInfo):
  """A member whose extended headers are read only where they have a size that such headers have.

  A header that is damaged is an error: of all but the first, tarfile takes it for the end.
  """

  @classmethod
  def fromtarfile(cls, tar: tarfile.TarFile) -> Self:
    try:
      return super().fromtarfile(tar)
    except tarfile.HeaderError as error:
      if isinstance(error, (tarfile.EmptyHeaderError, tarfile.EOFHeaderError)):  # type: ignore[attr-defined]
        raise  # the end
      raise ValueError(str(error)) from error

  def _proc_member(self, tar: tarfile.TarFile) -> tarfile.TarInfo:
    if not (self.isfile() or self.isdir()) and self.size > HEADER:
      raise tarfile.ReadError(f"a header of {self.size:,} bytes")
    return super()._proc_member(tar)  # the method that tarfile gives subclasses to change


def _next(tar: tarfile.TarFile) -> tarfile.TarInfo | None:
  with _bad_tar():
    return tar.next()


@contextlib.contextmanager
def _bad_tar() -> Iterator[None]:
  """Turns what tarfile's parsers of extended headers come across into its ReadError."""
  try:
    yield
  except (ValueError, LookupError, ArithmeticError, RecursionError, MemoryError) as error:
    raise tarfile.ReadError(f"a header is damaged: {error}") from error


@contextlib.contextmanager
def _bad_zip() -> Iterator[None]:
  """Turns what zipfile raises of damaged headers, and of encrypted members, into its BadZipFile."""
  try:
    yield
  except (RuntimeError, ValueError, LookupError, ArithmeticError, struct.error) as error:
    raise zipfile.BadZipFile(str(error)) from error
  except OSError as error:
    if error.errno != errno.EINVAL:  # of a place before the file's begin
      raise
    raise zipfile.BadZipFile(str(error)) from error
