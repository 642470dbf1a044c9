"""IMDB: archives and folders as published, the splits, and the real data where it is at hand."""

import dataclasses
import io
import os
import tarfile

import numpy as np
import pytest
from tensorflow_datasets.core import utils as tfds_utils
from tensorflow_datasets.core.download import checksums

from lra.data import archives
from lra.data.tasks import text
from lra.data.tasks.task import SPLITS, pack
from lra.data.tasks.task import duplicates as count_duplicates
from lra.system.errors import UserError

OPTIONS = {"max_length": 1000, "validation_examples": 2, "seed": 0}
RAW = os.environ.get("LRA_RAW_DIR")


def review(split, label, i):
  return f"{split} {label} {i}<br />".encode() + bytes([0, 200, 255])


@pytest.fixture
def files(monkeypatch):
  """name -> bytes of a corpus of four reviews a class and split, with what else the archive has."""
  monkeypatch.setattr(text, "PER_CLASS", 4)
  files = {"aclImdb/README": b"", "aclImdb/imdb.vocab": b"the", "aclImdb/train/unsup/0_0.txt": b"u"}
  files["aclImdb/train/urls_neg.txt"] = b"http"
  for split in ("train", "test"):
    for label in ("neg", "pos"):
      for i in (10, 3, 2, 0):
        files[f"aclImdb/{split}/{label}/{i}_7.txt"] = review(split, label, i)
  return files


def write_tar(path, files):
  with tarfile.open(path, "w:gz") as tar:
    for name, data in files.items():
      member = tarfile.TarInfo(name)
      member.size = len(data)
      tar.addfile(member, io.BytesIO(data))


def prepare(raw_dir, **options):
  return text.TASK.prepare(
    raw_dir=raw_dir, cache_dir=raw_dir / "cache", report=lambda text: None, **OPTIONS | options
  )


def contents(examples):
  tokens, offsets, documents, labels = examples
  return [
    (tokens[offsets[d] : offsets[d + 1]].tobytes(), int(label))
    for d, label in zip(documents[:, 0], labels)
  ]


def test_archive_is_read_byte_for_byte_in_name_order(tmp_path, files):
  write_tar(tmp_path / "aclImdb_v1.tar.gz", files)
  prepared = prepare(tmp_path, validation_examples=0)
  order = ("0", "10", "2", "3")
  for split in ("train", "test"):
    expected = [(review(split, c, i), y) for y, c in enumerate(("neg", "pos")) for i in order]
    assert contents(prepared.splits[split]) == expected
  assert prepared.splits["validation"] is prepared.splits["test"]
  assert prepared.source["validation"] == "the test split"
  assert prepared.source["file"] == "aclImdb_v1.tar.gz" and not prepared.source["published"]
  assert prepared.source["origin"] == "user's files"


@pytest.mark.parametrize(
  "folder, below", [("aclImdb", ""), ("", ""), ("a", "a"), ("aclImdb_v1/aclImdb", "")]
)
def test_unpacked_reviews_are_found(tmp_path, files, folder, below):
  for name, data in files.items():
    file = tmp_path / "raw" / folder / name.removeprefix("aclImdb/")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(data)
  prepared = prepare(tmp_path / "raw" / below, validation_examples=2)
  assert len(prepared.splits["train"].labels) == 6 and prepared.source["origin"] == "user's files"


def test_folder_and_reordered_archive_give_the_same_splits(tmp_path, files):
  repacked = {f"./{name}": files[name] for name in sorted(files, reverse=True)}
  for name, data in (("a", files), ("b", repacked)):
    (tmp_path / name).mkdir()
    write_tar(tmp_path / name / "aclImdb_v1.tar.gz", data)
  with tarfile.open(tmp_path / "a/aclImdb_v1.tar.gz") as tar:
    tar.extractall(tmp_path / "c", filter="data")
  expected = prepare(tmp_path / "a").splits
  for name in ("b", "c"):
    splits = prepare(tmp_path / name).splits
    assert all(contents(splits[s]) == contents(expected[s]) for s in SPLITS)
  assert prepare(tmp_path / "c").source["file"] == "aclImdb/"


def test_validation_is_carved_from_train_by_class_and_seed(tmp_path, files):
  write_tar(tmp_path / "aclImdb_v1.tar.gz", files)
  drawn = set()
  for seed in range(8):
    splits = prepare(tmp_path, validation_examples=4, seed=seed).splits
    train, validation = contents(splits["train"]), contents(splits["validation"])
    assert [label for _, label in validation] == [0, 0, 1, 1] == [label for _, label in train]
    assert {t for t, _ in train + validation} == {
      data for name, data in files.items() if "/train/neg/" in name or "/train/pos/" in name
    }
    drawn.add(tuple(validation))
  assert len(drawn) > 1


def test_reviews_are_cut_and_duplicates_counted_as_stored(tmp_path, files):
  write_tar(tmp_path / "aclImdb_v1.tar.gz", files)
  prepared = prepare(tmp_path, max_length=9)  # "train neg", "train pos", "test neg ", "test pos "
  assert np.diff(prepared.splits["train"].offsets).max() == 9
  assert count_duplicates(prepared.splits) == {
    "test in train": 0,
    "validation in train": 2,
    "validation in test": 0,
  }
  files["aclImdb/test/neg/3_7.txt"] = files["aclImdb/train/pos/0_7.txt"]
  write_tar(tmp_path / "aclImdb_v1.tar.gz", files)
  duplicates = count_duplicates(prepare(tmp_path, validation_examples=0).splits)
  assert duplicates["test in train"] == 1


def test_wrong_contents_are_user_errors(tmp_path, files):
  path = tmp_path / "aclImdb_v1.tar.gz"
  write_tar(path, {n: d for n, d in files.items() if n != "aclImdb/test/pos/3_7.txt"})
  with pytest.raises(UserError, match="aclImdb_v1.tar.gz has 3 reviews in test/pos, not 4"):
    prepare(tmp_path)
  write_tar(path, files | {"aclImdb/train/neg/2_7.txt": b""})
  with pytest.raises(UserError, match="has 3 reviews in train/neg, not 4"):
    prepare(tmp_path)
  write_tar(path, files | {"aclImdb/train/neutral/2_5.txt": b"so so"})
  with pytest.raises(UserError, match="train/neutral/2_5.txt, which is neither neg nor pos"):
    prepare(tmp_path)
  write_tar(path, files)
  path.write_bytes(path.read_bytes()[:-100])
  with pytest.raises(UserError, match="aclImdb_v1.tar.gz is truncated or corrupt"):
    prepare(tmp_path)


def test_archive_is_downloaded_where_the_user_has_none(tmp_path, files, monkeypatch):
  write_tar(tmp_path / "published.tar.gz", files)
  sha256 = archives.digest(tmp_path / "published.tar.gz")
  there = dataclasses.replace(
    text.ARCHIVE, url=(tmp_path / "published.tar.gz").as_uri(), checksum=sha256
  )
  monkeypatch.setattr(text, "ARCHIVE", there)
  source = prepare(tmp_path).source
  assert source["origin"] == "download" and source["published"] is True
  assert source["file"] == "aclImdb_v1.tar.gz" and source["sha256"] == sha256
  gone = dataclasses.replace(there, url=(tmp_path / "gone").as_uri())
  monkeypatch.setattr(text, "ARCHIVE", gone)
  assert prepare(tmp_path).source == source  # from the cache
  (tmp_path / "cache/aclImdb_v1.tar.gz").unlink()
  with pytest.raises(UserError, match=f"gone.*aclImdb_v1.tar.gz .sha256 {sha256}.*{tmp_path}"):
    prepare(tmp_path)


@pytest.mark.parametrize("count", [-1, 8])
def test_validation_of_a_size_that_train_does_not_have_is_refused(tmp_path, files, count):
  with pytest.raises(UserError, match="set 0 to 7"):
    prepare(tmp_path, validation_examples=count)


def test_checksum_is_the_one_tensorflow_datasets_registers():
  listed = tfds_utils.tfds_path() / "datasets/imdb_reviews/checksums.tsv"
  (info,) = checksums.load_url_infos(listed).values()
  assert (info.filename, info.checksum) == (text.ARCHIVE.name, text.ARCHIVE.checksum)


def test_naive_bayes_learns_bytes_that_tell():
  train = pack([b"aab", b"aba", b"bbb", b"abb"], [1, 1, 0, 0])
  scores = text.baselines(train, pack([b"a", b"b", b"aaaabb", b"bbbbaa"], [1, 0, 1, 0]))
  assert scores == {"majority class": 0.5, "naive Bayes on byte counts": 1.0}


@pytest.mark.skipif(
  not archives.find(RAW, text.ARCHIVE.name, "aclImdb"), reason="no IMDB in $LRA_RAW_DIR"
)
def test_real_reviews(tmp_path):
  prepared = text.TASK.prepare(
    raw_dir=RAW, cache_dir=tmp_path, report=print, max_length=4000, validation_examples=2500, seed=0
  )
  train, validation, test = (prepared.splits[split] for split in SPLITS)
  counts = [np.bincount(split.labels).tolist() for split in (train, validation, test)]
  assert counts == [[11_250, 11_250], [1250, 1250], [12_500, 12_500]]
  assert count_duplicates(prepared.splits)["test in train"] <= 123  # IMDB's own, before the carving
  assert max(np.diff(split.offsets).max() for split in prepared.splits.values()) == 4000
  scores = text.TASK.baselines(train, test)
  assert scores["majority class"] == 0.5
  assert 0.58 < scores["naive Bayes on byte counts"] < 0.66
