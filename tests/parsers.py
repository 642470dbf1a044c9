"""Every parser of what comes from outside, with whole samples of what it reads."""

import gzip
import io
import json
import lzma
import pickle
import zipfile
from functools import partial

import numpy as np
from PIL import Image

import handmade
from lra.data import archives, store
from lra.data.tasks import SPLITS, image, listops, lm, pathfinder, retrieval, text
from lra.data.tasks.task import Prepared, Task, pack
from lra.reporting import run_record
from lra.runs import command
from lra.runs.run_directory import RunDirectory
from packing import tar, zipped


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
