"""CIFAR-10: both published formats, gray values, the order of the splits, and the real data."""

import dataclasses
import io
import os
import pickle
import tarfile

import numpy as np
import pytest
from tensorflow_datasets.core import hashing
from tensorflow_datasets.core import utils as tfds_utils
from tensorflow_datasets.core.download import checksums

from lra.data import archives
from lra.data.tasks import image
from lra.data.tasks.task import SPLITS, duplicates
from lra.system.errors import UserError

RAW = os.environ.get("LRA_RAW_DIR")


class Python2Pickler(pickle._Pickler):
  """Writes protocol 2 as Python 2 did: text and bytes alike as byte strings."""

  def save_string(self, data):
    raw = data.encode() if isinstance(data, str) else data
    self.write(pickle.BINSTRING + len(raw).to_bytes(4, "little") + raw)
    self.memoize(data)

  dispatch = pickle._Pickler.dispatch | {bytes: save_string, str: save_string}


def python2(value):
  file = io.BytesIO()
  Python2Pickler(file, protocol=2).dump(value)
  return file.getvalue().replace(b"numpy._core.multiarray", b"numpy.core.multiarray")


@pytest.fixture
def batches(monkeypatch):
  """file name -> (images uint8 [10, 3072], labels [10]) of a CIFAR-10 with ten images a file."""
  monkeypatch.setattr(image, "BATCH", 10)
  rng = np.random.default_rng(0)
  return {
    name: (rng.integers(0, 256, (10, 3072), dtype=np.uint8), rng.permutation(10).tolist())
    for name in image.FILES
  }


def as_python(batches, dump=python2):
  rest = {"batch_label": "x", "filenames": ["a.png"] * 10}
  files = {name: dump({"data": x, "labels": y} | rest) for name, (x, y) in batches.items()}
  return {f"cifar-10-batches-py/{n}": d for n, d in (files | {"batches.meta": b"?"}).items()}


def as_binary(batches):
  records = {
    f"cifar-10-batches-bin/{name}.bin": np.column_stack([y, x]).astype(np.uint8).tobytes()
    for name, (x, y) in batches.items()
  }
  return records | {"cifar-10-batches-bin/batches.meta.txt": b"airplane\n"}


def write_tar(path, files):
  path.parent.mkdir(exist_ok=True)
  with tarfile.open(path, "w:gz") as tar:
    for name, data in files.items():
      member = tarfile.TarInfo(name)
      member.size = len(data)
      tar.addfile(member, io.BytesIO(data))


def prepare(raw_dir, validation_examples=5, resolution=32):
  return image.TASK.prepare(
    raw_dir=raw_dir,
    cache_dir=raw_dir / "cache",
    report=lambda text: None,
    validation_examples=validation_examples,
    resolution=resolution,
  )


def pixels(examples):
  return examples.tokens.reshape(-1, 1024)[examples.documents[:, 0]]


def luma(images):
  """Gray by the definition, in float64: exact but for sums that hit a whole number."""
  planes = images.reshape(-1, 3, 1024).astype(np.float64)
  return np.floor((planes * np.array([0.2989, 0.587, 0.114])[:, None]).sum(1) / 255 * 255.5)


def test_every_format_gives_the_same_examples(tmp_path, batches):
  write_tar(tmp_path / "a/cifar-10-python.tar.gz", as_python(batches))
  write_tar(tmp_path / "b/cifar-10-binary.tar.gz", as_binary(batches))
  python3 = lambda batch: pickle.dumps({k.encode(): v for k, v in batch.items()}, protocol=2)
  write_tar(tmp_path / "c/cifar-10-python.tar.gz", as_python(batches, python3))
  for source, name in (("a/cifar-10-python.tar.gz", "d"), ("b/cifar-10-binary.tar.gz", "e")):
    with tarfile.open(tmp_path / source) as tar:
      tar.extractall(tmp_path / name, filter="data")
  raw = [tmp_path / name for name in "abcde"]
  raw += [raw[3] / "cifar-10-batches-py", raw[4] / "cifar-10-batches-bin"]
  prepared = [prepare(folder) for folder in raw]
  for split in SPLITS:
    for other in prepared[1:]:
      for got, expected in zip(other.splits[split], prepared[0].splits[split]):
        np.testing.assert_array_equal(got, expected)
  assert [p.source["file"] for p in prepared] == [
    "cifar-10-python.tar.gz",
    "cifar-10-binary.tar.gz",
    "cifar-10-python.tar.gz",
    "cifar-10-batches-py/",
    "cifar-10-batches-bin/",
    "cifar-10-batches-py/",
    "cifar-10-batches-bin/",
  ]


def test_splits_are_slices_of_train_in_tfds_order_and_test_keeps_its_own(tmp_path, batches):
  write_tar(tmp_path / "cifar-10-python.tar.gz", as_python(batches))
  splits = prepare(tmp_path).splits
  hasher = hashing.Hasher("train")
  order = sorted(range(50), key=hasher.hash_key)
  images = luma(np.concatenate([batches[name][0] for name in image.TRAIN_FILES]))[order]
  labels = np.concatenate([batches[name][1] for name in image.TRAIN_FILES])[order]
  np.testing.assert_array_equal(pixels(splits["train"]), images[:45])
  np.testing.assert_array_equal(pixels(splits["validation"]), images[45:])
  np.testing.assert_array_equal(splits["train"].labels, labels[:45])
  np.testing.assert_array_equal(splits["validation"].labels, labels[45:])
  np.testing.assert_array_equal(pixels(splits["test"]), luma(batches["test_batch"][0]))
  np.testing.assert_array_equal(splits["test"].labels, batches["test_batch"][1])


def test_order_begins_as_the_published_tfds_data_set_does():
  assert image.tfds_order(50_000)[:6].tolist() == [16399, 1680, 47917, 17307, 27051, 48736]


def test_gray_truncates_at_255_and_a_half_and_keeps_gray():
  colours = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 255], [143, 96, 70]])
  # 76.37 149.98 29.13 255.47 107.26: truncated after a scale of 255.5 / 255
  assert image.gray(colours.astype(np.uint8)[:, :, None])[:, 0].tolist() == [76, 149, 29, 255, 107]
  grays = np.repeat(np.arange(256, dtype=np.uint8)[:, None], 3, axis=1)[:, :, None]
  assert image.gray(grays)[:, 0].tolist() == list(range(256))


def test_malicious_pickle_is_refused_and_not_run(tmp_path, batches):
  class Attack:
    def __reduce__(self):
      return os.mkdir, (str(tmp_path / "attacked"),)

  files = as_python(batches)
  files["cifar-10-batches-py/data_batch_2"] = pickle.dumps({b"data": Attack()}, protocol=2)
  write_tar(tmp_path / "cifar-10-python.tar.gz", files)
  with pytest.raises(UserError, match="data_batch_2 of .*cifar-10-python.tar.gz.*mkdir"):
    prepare(tmp_path)
  assert not (tmp_path / "attacked").exists()


@pytest.mark.parametrize(
  "value",
  [
    {"data": np.zeros((10, 3072), np.uint8), "labels": [10] * 10},
    {"data": np.zeros((10, 3072), np.uint8), "labels": [0] * 9},
    {"data": np.zeros((9, 3072), np.uint8), "labels": [0] * 9},
    {"data": np.zeros((10, 3072), np.int64), "labels": [0] * 10},
    {"labels": [0] * 10},
    [1, 2],
  ],
)
def test_pickle_of_something_else_is_a_user_error(tmp_path, batches, value):
  files = as_python(batches) | {"cifar-10-batches-py/test_batch": python2(value)}
  write_tar(tmp_path / "cifar-10-python.tar.gz", files)
  with pytest.raises(UserError, match="test_batch of"):
    prepare(tmp_path)


def test_damaged_files_are_user_errors(tmp_path, batches):
  path = tmp_path / "cifar-10-python.tar.gz"
  files = as_python(batches)
  write_tar(path, files | {"cifar-10-batches-py/data_batch_5": files.popitem()[1][:500]})
  with pytest.raises(UserError, match="data_batch_5 of .* is not a CIFAR-10 batch of 10 images"):
    prepare(tmp_path)
  files = as_python(batches)
  write_tar(path, {n: d for n, d in files.items() if not n.endswith("test_batch")})
  with pytest.raises(UserError, match="cifar-10-python.tar.gz has no test_batch"):
    prepare(tmp_path)
  path.write_bytes(path.read_bytes()[:-50])
  with pytest.raises(UserError, match="truncated or corrupt"):
    prepare(tmp_path)


@pytest.mark.parametrize(
  "damage, message",
  [
    (lambda data: data[:-1], "has 30729 bytes, not 30730"),
    (lambda data: b"\x0a" + data[1:], "labels other than 0 to 9"),
  ],
)
def test_damaged_binary_batch_is_a_user_error(tmp_path, batches, damage, message):
  files = as_binary(batches)
  files["cifar-10-batches-bin/data_batch_3.bin"] = damage(
    files["cifar-10-batches-bin/data_batch_3.bin"]
  )
  write_tar(tmp_path / "cifar-10-binary.tar.gz", files)
  with pytest.raises(UserError, match=f"data_batch_3.bin of .*{message}"):
    prepare(tmp_path)


def test_binary_archive_is_downloaded_where_the_user_has_none(tmp_path, batches, monkeypatch):
  write_tar(tmp_path / "published.tar.gz", as_binary(batches))
  there = dataclasses.replace(
    image.BINARY,
    url=(tmp_path / "published.tar.gz").as_uri(),
    checksum=archives.digest(tmp_path / "published.tar.gz"),
  )
  monkeypatch.setattr(image, "BINARY", there)
  source = prepare(tmp_path).source
  assert source["origin"] == "download" and source["published"] is True
  assert source["file"] == "cifar-10-binary.tar.gz"
  monkeypatch.setattr(image, "BINARY", dataclasses.replace(there, checksum="0" * 64))
  with pytest.raises(UserError, match="cifar-10-binary.tar.gz .sha256 0000.*cifar-10-python"):
    prepare(tmp_path)


@pytest.mark.parametrize("count", [0, 50])
def test_validation_of_a_size_that_train_does_not_have_is_refused(tmp_path, batches, count):
  with pytest.raises(UserError, match="set 1 to 49"):
    prepare(tmp_path, validation_examples=count)


def test_smaller_images_are_means_of_squares(tmp_path, batches):
  write_tar(tmp_path / "cifar-10-python.tar.gz", as_python(batches))
  whole, half = (prepare(tmp_path, resolution=side).splits for side in (32, 16))
  for split in SPLITS:
    full = pixels(whole[split]).reshape(-1, 32, 32)
    corners = sum(full[:, i::2, j::2].astype(int) for i in (0, 1) for j in (0, 1))
    small = half[split].tokens.reshape(-1, 16, 16)[half[split].documents[:, 0]]
    np.testing.assert_array_equal(small, (corners + 2) // 4)
    np.testing.assert_array_equal(np.diff(half[split].offsets), 256)
  with pytest.raises(UserError, match="resolution is 12: set a divisor of 32"):
    prepare(tmp_path, resolution=12)


def test_checksum_is_the_one_tensorflow_datasets_registers():
  listed = checksums.load_url_infos(tfds_utils.tfds_path() / "url_checksums/cifar10.txt")
  assert listed[image.BINARY.url].checksum == image.BINARY.checksum


def test_least_squares_learns_a_linear_rule():
  rng = np.random.default_rng(0)
  labels = rng.integers(0, 10, 400).astype(np.uint8)
  images = rng.integers(0, 100, (400, 1024), dtype=np.uint8)
  images[np.arange(400), labels] = 255
  train, unseen = (image._examples(images[s], labels[s]) for s in (slice(300), slice(300, None)))
  scores = image.baselines(train, unseen)
  assert scores["linear least squares on pixels"] > 0.9 > 0.3 > scores["majority class"]


@pytest.mark.skipif(not archives.find(RAW, *image.NAMES), reason="no CIFAR-10 in $LRA_RAW_DIR")
def test_real_images(tmp_path):
  prepared = image.TASK.prepare(
    raw_dir=RAW, cache_dir=tmp_path, report=print, validation_examples=5000, resolution=32
  )
  train, validation, test = (prepared.splits[split] for split in SPLITS)
  assert [len(split.labels) for split in (train, validation, test)] == [45_000, 5000, 10_000]
  together = np.bincount(train.labels) + np.bincount(validation.labels)
  assert together.tolist() == [5000] * 10 and np.bincount(test.labels).tolist() == [1000] * 10
  assert test.labels[:5].tolist() == [3, 8, 8, 0, 6]  # cat ship ship airplane frog
  assert train.labels[:5].tolist() == [7, 8, 4, 4, 6]  # as tensorflow-datasets shows them
  assert duplicates(prepared.splits)["test in train"] == 0
  scores = image.TASK.baselines(train, test)
  assert scores["majority class"] == 0.1
  assert 0.2 < scores["linear least squares on pixels"] < 0.35
