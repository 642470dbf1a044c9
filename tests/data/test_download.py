"""Downloads against a local server that resumes, drops, stalls or lies."""

import errno
import hashlib
import http.server
import threading

import numpy as np
import pytest

from lra.data import download
from lra.system.errors import UserError

DATA = np.random.default_rng(0).bytes(100_000)


class Server(http.server.ThreadingHTTPServer):
  """Serves DATA at /file.bin; the attributes say how badly."""

  daemon_threads = True
  resumes = True  # answers Range requests
  cut = None  # bytes after which each answer breaks off
  stall = None  # an Event awaited before the body

  def __init__(self):
    super().__init__(("127.0.0.1", 0), Handler)
    self.ranges = []
    threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()

  def remote(self, checksum=hashlib.sha256(DATA).hexdigest(), path="file.bin"):
    url = f"http://127.0.0.1:{self.server_port}/{path}"
    return download.Remote("file.bin", url, "sha256" if checksum else "", checksum)


class Handler(http.server.BaseHTTPRequestHandler):
  def do_GET(self):
    wanted = self.headers.get("Range")
    self.server.ranges.append(wanted)
    start = int(wanted[6:-1]) if wanted and self.server.resumes else 0
    if self.path != "/file.bin":
      return self.send_error(404)
    if start >= len(DATA):
      self.send_response(416)
      self.send_header("Content-Range", f"bytes */{len(DATA)}")
      return self.end_headers()
    self.send_response(206 if start else 200)
    self.send_header("Content-Length", str(len(DATA) - start))
    self.end_headers()
    if self.server.stall:
      self.server.stall.wait(10)
    self.wfile.write(DATA[start:][: self.server.cut])

  def log_message(self, *args):
    pass


@pytest.fixture
def server():
  server = Server()
  yield server
  server.shutdown()
  server.server_close()


def fetch(remote, tmp_path, report=lambda text: None):
  cache = tmp_path / "cache"
  return download.fetch(remote, raw_dir=tmp_path / "raw", cache_dir=cache, report=report)


def leave_part(tmp_path, data):
  (tmp_path / "cache").mkdir()
  (tmp_path / "cache/file.bin.part").write_bytes(data)


def names(tmp_path):
  return sorted(path.name for path in (tmp_path / "cache").iterdir())


def test_download_is_verified_kept_and_reported(server, tmp_path):
  said = []
  assert fetch(server.remote(), tmp_path, said.append).read_bytes() == DATA
  assert names(tmp_path) == ["file.bin"]
  assert said and "downloading file.bin" in said[0]
  fetch(server.remote(), tmp_path)
  assert server.ranges == [None]  # the second time, nothing was asked for


def test_download_resumes_what_a_killed_run_left(server, tmp_path):
  leave_part(tmp_path, DATA[:60_000])
  assert fetch(server.remote(), tmp_path).read_bytes() == DATA
  assert server.ranges == ["bytes=60000-"]


def test_download_starts_again_where_the_server_cannot_resume(server, tmp_path):
  server.resumes = False
  leave_part(tmp_path, b"other bytes")
  assert fetch(server.remote(), tmp_path).read_bytes() == DATA


def test_part_that_is_whole_is_not_asked_for_again(server, tmp_path):
  leave_part(tmp_path, DATA)
  assert fetch(server.remote(), tmp_path).read_bytes() == DATA
  assert server.ranges == ["bytes=100000-"]


def test_nothing_is_downloaded_that_nothing_can_verify(server, tmp_path):
  with pytest.raises(UserError, match="no checksum of it is known: get file.bin from"):
    fetch(server.remote(checksum=""), tmp_path)
  assert not server.ranges and not list(tmp_path.iterdir())


def test_part_longer_than_the_file_is_dropped(server, tmp_path):
  leave_part(tmp_path, DATA + b"more")
  assert fetch(server.remote(), tmp_path).read_bytes() == DATA


def test_dropped_connections_are_taken_up_again(server, tmp_path):
  server.cut = 40_000
  assert fetch(server.remote(), tmp_path).read_bytes() == DATA
  assert server.ranges == [None, "bytes=40000-", "bytes=80000-"]


def test_truncated_answers_never_get_the_final_name(server, tmp_path):
  server.cut, server.resumes = 40_000, False
  with pytest.raises(UserError, match="closed the connection early.*run again to resume"):
    fetch(server.remote(), tmp_path)
  assert names(tmp_path) == ["file.bin.part"]


def test_wrong_checksum_leaves_nothing_and_says_what_to_do(server, tmp_path):
  wrong = server.remote(checksum="0" * 64)
  with pytest.raises(UserError) as raised:
    fetch(wrong, tmp_path)
  assert names(tmp_path) == []
  for part in (wrong.url, "0" * 64, "file.bin", str(tmp_path / "raw"), "--raw_dir", "$LRA_RAW_DIR"):
    assert part in str(raised.value)
  assert "\n" not in str(raised.value)


def test_damaged_file_in_the_cache_is_fetched_again(server, tmp_path):
  (tmp_path / "cache").mkdir()
  (tmp_path / "cache/file.bin").write_bytes(DATA[:-1])
  assert fetch(server.remote(), tmp_path).read_bytes() == DATA


def test_missing_file_and_unreachable_host_name_the_address(server, tmp_path):
  with pytest.raises(UserError, match="none.bin.*404.*--raw_dir"):
    fetch(server.remote(path="none.bin"), tmp_path)
  closed = Server()
  closed.shutdown()
  closed.server_close()
  with pytest.raises(UserError, match=f":{closed.server_port}/file.bin.*refused"):
    fetch(closed.remote(), tmp_path)


def test_server_that_stalls_is_given_up(server, tmp_path, monkeypatch):
  monkeypatch.setattr(download, "TIMEOUT", 0.2)
  server.stall = threading.Event()
  with pytest.raises(UserError, match="timed out"):
    fetch(server.remote(), tmp_path)
  server.stall.set()


def test_full_disk_is_no_failed_download(server, tmp_path, monkeypatch):
  def fail(*args):
    raise OSError(errno.ENOSPC, "No space left on device")

  monkeypatch.setattr(download, "_append", fail)
  with pytest.raises(OSError, match="No space left"):
    fetch(server.remote(), tmp_path)


def test_source_says_whether_the_file_is_the_published_one(tmp_path):
  archive = tmp_path / "x.tar.gz"
  archive.write_bytes(DATA)
  md5 = hashlib.md5(archive.read_bytes()).hexdigest()
  sha256 = hashlib.sha256(archive.read_bytes()).hexdigest()
  same = download.Remote("x.tar.gz", "", "md5", md5)
  other = download.Remote("x.tar.gz", "", "sha256", "0" * 64)
  unknown = download.Remote("x.tar.gz", "")
  entry = {"origin": "o", "file": "x.tar.gz", "sha256": sha256}
  assert download.describe(archive, "o", same) == entry | {"published": True}
  assert download.describe(archive, "o", other) == entry | {"published": False}
  assert download.describe(archive, "o", unknown) == entry | {"published": None}
  before = download.describe(tmp_path, "o", same)
  assert before | {"sha256": ""} == {
    **{"origin": "o", "file": tmp_path.name + "/", "sha256": "", "published": None}
  }
  (tmp_path / "more").write_text("x")
  assert download.describe(tmp_path, "o", same) != before
  assert download.describe(tmp_path, "o", same, files="*.gz") == before
