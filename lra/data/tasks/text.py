"""Text: the sentiment of an IMDB review, read byte by byte (Maas et al. 2011).

Source: aclImdb_v1.tar.gz, files aclImdb/{train,test}/{neg,pos}/ID_RATING.txt, bytes as published
with their HTML; label 1 is positive. 25,000 reviews to train on and 25,000 to test on.
"""

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np

from lra.data import archives, download
from lra.data.tasks.task import Examples, Prepared, Task, majority_baseline, pack
from lra.system.errors import UserError

ARCHIVE = download.Remote(
  name="aclImdb_v1.tar.gz",
  url="https://ai.stanford.edu/~amaas/data/sentiment/aclImdb_v1.tar.gz",
  algorithm="sha256",
  checksum="c40f74a18d3b61f90feba1e17730e0d38e8b97c05fde7008942e91923d1658fe",
  instead=", or the unpacked aclImdb/",
)
NAMES = (ARCHIVE.name, "aclImdb", "aclImdb_v1/aclImdb")
CLASSES = ("neg", "pos")
LONGEST = 1 << 20  # bytes of a review, at most; the longest has 14 thousand
PER_CLASS = 12_500  # reviews of one class in one split
MEMBER = re.compile(r"(?:^|/)(train|test)/([^/]+)/(\d+_\d+\.txt)$")


def prepare(
  *,
  raw_dir: str | Path | None,
  cache_dir: str | Path,
  report: Callable[[str], None],
  max_length: int,
  validation_examples: int,
  seed: int,
) -> Prepared:
  """Reviews cut to their first `max_length` bytes.

  `validation_examples` are taken from train, the same number of each class; 0 makes the test split
  the validation split too, as the published benchmark does.
  """
  if not 0 <= validation_examples < 2 * PER_CLASS:
    raise UserError(f"validation_examples is {validation_examples}: set 0 to {2 * PER_CLASS - 1}")
  path, origin = archive(raw_dir, cache_dir, report)
  source = download.describe(path, origin, ARCHIVE)
  reviews = {
    split: [(text[:max_length], label) for text, label in rows]
    for split, rows in read(path, report).items()
  }
  train, test = reviews["train"], pack(*zip(*reviews["test"]))
  if validation_examples:
    held_out = _carve(np.array([label for _, label in train]), validation_examples, seed)
    validation = pack(*zip(*(train[i] for i in np.flatnonzero(held_out))))
    train = [train[i] for i in np.flatnonzero(~held_out)]
    source["validation"] = f"{validation_examples} reviews of train, balanced, seed {seed}"
  else:
    validation = test
    source["validation"] = "the test split"
  splits = {"train": pack(*zip(*train)), "validation": validation, "test": test}
  return Prepared(splits, source)


def archive(
  raw_dir: str | Path | None, cache_dir: str | Path, report: Callable[[str], None]
) -> tuple[Path, str]:
  """The user's reviews, or the downloaded archive of them, and which of the two it is."""
  if path := archives.find(raw_dir, *NAMES, itself=("train/neg",)):
    return path, "user's files"
  path = download.fetch(ARCHIVE, raw_dir=raw_dir, cache_dir=cache_dir, report=report)
  return path, "download"


def read(path: Path, report: Callable[[str], None]) -> dict[str, list[tuple[bytes, int]]]:
  """Split -> (review, label), sorted by label and file name."""
  found = {}
  with archives.reading(path):
    for name, open_member in archives.members(path, report):
      match = MEMBER.search(name)
      if not match or match[2] == "unsup":
        continue
      split, folder, file = match.groups()
      if folder not in CLASSES:
        raise UserError(
          f"{path} has {name}, which is neither neg nor pos: delete it and get {ARCHIVE.name} again"
        )
      with open_member() as opened:
        text = archives.content(opened, LONGEST, f"{name} of {path}")
        found[split, CLASSES.index(folder), file] = text
  for split in ("train", "test"):
    for label, folder in enumerate(CLASSES):
      texts = [text for key, text in found.items() if key[:2] == (split, label)]
      if len(texts) != PER_CLASS or not all(texts):
        raise UserError(
          f"{path} has {sum(map(bool, texts))} reviews in {split}/{folder}, not {PER_CLASS}: "
          f"delete it and get {ARCHIVE.name} again from {ARCHIVE.url}"
        )
  reviews = {"train": [], "test": []}
  for split, label, file in sorted(found):
    reviews[split].append((found[split, label, file], label))
  return reviews


def _carve(labels: np.ndarray, count: int, seed: int) -> np.ndarray:
  """bool [N]: `count` examples drawn with `seed`, half of each class (the odd one is negative)."""
  rng = np.random.default_rng(seed)
  chosen = np.zeros(len(labels), bool)
  for label, share in ((0, count - count // 2), (1, count // 2)):
    chosen[rng.choice(np.flatnonzero(labels == label), share, replace=False)] = True
  return chosen


def baselines(train: Examples, evaluated: Examples) -> dict[str, float]:
  """Majority class, and multinomial naive Bayes on byte counts (add-one smoothing)."""
  counts, unseen = _byte_counts(train), _byte_counts(evaluated)
  totals = np.stack([counts[train.labels == label].sum(0) for label in (0, 1)]) + 1.0
  likelihood = np.log(totals / totals.sum(1, keepdims=True))
  prior = np.log(np.bincount(train.labels, minlength=2) / len(train.labels))
  predicted = (unseen @ likelihood.T + prior).argmax(1)
  return {
    "majority class": majority_baseline(train, evaluated),
    "naive Bayes on byte counts": float(np.mean(predicted == evaluated.labels)),
  }


def _byte_counts(examples: Examples) -> np.ndarray:
  """How often each byte value occurs in each example, float64 [N, 256]."""
  starts, ends = examples.offsets[:-1], examples.offsets[1:]
  documents = examples.documents[:, 0]
  return np.stack(
    [
      np.bincount(examples.tokens[a:b], minlength=256)
      for a, b in zip(starts[documents], ends[documents])
    ]
  ).astype(np.float64)


TASK = Task(
  name="text",
  vocab_size=257,
  num_classes=2,
  id_offset=1,
  streams=1,
  longest=lambda options: options["max_length"],
  prepare=prepare,
  baselines=baselines,
)
