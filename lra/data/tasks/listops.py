"""ListOps: the value of a nested list expression, read from the LRA release or generated.

Nangia and Bowman (2018), in the long form of LRA (Tay et al., 2020): operators MIN, MAX, MED (of an
even count: the mean of the middle two, truncated) and SM (sum modulo 10) over 2 to max_args
arguments, nested up to max_depth, with min_length < tokens < max_length. A model reads one token
per operator, digit and closing bracket; the parentheses of the released files are dropped.
"""

import csv
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath

import numpy as np

from lra.data import archives
from lra.data.tasks.listops_tokens import Limits, encode
from lra.data.tasks.task import SPLITS, Examples, Prepared, Task, majority_baseline, pack
from lra.system.errors import UserError

FILES = {"train": "basic_train.tsv", "validation": "basic_val.tsv", "test": "basic_test.tsv"}
RELEASED = {"train": 96_000, "validation": 2_000, "test": 2_000}  # examples in these files
FOLDERS = (
  ".",
  "listops-1000",
  "lra_release/listops-1000",
  "lra_release/lra_release/listops-1000",
  "listops",
)


LRA = Limits(min_length=500, max_length=2000, max_depth=10, max_args=10)


def prepare(
  *,
  raw_dir: str | Path | None,
  cache_dir: str | Path,
  report: Callable[[str], None],
  min_length: int,
  max_length: int,
  max_depth: int,
  max_args: int,
  train: int,
  validation: int,
  test: int,
  seed: int,
) -> Prepared:
  """The released files if `raw_dir` holds them and the limits are LRA's, else generated trees.

  The released splits have the sizes they have; the generated ones have `train`, `validation` and
  `test` examples, no two of them the same tree. The release is read unpacked, or from its archive,
  whose three files lie in `cache_dir` meanwhile. Raises UserError for a damaged release and for
  limits that leave too few trees.
  """
  limits = Limits(min_length, max_length, max_depth, max_args)
  if raw_dir is not None:
    folder = _released_folder(Path(raw_dir))
    archive = archives.find(raw_dir, *archives.LRA)
    if folder is None and archive is None:
      report(f"listops: no {FILES['train']} under {raw_dir}: generating\n")
    elif limits != LRA:
      report(f"listops: {folder or archive} is not used, it has {LRA}: generating\n")
    elif folder is None:
      known = lambda name: PurePosixPath(name).name in FILES.values()
      target = lambda name: PurePosixPath(name).name if known(name) else None
      with archives.unpacked(archive, target, Path(cache_dir), report) as unpacked:
        if _released_folder(unpacked):
          return _read_release(unpacked, archive.name, report)
      report(f"listops: {archive} has no {FILES['train']}: generating\n")
    else:
      return _read_release(folder, "unpacked", report)
  return _generate(limits, dict(zip(SPLITS, (train, validation, test), strict=True)), seed, report)


def _released_folder(raw_dir: Path) -> Path | None:
  """The first known folder that holds any released file, or None."""
  for folder in (raw_dir / name for name in FOLDERS):
    if any((folder / name).is_file() for name in FILES.values()):
      return folder
  return None


def _read_release(folder: Path, source: str, report: Callable[[str], None]) -> Prepared:
  """The files in `folder`; `source` says what they came in."""
  for name in FILES.values():
    if not (folder / name).is_file():
      raise UserError(
        f"listops: {folder / name} is missing beside the other released files; "
        "unpack the release again, or move the others away to generate the data"
      )
  splits, hashes = {}, {}
  for split, name in FILES.items():
    report(f"listops: reading {folder / name}")
    splits[split] = pack(*zip(*_rows(folder / name), strict=True))
    hashes[name] = archives.digest(folder / name)
  _check_sizes(folder, {split: len(splits[split].labels) for split in SPLITS})
  origin = {"origin": "released files", "file": source, "published": None}  # no known checksum
  return Prepared(splits, origin | {"sha256": hashes})


def _check_sizes(folder: Path, sizes: dict[str, int]) -> None:
  """Raises UserError unless there are as many examples as in the release."""
  if sizes != RELEASED:
    raise UserError(
      f"listops: the files in {folder} have {sizes} examples instead of {RELEASED}; unpack the "
      "release again, or move it away to generate the data"
    )


def _rows(path: Path) -> Iterator[tuple[bytes, int]]:
  """Ids and label of each row of a released file: tab-separated, csv quoting, one header."""
  line = 1  # where the row at hand starts

  def damaged(what: str) -> UserError:
    return UserError(
      f"{path}:{line}: {what}; replace the file with the released one, or move the "
      "released files away to generate the data"
    )

  with open(path, newline="", encoding="utf-8", errors="backslashreplace") as file:
    reader = csv.reader(archives.lines(file, str(path), 1 << 20), delimiter="\t", strict=True)
    try:
      if next(reader, None) != ["Source", "Target"]:
        raise damaged("the header is not Source<TAB>Target")
      line = reader.line_num + 1
      for row in reader:
        if len(row) != 2:
          raise damaged(f"{len(row)} tab-separated fields instead of 2")
        source, target = row
        if len(target) != 1 or target not in "0123456789":
          raise damaged(f"the target is {target[:20]!r}, not one of 0 to 9")
        ids = encode(source)
        if not 0 < len(ids) < LRA.max_length:
          raise damaged(f"{len(ids)} tokens instead of 1 to {LRA.max_length - 1}")
        yield ids, int(target)
        line = reader.line_num + 1
    except KeyError as error:
      raise damaged(f"unknown token {error.args[0][:20]!r}") from None
    except csv.Error as error:
      raise damaged(str(error)) from None
  if line == 2:
    raise damaged("no examples below the header")


def _generate(
  limits: Limits, sizes: dict[str, int], seed: int, report: Callable[[str], None]
) -> Prepared:
  if limits.max_length < limits.min_length + 2:
    raise UserError(
      f"listops: no length has {limits.min_length} < length < {limits.max_length}; "
      "both bounds are exclusive, so set 0 <= min_length <= max_length - 2"
    )
  longest = 1
  for _ in range(limits.max_depth - 1):
    longest = 2 + limits.max_args * longest
    if longest > limits.min_length:
      break
  if longest <= limits.min_length:
    raise UserError(
      f"listops: no tree of max_depth {limits.max_depth} and max_args "
      f"{limits.max_args} is longer than {longest} tokens; raise one of them, or set "
      f"min_length below {longest}"
    )
  from lra.data.tasks import listops_generator  # numba loads only where trees are drawn

  total = sum(sizes.values())
  report(f"listops: generating {total:,} examples with {limits}")
  tokens, offsets, labels = listops_generator.generate(
    limits, seed=seed, count=total, report=report
  )
  splits, start = {}, 0
  for split, size in sizes.items():
    bounds = offsets[start : start + size + 1]
    documents = np.arange(size, dtype=np.int32)[:, None]
    splits[split] = Examples(
      tokens[bounds[0] : bounds[-1]], bounds - bounds[0], documents, labels[start : start + size]
    )
    start += size
  return Prepared(
    splits,
    {
      "origin": "generated",
      "generator_version": listops_generator.VERSION,
      "seed": seed,
      "parameters": limits._asdict() | sizes,
    },
  )


def baselines(train: Examples, evaluated: Examples) -> dict[str, float]:
  """Accuracy of the commonest label, and of the commonest label for the first token.

  At LRA's limits these are 17 % and 36.3 %; the second rule reads the root operator and no more.
  """
  pairs = _roots(train) * 10 + train.labels
  counts = np.bincount(pairs, minlength=17 * 10).reshape(17, 10)
  answers = np.where(counts.any(axis=1), counts.argmax(axis=1), counts.sum(axis=0).argmax())
  return {
    "majority class": majority_baseline(train, evaluated),
    "mode given the root operator": float(np.mean(answers[_roots(evaluated)] == evaluated.labels)),
  }


def _roots(examples: Examples) -> np.ndarray:
  """The first token of every example, int64 [N]."""
  return examples.tokens[examples.offsets[examples.documents[:, 0]]].astype(np.int64)


TASK = Task(
  name="listops",
  vocab_size=17,
  num_classes=10,
  id_offset=0,
  streams=1,
  longest=lambda options: options["max_length"],
  prepare=prepare,
  baselines=baselines,
)
