"""Retrieval: does one paper of the ACL Anthology cite the other? Two documents, read byte by byte.

Sources: LRA's pair files new_aan_pairs.{train,eval,test}.tsv (label, id1, id2, text1, text2; no
header, no quoting), loose or in lra_release.gz; or a citation corpus aan/documents.jsonl[.xz] and
aan/links.tsv (Radev et al. 2013), from which pairs are made in the same proportions.
"""

import dataclasses
import json
import lzma
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from lra.data import archives, download
from lra.data.tasks.task import (
  SPLITS,
  Examples,
  Prepared,
  Task,
  fingerprints,
  majority_baseline,
  pack,
)
from lra.system.errors import UserError
from lra.system.progress import once_a_second

RELEASE = dataclasses.replace(
  download.LRA_RELEASE,
  instead=", or unpack its tsv_data there, or put a citation corpus there: aan/documents.jsonl.xz "
  "(id, text) and aan/links.tsv (citing, cited)",
)
FILES = {
  "train": "new_aan_pairs.train.tsv",
  "validation": "new_aan_pairs.eval.tsv",
  "test": "new_aan_pairs.test.tsv",
}
PAIRS = {"train": 147_086, "validation": 18_090, "test": 17_437}  # in LRA's files
FOLDERS = (
  ".",
  "tsv_data",
  "aan",
  "lra_release",
  "lra_release/tsv_data",
  "lra_release/lra_release/tsv_data",
)
CORPUS = ("documents.jsonl.xz", "documents.jsonl")
NEGATIVES = (
  "the links of each split with their cited ends permuted among themselves, none of them a link of "
  "the corpus in either direction: each document is in as many negatives as positives of a split"
)
ROUNDS = 1000  # of re-drawing the permuted ends that hit a link; the Anthology takes under twenty


def prepare(
  *,
  raw_dir: str | Path | None,
  cache_dir: str | Path,
  report: Callable[[str], None],
  max_length: int,
  seed: int,
) -> Prepared:
  """Pairs of documents cut to their first `max_length` bytes; label 1 where one cites the other.

  `seed` draws negatives, splits and order of a citation corpus; LRA's pairs are taken as they are.
  """
  raw = Path(raw_dir) if raw_dir else None
  folders = [raw / folder for folder in FOLDERS] if raw else []
  loose = next((f for f in folders if any((f / file).exists() for file in FILES.values())), None)
  archive = archives.find(raw, *archives.LRA)
  corpus = archives.find(raw, *CORPUS, *(f"aan/{name}" for name in CORPUS))
  path = loose or archive
  splits = _released(path, max_length, report) if path else {}
  if path and not splits:
    report(f"retrieval: {path} has no {FILES['train']}\n")
  if not splits and corpus:
    return _rebuilt(corpus, max_length, seed, report)
  if not splits:
    path = download.fetch(RELEASE, raw_dir=raw_dir, cache_dir=cache_dir, report=report)
    splits = _released(path, max_length, report)
  return Prepared(splits, download.describe(path, "LRA release", files="new_aan_pairs.*.tsv"))


def _released(path: Path, max_length: int, report: Callable[[str], None]) -> dict[str, Examples]:
  """LRA's pairs, from the folder of the three files or from the release, read in one pass.

  Empty if there is none of the files; UserError if there is one of them and not all.
  """
  splits = {}
  say = once_a_second(report)
  with archives.reading(path):
    for name, open_file in _files(path, report):
      split = next((s for s, file in FILES.items() if PurePosixPath(name).name == file), None)
      if split:
        with open_file() as file:
          where = f"{name} of {path}"
          rows = archives.lines(file, where)
          splits[split] = _parse(rows, where, split, max_length, say)
      if len(splits) == len(FILES):
        break
  missing = [FILES[split] for split in SPLITS if split not in splits]
  if splits and missing:
    raise UserError(f"{path} has no {', '.join(missing)}: get {RELEASE.url} again")
  return splits


def _files(path: Path, report: Callable[[str], None]) -> Iterator[tuple[str, Callable[[], Any]]]:
  """(name, open) of the files that may be LRA's; of a folder, not of what lies below it."""
  if path.is_file():
    yield from archives.members(path, report)
  else:
    for file in filter(Path.exists, (path / name for name in FILES.values())):
      yield file.name, lambda file=file: file.open("rb")


def _parse(
  lines: Iterable[bytes], where: str, split: str, max_length: int, say: Callable[[str], None]
) -> Examples:
  """One TSV of LRA; a document that many pairs share is stored once."""
  index, pairs, labels = {}, [], []
  for number, line in enumerate(lines, 1):
    fields = line.rstrip(b"\r\n").split(b"\t")
    try:
      label = float(fields[0])
    except ValueError:
      label = None
    if len(fields) != 5 or label not in (0.0, 1.0):
      raise UserError(
        f"line {number} of {where} is not label, id1, id2, text1, text2: get {RELEASE.url} again"
      )
    pairs.append([index.setdefault(text[:max_length], len(index)) for text in fields[3:]])
    labels.append(int(label))
    say(f"reading {FILES[split]}: {number} of {PAIRS[split]} pairs")
  if len(pairs) != PAIRS[split]:
    raise UserError(f"{where} has {len(pairs)} pairs, not {PAIRS[split]}: get {RELEASE.url} again")
  return _examples(list(index), np.array(pairs), np.array(labels))


def _examples(documents: list[bytes], pairs: np.ndarray, labels: np.ndarray) -> Examples:
  """Examples of the pairs [N, 2] of indices into `documents`, of which only those used are kept."""
  used, index = np.unique(pairs, return_inverse=True)
  packed = pack([documents[i] for i in used], np.zeros(len(used), np.uint8))
  return packed._replace(
    documents=index.reshape(-1, 2).astype(np.int32), labels=labels.astype(np.uint8)
  )


def _rebuilt(path: Path, max_length: int, seed: int, report: Callable[[str], None]) -> Prepared:
  """Balanced pairs from a citation corpus: every linked pair once, and as many not linked."""
  links_path = path.parent / "links.tsv"
  report(f"reading {path.name} and {links_path.name}")
  documents, links = _corpus(path, links_path, max_length)
  rng = np.random.default_rng(seed)
  links = links[rng.permutation(len(links))]
  shares = np.cumsum([PAIRS[split] for split in SPLITS]) / sum(PAIRS.values())
  parts = np.split(links, np.round(shares[:2] * len(links)).astype(int))
  taken, splits = _key(links), {}
  for split, positives in zip(SPLITS, parts):
    negatives = _negatives(positives, taken, rng, path)
    taken = np.concatenate([taken, _key(negatives)])
    pairs = rng.permuted(np.concatenate([positives, negatives]), axis=1)
    order = rng.permutation(len(pairs))
    labels = np.repeat([1, 0], len(positives))
    splits[split] = _examples(documents, pairs[order], labels[order])
  source = download.describe(path, "rebuilt from a citation corpus") | {
    "file": f"{path.absolute().parent.name}/{path.name}",
    "links_sha256": archives.digest(links_path),
    "seed": seed,
    "positives": f"{len(links)} linked pairs of documents, a mutual link once",
    "negatives": NEGATIVES,
  }
  return Prepared(splits, source)


def _corpus(path: Path, links_path: Path, max_length: int) -> tuple[list[bytes], np.ndarray]:
  """Distinct stored texts, and the linked pairs of them (citing, cited), each once [L, 2]."""
  fix = f"expected JSON lines with id and text in {path.name}, and links between these ids"
  texts, index = {}, {}  # stored bytes -> position; id -> position
  with archives.reading(path), (lzma.open if path.suffix == ".xz" else open)(path, "rb") as file:
    for number, line in enumerate(archives.lines(file, str(path)), 1):
      try:
        document = json.loads(line)
        name, text = str(document["id"]), document["text"].encode("utf-8", "replace")[:max_length]
      except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(
          f"line {number} of {path} is not a document ({repr(error)[:80]}): {fix}"
        ) from error
      if name in index or not text:
        raise UserError(f"line {number} of {path} repeats the id {name[:80]} or has no text: {fix}")
      index[name] = texts.setdefault(text, len(texts))
  with archives.reading(links_path), links_path.open(encoding="utf-8", errors="replace") as file:
    rows = [line.rstrip("\r\n").split("\t") for line in archives.lines(file, str(links_path))]
  for number, row in enumerate(rows, 1):
    if row != ["citing", "cited"] if number == 1 else len(row) != 2 or not index.keys() >= set(row):
      raise UserError(f"line {number} of {links_path} is not a link ({str(row)[:80]}): {fix}")
  links = np.array([[index[name] for name in row] for row in rows[1:]], np.int64).reshape(-1, 2)
  links = links[links[:, 0] != links[:, 1]]
  return list(texts), links[np.unique(_key(links), return_index=True)[1]]


def _key(pairs: np.ndarray) -> np.ndarray:
  """int64 [N]: the same for (a, b) and (b, a)."""
  return (pairs.min(1) << 32) | pairs.max(1)


def _negatives(
  positives: np.ndarray, taken: np.ndarray, rng: np.random.Generator, path: Path
) -> np.ndarray:
  """The pairs with their cited ends permuted, so that none is `taken`, repeated or of one document.

  Permuting within a split keeps how often each document occurs: with negatives drawn freely, or
  matched over all splits together, the popularity of a document in train tells labels in test.
  """
  pairs = np.column_stack([positives[:, 0], rng.permutation(positives[:, 1])])
  for _ in range(ROUNDS):
    keys = _key(pairs)
    bad = np.isin(keys, taken) | (pairs[:, 0] == pairs[:, 1])
    bad[np.setdiff1d(np.arange(len(keys)), np.unique(keys, return_index=True)[1])] = True
    if not bad.any():
      return pairs
    again = bad | (rng.random(len(pairs)) < bad.mean())  # some good ones, to exchange ends with
    pairs[again, 1] = rng.permutation(pairs[again, 1])
  raise UserError(f"{path} has too few documents that are not linked: use the whole corpus")


def baselines(train: Examples, evaluated: Examples) -> dict[str, float]:
  """Majority class, and document popularity: how often either document was in a positive pair.

  The latter adds the log odds of the two documents in `train` (add-one; an unseen one counts 0).
  Neither reads the graph, which tells more: papers that cite, or are cited by, a common third one
  in `train` are linked themselves in most cases (79 % accuracy on the Anthology's test pairs).
  """
  position = {mark: i for i, mark in enumerate(fingerprints(train)[0])}
  counts = np.ones((2, len(position) + 1))
  for label in (0, 1):
    np.add.at(counts[label], train.documents[train.labels == label].ravel(), 1)
  odds = np.log(counts[1] / counts[0])
  known = np.array([position.get(mark, -1) for mark in fingerprints(evaluated)[0]])
  popular = odds[known][evaluated.documents].sum(1) > 0
  return {
    "majority class": majority_baseline(train, evaluated),
    "document popularity": float(np.mean(popular == evaluated.labels)),
  }


TASK = Task(
  name="retrieval",
  vocab_size=257,
  num_classes=2,
  id_offset=1,
  streams=2,
  longest=lambda options: options["max_length"],
  prepare=prepare,
  baselines=baselines,
)
