"""`Task`, `Examples` and `Prepared`: the interface that every task implements. No JAX."""

import dataclasses
import hashlib
import itertools
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

SPLITS = ("train", "validation", "test")


class Examples(NamedTuple):
  """One split as flat arrays: D documents end to end, and N examples that point into them.

  An example is `streams` documents (one, or two for a paired task), so a document shared by many
  pairs is stored once.
  """

  tokens: np.ndarray  # uint8 [total]; the model sees `token + task.id_offset`
  offsets: np.ndarray  # int64 [D + 1]; document i is tokens[offsets[i]:offsets[i + 1]]
  documents: np.ndarray  # int32 [N, streams]
  labels: np.ndarray  # uint8 [N]


class Prepared(NamedTuple):
  """Every split of a task, and where it came from (JSON-able; ends up in the manifest)."""

  splits: dict[str, Examples]  # keys: SPLITS
  source: dict[str, Any]  # "origin" at least: "generated", "released files", "download", ...


@dataclasses.dataclass(frozen=True)
class Task:
  """Properties of a task, and the functions that prepare its data and score its baselines.

  prepare(*, raw_dir, cache_dir, report, **options) -> Prepared. `raw_dir` is the user's folder of
  raw files or None; `cache_dir` is where downloads are kept; `report(text)` shows progress, and
  a text that ends with a newline stays on the screen;
  `options` are the task's own keys of the config. Raises UserError when no source can be had.
  baselines(train, evaluated) -> accuracy in [0, 1] of each trivial predictor, fitted on `train`
  and scored on `evaluated`.
  fingerprint(raw_dir, options) -> anything JSON-able that differs where `prepare` would read other
  files; None where the options alone say what is prepared.
  """

  name: str
  vocab_size: int
  num_classes: int  # 0: a text without labels
  id_offset: int  # 1 where stored tokens start at 0 and id 0 has to stay free for padding
  streams: int
  longest: Callable[[Mapping[str, Any]], int]  # options -> the most tokens of a document
  prepare: Callable[..., Prepared]
  baselines: Callable[[Examples, Examples], dict[str, float]]
  fingerprint: Callable[[Path | None, Mapping[str, Any]], Any] = lambda raw_dir, options: None


def pack(documents: Iterable[bytes | np.ndarray], labels: Iterable[int]) -> Examples:
  """Examples of one document each, in the order given."""
  arrays = [np.frombuffer(d, np.uint8) if isinstance(d, bytes) else d for d in documents]
  offsets = np.zeros(len(arrays) + 1, np.int64)
  np.cumsum([len(a) for a in arrays], out=offsets[1:])
  tokens = np.concatenate(arrays) if arrays else np.zeros(0, np.uint8)
  index = np.arange(len(arrays), dtype=np.int32)[:, None]
  return Examples(tokens, offsets, index, np.fromiter(labels, np.uint8, len(arrays)))


def majority_baseline(train: Examples, evaluated: Examples) -> float:
  """Accuracy of always answering the commonest label of `train`."""
  return float(np.mean(evaluated.labels == np.bincount(train.labels).argmax()))


def fingerprints(examples: Examples) -> tuple[list[bytes], list[tuple[bytes, ...]]]:
  """Hashes of the documents [D], and of each example [N] whatever the order of its documents."""
  pieces = itertools.pairwise(examples.offsets.tolist())
  documents = [
    hashlib.blake2b(examples.tokens[a:b].data, digest_size=16).digest() for a, b in pieces
  ]
  rows = examples.documents.tolist()
  return documents, [tuple(sorted(documents[d] for d in row)) for row in rows]


def duplicates(splits: dict[str, Examples]) -> dict[str, int]:
  """How many examples of one split are byte for byte in another one, as stored."""
  marks = {name: fingerprints(splits[name])[1] for name in SPLITS}
  pairs = (("test", "train"), ("validation", "train"), ("validation", "test"))
  return {f"{a} in {b}": sum(map(set(marks[b]).__contains__, marks[a])) for a, b in pairs}
