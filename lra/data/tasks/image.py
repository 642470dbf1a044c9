"""Image: gray CIFAR-10 (Krizhevsky 2009) as a sequence of pixels, row by row.

Source: cifar-10-python.tar.gz or cifar-10-binary.tar.gz, each 5 x 10,000 images to train on and
10,000 to test on. The splits are those of the published benchmark, image for image.
"""

import hashlib
from collections.abc import Callable
from pathlib import Path, PurePosixPath

import numpy as np

from lra.data import archives, download
from lra.data.tasks import cifar_pickle
from lra.data.tasks.task import Examples, Prepared, Task, majority_baseline
from lra.system.errors import UserError

BINARY = download.Remote(
  name="cifar-10-binary.tar.gz",
  url="https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
  algorithm="sha256",
  checksum="c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
  instead="; cifar-10-python.tar.gz or either of them unpacked will do as well",
)
PYTHON = download.Remote(
  name="cifar-10-python.tar.gz",
  url="https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
  algorithm="md5",
  checksum="c58f30108f718f92721af3b95e74349a",
)
NAMES = (PYTHON.name, BINARY.name, "cifar-10-batches-py", "cifar-10-batches-bin")
SIDE = 32
PIXELS = SIDE * SIDE
BATCH = 10_000  # images in one file
LONGEST = 1 << 26  # bytes of such a file, at most; they have 31 millions
TRAIN_FILES = tuple(f"data_batch_{i}" for i in range(1, 6))
FILES = (*TRAIN_FILES, "test_batch")


def prepare(
  *,
  raw_dir: str | Path | None,
  cache_dir: str | Path,
  report: Callable[[str], None],
  validation_examples: int,
  resolution: int,
) -> Prepared:
  """Gray images; `validation_examples` are held out, the last in tensorflow-datasets' train order.

  With 5,000 of them the splits are LRA's `train[:90%]` and `train[90%:]`. Test keeps its order.
  resolution: side in pixels, 32 as published, or a divisor of it, each pixel a mean of the square.
  """
  if not 0 < validation_examples < len(TRAIN_FILES) * BATCH:
    limit = len(TRAIN_FILES) * BATCH - 1
    raise UserError(f"validation_examples is {validation_examples}: set 1 to {limit}")
  if resolution < 1 or SIDE % resolution:
    raise UserError(f"resolution is {resolution}: set a divisor of {SIDE}, such as 16")
  path = archives.find(raw_dir, *NAMES, itself=("data_batch_1", "data_batch_1.bin"))
  origin = "user's files" if path else "download"
  path = path or download.fetch(BINARY, raw_dir=raw_dir, cache_dir=cache_dir, report=report)
  source = download.describe(path, origin, BINARY, PYTHON)
  batches = _read(path, report)
  pixels, labels = (np.concatenate(x) for x in zip(*(batches[name] for name in TRAIN_FILES)))
  order = tfds_order(len(labels))
  pixels = shrink(pixels, resolution)
  train, held_out = np.split(order, [len(order) - validation_examples])
  splits = {
    "train": _examples(pixels[train], labels[train]),
    "validation": _examples(pixels[held_out], labels[held_out]),
    "test": _examples(shrink(batches["test_batch"][0], resolution), batches["test_batch"][1]),
  }
  source["validation"] = f"the last {validation_examples} of train in tensorflow-datasets' order"
  return Prepared(splits, source)


def tfds_order(count: int) -> np.ndarray:
  """Published indices in the order in which tensorflow-datasets stores CIFAR-10's train split.

  It sorts by md5 of the split's name and the index (tensorflow_datasets/core/hashing.py), so that
  a slice such as `train[90%:]` is a fixed random subset: 16399, 1680, 47917, 17307, ...
  """
  return np.array(sorted(range(count), key=lambda i: hashlib.md5(f"train{i}".encode()).digest()))


def gray(images: np.ndarray) -> np.ndarray:
  """Luma of uint8 planes [n, 3, p] -> uint8 [n, p], as `tf.image.rgb_to_grayscale` computes it.

  All in float32: v * (1/255) per channel, times .2989, .5870, .1140, summed, times 255.5, cut off
  (tensorflow/python/ops/image_ops_impl.py, convert_image_dtype). The order of the sum, which
  TensorFlow leaves to the machine, moves about 50 of the 2^24 colours by one. Gray stays as it is.
  """
  values = np.arange(256, dtype=np.float32) * np.float32(1 / 255)
  red, green, blue = (values * np.float32(weight) for weight in (0.2989, 0.5870, 0.1140))
  luma = red[images[:, 0]] + green[images[:, 1]] + blue[images[:, 2]]
  return (luma * np.float32(255.5)).astype(np.uint8)


def shrink(pixels: np.ndarray, side: int) -> np.ndarray:
  """uint8 [n, 1024] -> uint8 [n, side * side], the rounded means of squares."""
  step = SIDE // side
  squares = pixels.reshape(-1, side, step, side, step)
  sums = squares.sum((2, 4), dtype=np.uint32)
  return ((sums + step * step // 2) // (step * step)).astype(np.uint8).reshape(len(pixels), -1)


def _examples(pixels: np.ndarray, labels: np.ndarray) -> Examples:
  """Examples of one image each, from uint8 [n, p] and uint8 [n]."""
  offsets = np.arange(len(labels) + 1, dtype=np.int64) * pixels.shape[1]
  index = np.arange(len(labels), dtype=np.int32)[:, None]
  return Examples(pixels.reshape(-1), offsets, index, labels)


def _read(path: Path, report: Callable[[str], None]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
  """File name without its suffix -> gray pixels uint8 [10000, 1024] and labels uint8 [10000]."""
  batches = {}
  with archives.reading(path):
    for name, open_member in archives.members(path, report):
      stem, suffix = PurePosixPath(name).stem, PurePosixPath(name).suffix
      if stem not in FILES or suffix not in ("", ".bin"):
        continue
      with open_member() as opened:
        data = archives.content(opened, LONGEST, f"{name} of {path}")
      images, labels = (_from_binary if suffix else _from_pickle)(data, f"{name} of {path}")
      batches[stem] = gray(images), labels
  counts = {stem: np.bincount(labels, minlength=10) for stem, (_, labels) in batches.items()}
  if missing := [name for name in FILES if name not in batches]:
    raise UserError(f"{path} has no {', '.join(missing)}: delete it and get {BINARY.url}")
  for files in (TRAIN_FILES, FILES[-1:]):
    if len(set(classes := np.sum([counts[stem] for stem in files], axis=0))) > 1:
      raise UserError(
        f"{path} has {classes.tolist()} images of the ten classes in {', '.join(files)}, not as "
        f"many of each: delete it and get {BINARY.url}"
      )
  return batches


def _from_binary(data: bytes, where: str) -> tuple[np.ndarray, np.ndarray]:
  """Images uint8 [10000, 3, 1024] and labels: records of one label byte and three planes."""
  if len(data) != BATCH * (1 + 3 * PIXELS):
    raise UserError(f"{where} has {len(data)} bytes, not {BATCH * (1 + 3 * PIXELS)}: get it again")
  records = np.frombuffer(data, np.uint8).reshape(BATCH, 1 + 3 * PIXELS)
  return records[:, 1:].reshape(BATCH, 3, PIXELS), _checked(records[:, 0], where)


def _from_pickle(data: bytes, where: str) -> tuple[np.ndarray, np.ndarray]:
  """Images uint8 [10000, 3, 1024] and labels: a dict with b"data" and b"labels"."""
  try:
    batch = cifar_pickle.load(data)
    images, labels = batch[b"data"], batch[b"labels"]
    if not isinstance(images, np.ndarray) or images.dtype != np.uint8:
      raise ValueError("its images are not uint8")
    if len(labels) != BATCH or any(type(label) is not int for label in labels):
      raise ValueError("its labels are not a list of as many numbers")
    images, labels = images.reshape(BATCH, 3, PIXELS), np.array(labels, np.int64)
  except Exception as error:  # a damaged pickle can raise anything
    raise UserError(
      f"{where} is not a CIFAR-10 batch of {BATCH} images ({str(error)[:80]}): get it again"
    ) from error
  return images, _checked(labels, where)


def _checked(labels: np.ndarray, where: str) -> np.ndarray:
  """Labels as uint8 [n]; UserError unless all are 0..9."""
  if labels.min() < 0 or labels.max() > 9:
    raise UserError(f"{where} has labels other than 0 to 9: get it again")
  return labels.astype(np.uint8)


def baselines(train: Examples, evaluated: Examples) -> dict[str, float]:
  """Majority class, and a linear least-squares classifier (ridge) on the pixels."""
  inputs, unseen = _centred(train), _centred(evaluated)
  targets = np.eye(10, dtype=np.float32)[train.labels]
  moment = inputs.T @ inputs
  ridge = 1e-3 * np.trace(moment) / len(moment) * np.eye(len(moment), dtype=np.float32)
  weights = np.linalg.solve(moment + ridge, inputs.T @ targets)
  predicted = (unseen @ weights).argmax(1)
  return {
    "majority class": majority_baseline(train, evaluated),
    "linear least squares on pixels": float(np.mean(predicted == evaluated.labels)),
  }


def _centred(examples: Examples) -> np.ndarray:
  """Pixels in [-0.5, 0.5] and a constant one, float32 [N, p + 1]."""
  pixels = examples.tokens.reshape(len(examples.offsets) - 1, -1)[examples.documents[:, 0]]
  ones = np.ones((len(pixels), 1), np.float32)
  return np.concatenate([pixels / np.float32(255) - np.float32(0.5), ones], axis=1)


TASK = Task(
  name="image",
  vocab_size=256,
  num_classes=10,
  id_offset=0,
  streams=1,
  longest=lambda options: options["resolution"] ** 2,
  prepare=prepare,
  baselines=baselines,
)
