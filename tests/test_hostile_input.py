"""Every parser of what comes from outside: a right parse or one clear UserError, never anything else.

A few inputs a parser in every run; `pytest -m fuzz` tries 10,000 each, and every byte of a record and
a manifest.
"""

import gzip
import io
import json
import lzma
import pickle
import random
import re
import shutil
import struct
import tracemalloc
import zipfile
import zlib
from functools import partial

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

import handmade
from lra.data import archives, store
from lra.data.tasks import SPLITS, cifar_pickle, image, listops, lm, pathfinder, retrieval, text
from lra.data.tasks.task import Prepared, Task, pack
from lra.reporting import run_record
from lra.runs import command, run_directory, sealed_json
from lra.runs.run_directory import RunDirectory
from lra.system.errors import UserError
from packing import tar, zipped

# ml_collections loads config files so; numpy says so of a damaged header
pytestmark = [
  pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning"),
  pytest.mark.filterwarnings("ignore:Reading `.npy`:UserWarning"),
]
FEW, MANY = 15, 10_000
PIECES = (
  b"",
  b"\0",
  b"\xff" * 9,
  b"\n",
  b"\t",
  b'"',
  b"9" * 5000,
  b"[" * 3000,
  b"../",
  b"-1",
  b"nan",
)


@st.composite
def damaged(draw, samples):
  """A few changes to one of the samples: bytes set, cut out, repeated or put in; or any bytes."""
  data = bytearray(draw(st.sampled_from(samples)))
  for _ in range(draw(st.integers(0, 4))):
    at = draw(st.integers(0, max(0, len(data) - 1)))
    end = at + draw(st.integers(0, 40))
    kind = draw(st.integers(0, 4))
    if kind == 0 and data:
      data[at] = draw(st.integers(0, 255))
    elif kind == 1:
      del data[at:end]
    elif kind == 2:
      data[at:at] = data[at:end] * draw(st.integers(1, 50))
    elif kind == 3:
      data[at:at] = draw(st.sampled_from(PIECES) | st.binary(max_size=20))
    else:
      del data[at:]
  return bytes(data)


def png(side=8, mode="L"):
  made = io.BytesIO()
  Image.fromarray(np.arange(side * side, dtype=np.uint8).reshape(side, side)).convert(mode).save(
    made, "PNG"
  )
  return made.getvalue()


def saved(array):
  made = io.BytesIO()
  np.save(made, array)
  return made.getvalue()


def read_tar(data, folder):
  path = folder / "a.tar"
  path.write_bytes(data)
  with archives.unpacked(path, lambda name: name, folder / "cache", lambda _: None) as out:
    for file in out.rglob("*"):
      assert file.resolve().is_relative_to(out.resolve()) and not file.is_symlink()


def reviews():
  names = [f"{s}/{c}/{i}_7.txt" for s in ("train", "test") for c in ("neg", "pos") for i in (1, 2)]
  return tar(**{f"aclImdb/{name}": name.encode() for name in names})


def wikitext(pack):
  return pack(**{f"wikitext-103-raw/{file}": b" = A = \n" for file in lm.WIKITEXT_FILES.values()})


def read_text(name, source):
  """Reads `data` as the file `name`; the blocks of a text end to end are that text."""

  def read(data, folder):
    raw = folder / "raw"
    raw.mkdir(exist_ok=True)
    (raw / name).write_bytes(data)
    common = {"cache_dir": folder, "report": lambda _: None, "seed": 0}
    made = lm.prepare(raw_dir=raw, source=source, max_length=4, held_out=0.1, **common)
    if source == "files":
      assert b"".join(x.tokens.tobytes() for x in made.splits.values()) == data

  return read


def read_reviews(data, folder):
  (folder / "a").write_bytes(data)
  text.read(folder / "a", lambda _: None)


def cifar(protocol=2):
  data = np.arange(image.BATCH * 3072, dtype=np.uint32).astype(np.uint8).reshape(-1, 3072)
  batch = {b"batch_label": b"one", b"labels": [0, 3, 9][: image.BATCH], b"data": data}
  return pickle.dumps(batch, protocol)


def read_tsv(data, folder):
  (folder / "a.tsv").write_bytes(data)
  for ids, label in listops._rows(folder / "a.tsv"):
    assert ids and 0 <= label <= 9


def read_pairs(data, folder):
  lines = archives.lines(io.BytesIO(data), "a")
  retrieval._parse(lines, "a", "train", 100, lambda _: None)


def read_corpus(name, rest):
  def read(data, folder):
    for file, content in (rest | {name: data}).items():
      (folder / file).write_bytes(content)
    documents = next(file for file in rest | {name: data} if file.startswith("documents"))
    retrieval._corpus(folder / documents, folder / "links.tsv", 100)

  return read


def read_png(data, folder):
  (folder / "a.png").write_bytes(data)
  assert pathfinder._read_image(folder / "a.png", 8, "here").shape == (8, 8)


def read_metadata(data, folder):
  (folder / "metadata").mkdir(exist_ok=True)
  (folder / "metadata/1.npy").write_bytes(data)
  for file, label, _ in pathfinder._records(folder):
    assert label in (0, 1) and (folder / file).resolve().is_relative_to(folder.resolve())


def prepared(folder):
  """A tiny store."""
  splits = dict.fromkeys(SPLITS, pack([b"ab", b"c"], [0, 1]))
  prepare = lambda **_: Prepared(splits, {"origin": "toy"})
  task = Task("toy", 256, 2, 0, 1, lambda options: 9, prepare, lambda train, test: {})
  return store.open_store(task, {}, data_dir=folder, raw_dir=None, report=lambda _: None).path


def manifest(folder):
  path = prepared(folder)
  (path / store.SEAL).unlink()
  return (path / "manifest.json").read_bytes()


def read_manifest(data, folder):
  (path,) = (p for p in folder.glob("toy-*"))
  (path / "manifest.json").write_bytes(data)
  store._load(path)


def finished(folder):
  """A finished run and its record."""
  run = handmade.run_folder(folder / "run", *handmade.arguments())
  return run, run_record.text(run_record.make(run)).encode()


def read_record(data, folder):
  (folder / "a.json").write_bytes(data)
  run_record.read(folder / "a.json")


def read_run(name):
  def read(data, folder):
    run = folder / "run"
    config = json.loads((run / "config.json").read_text())
    kept = (run / name).read_bytes()
    (run / name).write_bytes(data)
    try:
      directory = RunDirectory(run, config)
      directory.result, directory.metrics()
      run_record.make(run)
    finally:
      (run / name).write_bytes(kept)

  return read


def read_override(data, folder):
  key, _, value = data.decode(errors="replace").partition("=")
  command.read([*handmade.arguments(), f"--config.{key}={value}"])


JSONL = b'{"id": "a", "text": "one"}\n{"id": "b", "text": "two"}\n'
LINKS = b"citing\tcited\na\tb\n"
ROWS = b"sub/imgs\tsample_0.png 0 1 4\nimgs sample_1.png 1 0 4\n".replace(b"\t", b" ")
SAVED = saved(np.array([["imgs", "a.png", "0", "1"], ["imgs", "b.png", "1", "0"]]))
LISTOPS = b'Source\tTarget\n"( ( ( [MAX 2 ) 9 ) ] )"\t9\n[MIN 2 3 ]\t2\n'
PAIRED = b"1.0\t1\t2\tone\ttwo\n0.0\t1\t3\tone\tthree\n"
# name -> (samples of a folder, parser of bytes and a folder)
PARSERS = {
  "tar": (lambda _: [tar(a=b"one", b=b"two" * 400)], read_tar),
  "tar.gz": (lambda _: [gzip.compress(tar(a=b"one"), mtime=0)], read_tar),
  "reviews": (lambda _: [reviews()], read_reviews),
  "wikitext zip": (
    lambda _: [wikitext(zipped), wikitext(partial(zipped, zipfile.ZIP_STORED))],
    read_text("wikitext-103-raw-v1.zip", "wikitext"),
  ),
  "wikitext tar": (
    lambda _: [gzip.compress(wikitext(tar), mtime=0)],
    read_text("wikitext-103-raw.tar.gz", "wikitext"),
  ),
  "text": (lambda _: [b"One line.\n" * 9], read_text("a.txt", "files")),
  "cifar pickle": (
    lambda _: [cifar(p) for p in range(6)],
    lambda data, _: image._from_pickle(data, "a"),
  ),
  "cifar binary": (
    lambda _: [bytes(3 * 3073)],
    lambda data, _: image._from_binary(data, "a"),
  ),
  "listops tsv": (lambda _: [LISTOPS], read_tsv),
  "retrieval tsv": (lambda _: [PAIRED], read_pairs),
  "jsonl": (lambda _: [JSONL], read_corpus("documents.jsonl", {"links.tsv": LINKS})),
  "jsonl.xz": (
    lambda _: [lzma.compress(JSONL)],
    read_corpus("documents.jsonl.xz", {"links.tsv": LINKS}),
  ),
  "links": (lambda _: [LINKS], read_corpus("links.tsv", {"documents.jsonl": JSONL})),
  "png": (lambda _: [png(), png(9), png(8, "RGB"), png(8, "P")], read_png),
  "pathfinder metadata": (lambda _: [ROWS, SAVED], read_metadata),
  "manifest": (lambda folder: [manifest(folder)], read_manifest),
  "record": (lambda folder: [finished(folder)[1]], read_record),
  **{
    name: (
      lambda folder, name=name: [(finished(folder)[0] / name).read_bytes()],
      read_run(name),
    )
    for name in ("config.json", "environment.json", "result.json", "metrics.jsonl")
  },
  "override": (
    lambda _: [b"train.steps=7", b"model.attention=linear", b"optim.learning_rate=1e-3", b"seed=1"],
    read_override,
  ),
}


@pytest.fixture
def small(monkeypatch):
  """Data sets of a few examples."""
  monkeypatch.setattr(text, "PER_CLASS", 2)
  monkeypatch.setattr(image, "BATCH", 3)
  monkeypatch.setattr(retrieval, "PAIRS", {"train": 2})


@pytest.mark.parametrize("examples", [FEW, pytest.param(MANY, marks=pytest.mark.fuzz)])
@pytest.mark.parametrize("name", PARSERS)
def test_input_is_parsed_or_refused_in_one_line(name, examples, small, tmp_path):
  samples, parse = PARSERS[name]
  samples = samples(tmp_path)
  for sample in samples[:1]:
    if name != "cifar binary":
      parse(sample, tmp_path)  # what is whole is read

  @settings(
    max_examples=examples,
    derandomize=examples == FEW,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
  )
  @given(damaged(samples))
  def run(data):
    try:
      parse(data, tmp_path)
    except UserError as error:
      assert "\n" not in str(error) and len(str(error)) < 2000

  run()


def refused(parse, *arguments):
  """Whether a UserError came."""
  try:
    parse(*arguments)
  except UserError:
    return True
  return False


@pytest.mark.parametrize("step", [97, pytest.param(1, marks=pytest.mark.fuzz)])
def test_a_flipped_byte_of_a_store_is_named(step, tmp_path):
  path = prepared(tmp_path)
  for file in sorted(path.iterdir()):
    whole = bytearray(file.read_bytes())
    for at in range(0, len(whole), step):
      whole[at] ^= 1
      file.write_bytes(whole)
      with pytest.raises(UserError, match=file.name):
        store._load(path)
      whole[at] ^= 1
    file.write_bytes(whole)
  store._load(path)


@pytest.mark.parametrize("step", [97, pytest.param(1, marks=pytest.mark.fuzz)])
def test_a_changed_byte_of_a_record_is_named(step, tmp_path):
  whole = finished(tmp_path)[1]
  for data in changed(whole, step):
    with pytest.raises(UserError, match="a.json is not "):
      read_record(data, tmp_path)
  read_record(whole, tmp_path)


@pytest.mark.parametrize("step", [97, pytest.param(1, marks=pytest.mark.fuzz)])
def test_a_changed_byte_of_a_run_is_named(step, tmp_path):
  """Not in files of earlier revisions, which have no digests: they are read as they are."""
  run, record = finished(tmp_path)
  config, environment, result = (
    json.loads((run / f"{name}.json").read_text()) for name in ("config", "environment", "result")
  )
  sealed_json.write(run / "config.json", config)
  sealed_json.write(run / "environment.json", environment)
  RunDirectory(run, config).finish(result)
  assert run_record.text(run_record.make(run)).encode() == record
  for name in ("config.json", "environment.json", "result.json", "metrics.jsonl"):
    whole = (run / name).read_bytes()
    for data in changed(whole, step):
      (run / name).write_bytes(data)
      with pytest.raises(UserError, match=f"{re.escape(name)} is damaged"):
        if name == "metrics.jsonl":
          run_directory.read_result(run)
        else:
          sealed_json.read(run / name)
    with pytest.raises(UserError, match=f"{re.escape(name)} is damaged"):
      run_record.make(run)
    (run / name).write_bytes(whole)
  run_record.make(run)


def changed(whole, step):
  """`whole` with one byte changed, every so many bytes, to any other value."""
  rng = random.Random(0)
  for at in range(0, len(whole), step):
    yield whole[:at] + bytes([whole[at] ^ rng.randrange(1, 256)]) + whole[at + 1 :]


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
def test_arrays_of_any_protocol_are_read(protocol, small):
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
