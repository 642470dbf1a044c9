"""Archives that hold what no archive of data does: refused by one clear error, at no cost."""

import gzip
import io
import os
import struct
import tarfile
import tracemalloc
import zipfile

import pytest

from lra.data import archives, packed
from lra.system.errors import UserError
from packing import tar, zipped

TERABYTES = 5 << 40


def read(data, folder, name="a.tar"):
  """The contents of an archive of these bytes."""
  path, found = folder / name, {}
  path.write_bytes(data)
  with archives.reading(path):
    for member, opened in archives.members(path, lambda _: None):
      with opened() as file:
        found[member] = file.read()
  return found


def entry(name="b", **changes):
  made = tarfile.TarInfo(name)
  for key, value in changes.items():
    setattr(made, key, value)
  return made


def test_a_zip_reads_like_a_tar(tmp_path):
  files = {"root/a": b"one" * 999, "b": b""}
  assert read(zipped(**files), tmp_path, "a.zip") == files == read(tar(**files), tmp_path)


@pytest.mark.parametrize("name", ["../x", "a/../../x", "/etc/x"])
@pytest.mark.parametrize(("pack", "file"), [(tar, "a.tar"), (zipped, "a.zip")])
def test_paths_that_lead_out_are_refused(tmp_path, pack, file, name):
  with pytest.raises(UserError, match=f"{file} is truncated or corrupt .*leads out of it"):
    read(pack(**{name: b"one"}), tmp_path, file)


@pytest.mark.parametrize(
  "kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE]
)
def test_links_and_devices_are_refused(tmp_path, kind):
  with pytest.raises(UserError, match="'b' is a link or a device"):
    read(tar(entry(type=kind, linkname="/etc/passwd"), a=b"one"), tmp_path)


@pytest.mark.parametrize("mode", [0o120777, 0o020666, 0o010666])
def test_links_and_devices_in_a_zip_are_refused(tmp_path, mode):
  made = io.BytesIO()
  with zipfile.ZipFile(made, "w") as file:
    info = zipfile.ZipInfo("b")
    info.external_attr = mode << 16
    file.writestr(info, "/etc/passwd")
  with pytest.raises(UserError, match="'b' is a link or a device"):
    read(made.getvalue(), tmp_path, "a.zip")


def declared(name):
  """Archives of a few kilobytes that say they hold terabytes, by name."""
  sparse = entry(pax_headers={"GNU.sparse.map": "0,1", "GNU.sparse.size": str(TERABYTES)}, size=1)
  if name == "a tar":
    return entry(size=TERABYTES).tobuf(tarfile.GNU_FORMAT) + bytes(2048)
  if name == "a sparse file":
    return sparse.tobuf(tarfile.PAX_FORMAT) + b"x" + bytes(2047)
  if name == "a header":
    return entry(type=tarfile.XHDTYPE, size=TERABYTES).tobuf(tarfile.GNU_FORMAT) + bytes(2048)
  if name == "a long name":
    return entry(type=tarfile.GNUTYPE_LONGNAME, size=1 << 24).tobuf() + bytes(1 << 24)
  whole = bytearray(zipped(**{"wiki.train.raw": b"one"}))
  at = whole.index(b"PK\1\2")
  if name == "a zip":
    struct.pack_into("<I", whole, at + 24, 2**32 - 2)  # the size in the central directory
    return bytes(whole)
  struct.pack_into("<I", whole, whole.index(b"PK\5\6") + 16, 2**32 - 2)  # where that is
  return bytes(whole)


@pytest.mark.parametrize(
  ("name", "said"),
  [
    ("a tar", "truncated or corrupt"),
    ("a sparse file", "is a sparse file"),
    ("a header", "a header of 5,497,558,138,880 bytes"),
    ("a long name", "a header of 16,777,216 bytes"),
    ("a zip", "more than 200 times its size"),
    ("a zip's directory", "truncated or corrupt"),
  ],
)
def test_sizes_that_are_only_declared_are_refused(tmp_path, name, said):
  data = declared(name)
  tracemalloc.start()
  try:
    with pytest.raises(UserError, match=said):
      read(data, tmp_path, "a.zip" if "zip" in name else "a.tar")
    assert tracemalloc.get_traced_memory()[1] < 1 << 23
  finally:
    tracemalloc.stop()


@pytest.mark.parametrize("name", ["a.tar", "a.zip"])
def test_an_archive_that_unpacks_without_end_is_refused(tmp_path, monkeypatch, name):
  monkeypatch.setattr(packed, "SLACK", 1 << 16)
  content = bytes(1 << 23)
  data = zipped(a=content) if name == "a.zip" else gzip.compress(tar(a=content))
  assert len(data) * packed.RATIO < 1 << 23
  with pytest.raises(UserError, match="unpacks to more than 200 times its size"):
    read(data, tmp_path, name)


def test_many_entries_of_the_same_bytes_are_refused(tmp_path):
  """A zip whose directory names one compressed member ten thousand times."""
  whole = zipped(a=bytes(1 << 20))
  at, end = whole.index(b"PK\1\2"), whole.index(b"PK\5\6")
  many = 10_000
  tail = bytearray(whole[end:])
  struct.pack_into("<HHI", tail, 8, many, many, (end - at) * many)
  with pytest.raises(UserError, match="unpacks to more than 200 times its size"):
    read(whole[:at] + whole[at:end] * many + tail, tmp_path, "a.zip")


@pytest.mark.parametrize("flags", [0x1, 0x20, 0x40])
def test_an_encrypted_zip_is_refused(tmp_path, flags):
  whole = bytearray(zipped(a=b"one"))
  for sign, at in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
    struct.pack_into("<H", whole, whole.index(sign) + at, flags)
  with pytest.raises(UserError, match="a.zip is truncated or corrupt"):
    read(whole, tmp_path, "a.zip")


def test_pipes_in_a_folder_are_not_waited_for(tmp_path):
  (tmp_path / "a").mkdir()
  (tmp_path / "a/file").write_bytes(b"one")
  os.mkfifo(tmp_path / "a/pipe")
  assert [name for name, _ in archives.members(tmp_path / "a", print)] == ["a/file"]


def test_an_entry_without_a_name_is_no_error(tmp_path):
  whole = zipped(a=b"one", b=b"two")
  assert read(whole.replace(b"\0\0a", b"\0\0\0"), tmp_path, "a.zip").keys() == {"", "b"}


@pytest.mark.parametrize("before", [{}, {"a": b"one"}])
def test_a_damaged_header_is_one_line_wherever_it_stands(tmp_path, before):
  """A length of thirty digits, of the first member and of a later one."""
  content = b"9" * 30 + b" a=b\n"
  header = entry(type=tarfile.XHDTYPE, size=len(content)).tobuf(tarfile.USTAR_FORMAT)
  whole = tar(**before).rstrip(b"\0")
  whole += bytes(-len(whole) % 512) + header + content.ljust(512, b"\0") + bytes(1024)
  with pytest.raises(UserError, match="a.tar is truncated or corrupt .a header is damaged"):
    read(whole, tmp_path)


def test_a_later_header_that_is_damaged_is_not_the_end(tmp_path):
  whole = bytearray(tar(entry(), a=b"one"))
  last = whole.rindex(b"ustar") - 257  # the header of the second member
  with pytest.raises(UserError, match="a.tar is truncated or corrupt .*truncated header"):
    read(bytes(whole[: last + 99]), tmp_path)
  whole[last + 5] ^= 1
  with pytest.raises(UserError, match="a.tar is truncated or corrupt .*bad checksum"):
    read(bytes(whole), tmp_path)
