"""Text in blocks of bytes: where it comes from, how it is cut, and what is said where it is absent."""

import io
import tarfile
import zipfile

import numpy as np
import pytest

from lra.data import store
from lra.data.tasks import lm, text
from lra.system.errors import UserError

OPTIONS = {"source": "auto", "max_length": 16, "held_out": 0.1, "seed": 0}
WIKI = {
  "wiki.train.raw": b" = Robert Boulter = \n" * 9,
  "wiki.valid.raw": b" = Homarus gammarus = \n \xe2\x82\xac",
  "wiki.test.raw": b" \n = A = \n",
}


def prepare(raw_dir, **options):
  where = {"raw_dir": raw_dir, "cache_dir": raw_dir / "cache", "report": lambda text: None}
  return lm.TASK.prepare(**where, **OPTIONS | options)


def content(examples):
  """The text that an example after the other gives."""
  tokens, offsets, documents, _ = examples
  return b"".join(tokens[offsets[d] : offsets[d + 1]].tobytes() for d in documents[:, 0])


def test_blocks_are_the_text():
  for n in (1, 15, 16, 17, 33):
    whole = bytes(range(n))
    made = lm.blocks(whole, 16)
    assert content(made) == whole
    assert np.diff(made.offsets).tolist() == [16] * (n // 16) + ([n % 16] if n % 16 else [])
    assert made.labels.tolist() == [0] * len(made.documents)


def as_folder(raw):
  (raw / "wikitext-103-raw").mkdir()
  for name, data in WIKI.items():
    (raw / "wikitext-103-raw" / name).write_bytes(data)


def as_zip(raw):
  with zipfile.ZipFile(raw / lm.WIKITEXT.name, "w", zipfile.ZIP_DEFLATED) as packed:
    for name, data in WIKI.items():
      packed.writestr(f"wikitext-103-raw/{name}", data)


def as_tar(raw):
  with tarfile.open(raw / "wikitext-103-raw.tar.gz", "w:gz") as tar:
    for name, data in WIKI.items():
      member = tarfile.TarInfo(f"wikitext-103-raw/{name}")
      member.size = len(data)
      tar.addfile(member, io.BytesIO(data))


@pytest.mark.parametrize("write", [as_folder, as_zip, as_tar])
def test_wikitext_keeps_its_own_splits(tmp_path, write):
  write(tmp_path)
  (tmp_path / "mine.txt").write_bytes(b"wikitext comes first")
  for source in ("auto", "wikitext"):
    made = prepare(tmp_path, source=source)
    for split, file in lm.WIKITEXT_FILES.items():
      assert content(made.splits[split]) == WIKI[file]
    assert made.source["text"] == "wikitext" and made.source["origin"] == "user's files"


def test_text_files_are_joined_in_the_order_of_their_names_and_cut_in_three(tmp_path):
  first, second = bytes(range(200)), bytes(range(255, 50, -1))
  (tmp_path / "b.txt").write_bytes(second)
  (tmp_path / "a.txt").write_bytes(first)
  (tmp_path / "notes.md").write_bytes(b"not a text")
  made = prepare(tmp_path)
  parts = [content(made.splits[split]) for split in ("train", "validation", "test")]
  assert b"".join(parts) == first + b"\n" + second
  assert len(parts[0]) % 16 == 0 and len(parts[1]) == 48 and 48 <= len(parts[2]) < 64
  assert made.source["text"] == "files"


@pytest.fixture
def reviews(tmp_path, monkeypatch):
  """A corpus of four reviews a class and split."""
  monkeypatch.setattr(text, "PER_CLASS", 4)
  for split in ("train", "test"):
    for label in ("neg", "pos"):
      folder = tmp_path / "aclImdb" / split / label
      folder.mkdir(parents=True)
      for i in range(4):
        (folder / f"{i}_1.txt").write_text(f"{split} {label} {i} " * 5)
  return tmp_path


def test_default_is_the_training_reviews_of_imdb(reviews):
  made = prepare(reviews)
  whole = b"".join(content(made.splits[split]) for split in ("train", "validation", "test"))
  lines = whole.decode().splitlines()
  assert sorted(lines) == sorted(
    f"train {label} {i} " * 5 for label in ("neg", "pos") for i in range(4)
  )
  again = prepare(reviews, seed=1)
  other = b"".join(content(again.splits[split]) for split in ("train", "validation", "test"))
  assert lines != sorted(lines) and other != whole and len(other) == len(whole)
  assert made.source["text"] == "imdb"


@pytest.mark.parametrize(
  "options, answer",
  [
    ({"source": "wikitext"}, r"no WikiText-103: get wikitext-103-raw-v1.zip from https.*--raw_dir"),
    ({"source": "files"}, r"no \*.txt in .*--raw_dir"),
    ({"source": "books"}, "config.task.source is one of auto, wikitext, files, imdb, not 'books'"),
    ({"held_out": 0.5}, "config.task.held_out is 0.5"),
    ({"max_length": 4096}, "gives 0 bytes for train"),
  ],
)
def test_mistakes(reviews, options, answer):
  with pytest.raises(UserError, match=answer) as raised:
    prepare(reviews, **options)
  assert "\n" not in str(raised.value)


@pytest.mark.parametrize("damage", ["cut", "not a zip", "a file missing", "flipped", "twice"])
def test_damaged_archive_is_one_line(tmp_path, damage):
  as_zip(tmp_path)
  archive = tmp_path / lm.WIKITEXT.name
  data = bytearray(archive.read_bytes())
  if damage == "cut":
    archive.write_bytes(data[:-30])
  elif damage == "not a zip":
    archive.write_bytes(b"<html>" * 20)
  elif damage == "flipped":
    at = data.find(b"wiki.train.raw") + 20
    data[at] ^= 0xFF
    archive.write_bytes(data)
  elif damage == "twice":
    with zipfile.ZipFile(archive, "a") as packed:
      packed.writestr("other/wiki.test.raw", b"another one")
  else:
    with zipfile.ZipFile(archive, "w") as packed:
      packed.writestr("wiki.train.raw", b"only this one")
  with pytest.raises(UserError, match="again|twice") as raised:
    prepare(tmp_path)
  assert str(archive) in str(raised.value) and "\n" not in str(raised.value)


def test_store_follows_the_text_that_is_there(tmp_path):
  """Another text in the same folder is prepared anew; the same one is not."""
  raw = tmp_path / "raw"
  raw.mkdir()

  def opened():
    return store.open_store(
      lm.TASK, OPTIONS, data_dir=tmp_path / "data", raw_dir=raw, report=lambda text: None
    )

  (raw / "a.txt").write_bytes(b"one text " * 30)
  first = opened()
  assert opened().path == first.path
  (raw / "b.txt").write_bytes(b"and another one")
  second = opened()
  assert second.path != first.path and second.digest != first.digest
  assert content(second.splits["test"]).endswith(b"and another one")
