"""Raw files: found where people leave them, read whole or not at all, unpacked for a while."""

import errno
import gzip
import io
import signal
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest

from lra.data import archives
from lra.system.errors import UserError

DATA = np.random.default_rng(0).bytes(100_000)
FILES = {"root/b.txt": b"two", "root/a/c.txt": DATA[:5000]}


@pytest.fixture
def archive(tmp_path):
  path = tmp_path / "x.tar.gz"
  with tarfile.open(path, "w:gz") as tar:
    for name, data in FILES.items():
      member = tarfile.TarInfo(name)
      member.size = len(data)
      tar.addfile(member, io.BytesIO(data))
  return path


def read_all(path):
  contents = {}
  with archives.reading(path):
    for name, open_member in archives.members(path, lambda text: None):
      with open_member() as file:
        contents[name] = file.read()
  return contents


def test_archive_plain_tar_and_unpacked_folder_read_alike(archive, tmp_path):
  with tarfile.open(archive) as tar:
    tar.extractall(tmp_path, filter="data")
  (tmp_path / "x.tar").write_bytes(gzip.decompress(archive.read_bytes()))
  assert read_all(archive) == FILES == read_all(tmp_path / "root") == read_all(tmp_path / "x.tar")


def broken_archives(data):
  flipped = bytearray(data)
  flipped[-6] ^= 1  # in the CRC, behind everything that tar reads
  plain = gzip.decompress(data)
  return {
    "cut": data[: len(data) // 2],
    "no end": data[:-8],
    "empty": b"",
    "not gzip": b"x" * 999,
    "crc": bytes(flipped),
    "tar cut": gzip.compress(plain[:3000]),
    "no tar": gzip.compress(DATA),
  }


@pytest.mark.parametrize("how", broken_archives(gzip.compress(b"")))
def test_broken_archive_is_a_user_error(archive, how):
  archive.write_bytes(broken_archives(archive.read_bytes())[how])
  with pytest.raises(UserError, match="x.tar.gz is truncated or corrupt"):
    read_all(archive)


@pytest.mark.parametrize(
  ("error", "answer"),
  [
    (
      FileNotFoundError(errno.ENOENT, "No such file", "/raw/links.tsv"),
      "cannot read /raw/links.tsv",
    ),
    (OSError(errno.EIO, "Input/output error"), "truncated or corrupt"),
    (OSError(errno.ENOSPC, "No space left on device"), None),
    (OSError(errno.EDQUOT, "No space left in the quota"), None),
  ],
)
def test_what_cannot_be_read_is_not_called_corrupt(tmp_path, error, answer):
  with pytest.raises(UserError if answer else OSError, match=answer or "No space left"):
    with archives.reading(tmp_path):
      raise error


def test_find_takes_the_first_name_there_is(tmp_path):
  (tmp_path / "b").mkdir()
  (tmp_path / "c").touch()
  assert archives.find(tmp_path, "a", "b", "c") == tmp_path / "b"
  assert archives.find(str(tmp_path), "a") is None and archives.find(None, "b") is None
  (tmp_path / "lra_release").mkdir()
  (tmp_path / "x.tar").touch()
  assert archives.find(tmp_path, *archives.LRA, "x.tar.gz") == tmp_path / "x.tar"
  (tmp_path / "lra_release").rmdir()
  (tmp_path / "lra_release").touch()
  assert archives.find(tmp_path, *archives.LRA) == tmp_path / "lra_release"
  assert archives.find(tmp_path / "b", "x", itself=("y",)) is None
  assert archives.find(tmp_path, "x", itself=("y", "b")) == tmp_path


KEEP_B = lambda name: "deep/b.txt" if name.endswith("b.txt") else None


def test_tar_is_unpacked_for_a_while(archive, tmp_path):
  cache = tmp_path / "cache"
  with archives.unpacked(archive, KEEP_B, cache, print) as folder:
    assert [p.relative_to(folder) for p in folder.rglob("*.*")] == [Path("deep/b.txt")]
    assert (folder / "deep/b.txt").read_bytes() == b"two"
    with archives.unpacked(archive, KEEP_B, cache, print) as other:  # does not take it away
      assert other != folder
    assert folder.is_dir()
  with pytest.raises(UserError, match=f"^{archive}/deep/b.txt is odd$"):
    with archives.unpacked(archive, KEEP_B, cache, print) as folder:
      raise UserError(f"{folder / 'deep/b.txt'} is odd")
  assert not list(cache.iterdir())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_what_a_killed_process_has_unpacked_is_removed_by_the_next(archive, tmp_path, number):
  code = (
    "import sys, time; from pathlib import Path; from lra.data import archives\n"
    "with archives.unpacked(Path(sys.argv[1]), lambda name: 'x', Path(sys.argv[2]), print):\n"
    "  print(flush=True); time.sleep(60)"
  )
  cache = tmp_path / "cache"
  process = subprocess.Popen(
    [sys.executable, "-c", code, archive, cache],
    stdout=subprocess.PIPE,
    cwd=Path(__file__).parents[2],
  )
  process.stdout.readline()
  (left,) = cache.glob("unpacked-*")
  with archives.unpacked(archive, KEEP_B, cache, print):
    assert left.is_dir()
  process.send_signal(number)
  process.communicate()
  assert left.is_dir()
  with archives.unpacked(archive, KEEP_B, cache, print):
    assert not left.exists()
