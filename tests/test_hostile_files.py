"""Files made to do harm: paths that lead out, code in pickles, sizes that are only declared."""

import io
import json
import shutil
import struct
import tracemalloc
import zlib

import pytest

from lra.data import archives
from lra.data.tasks import cifar_pickle, image
from lra.reporting import run_record
from lra.runs.run_directory import RunDirectory
from lra.system.errors import UserError
from parsers import ROWS, cifar, finished, read_metadata, read_png


def test_paths_of_metadata_that_lead_out_are_refused(tmp_path):
  read_metadata(ROWS, tmp_path)
  for row in (b"../.. a.png 0 1\n", b"/etc passwd 0 1\n", b". ../../a 0 1\n"):
    with pytest.raises(UserError, match="leads out of"):
      read_metadata(row, tmp_path)


def test_long_lines_and_files_are_refused(tmp_path):
  with pytest.raises(UserError, match="line 2 of a is longer than 5 bytes"):
    list(archives.lines(io.BytesIO(b"four\n" + bytes(99)), "a", 5))
  assert list(archives.lines(io.BytesIO(b"four\nend"), "a", 5)) == [b"four\n", b"end"]
  with pytest.raises(UserError, match="a has more than 5 bytes"):
    archives.content(io.BytesIO(bytes(6)), 5, "a")
  assert archives.content(io.BytesIO(bytes(5)), 5, "a") == bytes(5)


def test_an_image_of_another_size_is_not_decoded(tmp_path):
  """60,000 x 60,000 pixels in 60 bytes."""
  chunk = lambda kind, data: (
    struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
  )
  header = struct.pack(">IIBBBBB", 9_000, 9_000, 8, 0, 0, 0, 0)
  bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(99)))
  tracemalloc.start()
  with pytest.raises(UserError, match="9000 x 9000 L instead of 8 x 8 L"):
    read_png(bomb, tmp_path)
  assert tracemalloc.get_traced_memory()[1] < 1 << 22
  tracemalloc.stop()


def nested(depth):
  """A pickle of tuples in tuples whose hash takes 2 ** depth steps, as a key."""
  return b"\x80\x02})q\0" + b"h\0h\0\x86q\0" * depth + b"K\x01s."


PICKLES = {
  "code": (b"\x80\x02cposix\nsystem\nX\x02\x00\x00\x00id\x85R.", "it asks for posix.system"),
  "a memo of 2 ** 32 entries": (b"\x80\x02}r\xff\xff\xff\xff.", ""),
  "bytes that are only declared": (b"\x80\x04\x8e" + b"\xff" * 7 + b"\x0f.", None),
  "tuples in tuples as a key": (nested(99), "neither text nor a number"),
  "an array that is only declared": (
    b"\x80\x02}U\x04datacnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\n"
    b"K\x00\x85U\x01b\x87R(K\x01J\xff\xff\xff\x7f\x85cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R"
    b"\x89U\x01xtbs.",
    "cannot reshape",
  ),
  "an array of objects": (b"\x80\x02cnumpy\ndtype\nU\x02O8K\x00K\x01\x87R.", "not uint8"),
  "a class": (b"\x80\x02cnumpy\nndarray\n)\x81.", None),
}


@pytest.mark.parametrize("name", PICKLES)
def test_a_pickle_cannot_run_code_nor_take_all_memory(name):
  data, wanted = PICKLES[name]
  tracemalloc.start()
  try:
    if wanted == "":
      assert cifar_pickle.load(data) == {}
    else:
      with pytest.raises(Exception, match=wanted):
        cifar_pickle.load(data)
    assert tracemalloc.get_traced_memory()[1] < 1 << 22
  finally:
    tracemalloc.stop()


@pytest.mark.parametrize("protocol", range(5))
def test_arrays_of_any_protocol_are_read(protocol, monkeypatch):
  monkeypatch.setattr(image, "BATCH", 3)
  images, labels = image._from_pickle(cifar(protocol), "a")
  assert images.shape == (3, 3, 1024) and labels.tolist() == [0, 3, 9]
  assert images.ravel()[:4].tolist() == [0, 1, 2, 3]


def test_a_line_of_metrics_that_is_damaged_is_named(tmp_path):
  run, _ = finished(tmp_path)
  lines = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
  (run / "metrics.jsonl").write_text(lines[0] + lines[1].replace('"step"', '"stop"') + lines[2])
  config = json.loads((run / "config.json").read_text())
  with pytest.raises(UserError, match=r"line 2 of .*metrics\.jsonl is damaged"):
    RunDirectory(run, config).metrics()
  shutil.rmtree(run)


def test_a_long_value_in_a_run_is_not_quoted_whole(tmp_path):
  run, _ = finished(tmp_path)
  result = json.loads((run / "result.json").read_text())
  (run / "result.json").write_text(json.dumps(result | {"attention": "9" * 5000}))
  with pytest.raises(UserError, match="attention is 'cosformer' in config.json, '9999") as error:
    run_record.make(run)
  assert len(str(error.value)) < 1500
