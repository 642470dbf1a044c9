"""Language modelling: running text in blocks of bytes, without labels.

Sources: WikiText-103 (Merity et al., 2016, arXiv 1609.07843) with its own splits; the *.txt files of
a folder, in the order of their names; or the training reviews of IMDB, in an order drawn by `seed`.
A text without splits of its own is cut in three: train, then validation, then test.
"""

from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from lra.data import archives, download
from lra.data.tasks import text
from lra.data.tasks.task import SPLITS, Examples, Prepared, Task
from lra.system.errors import UserError

WIKITEXT = download.Remote(
  name="wikitext-103-raw-v1.zip",
  url="https://wikitext.smerity.com/wikitext-103-raw-v1.zip",
  instead=", or the unpacked wikitext-103-raw/",
)
WIKITEXT_NAMES = (
  *("wikitext-103-raw", "wikitext-103-raw-v1", WIKITEXT.name, "wikitext-103-raw.zip"),
  *("wikitext-103-raw-v1.tar.gz", "wikitext-103-raw.tar.gz"),
)
WIKITEXT_FILES = {
  "train": "wiki.train.raw",
  "validation": "wiki.valid.raw",
  "test": "wiki.test.raw",
}
SOURCES = ("auto", "wikitext", "files", "imdb")
LARGEST = 2**31 - 2**20  # bytes of a split: what int32 addresses reach


def prepare(
  *,
  raw_dir: str | Path | None,
  cache_dir: str | Path,
  report: Callable[[str], None],
  source: str,
  max_length: int,
  held_out: float,
  seed: int,
) -> Prepared:
  """Blocks of `max_length` bytes; the last one of a split may be shorter.

  source: one of SOURCES; "auto" is the first of the others whose files are in `raw_dir`, else IMDB.
  held_out: share of a text without splits that is validation, and as much again test.
  """
  if not 0 < held_out < 0.5:
    raise UserError(f"config.task.held_out is {held_out}: set a share above 0 and below 0.5")
  kind, path = _find(raw_dir, source)
  if kind == "wikitext":
    texts = _wikitext(path, report)
    described = download.describe(path, "user's files", WIKITEXT, files="wiki.*.raw")
  elif kind == "files":
    whole = b"\n".join(_read(file) for file in _texts(path))
    texts = _cut(whole, held_out, max_length)
    described = download.describe(path, "user's files", files="*.txt")
  else:
    whole, described = _reviews(raw_dir, cache_dir, seed, report)
    texts = _cut(whole, held_out, max_length)
  for split, found in texts.items():
    if not 2 <= len(found) <= LARGEST:
      raise UserError(
        f"{path or 'the text'} gives {len(found):,} bytes for {split}, 2 to {LARGEST:,} will do: "
        "use more text, or fewer files of it"
      )
  splits = {split: blocks(texts[split], max_length) for split in SPLITS}
  return Prepared(splits, described | {"text": kind})


def fingerprint(raw_dir: Path | None, options: Mapping[str, Any]) -> Any:
  """Which text `prepare` would read: kind, names, sizes and times of change of its files."""
  kind, path = _find(raw_dir, options["source"])
  if path is None:
    return kind
  if kind == "files":
    files = _texts(path)
  else:
    files = sorted(path.glob("wiki.*.raw")) if path.is_dir() else [path]
  stats = [(file.name, file.stat()) for file in files]
  return [kind, *((name, stat.st_size, stat.st_mtime_ns) for name, stat in stats)]


def blocks(content: bytes, length: int) -> Examples:
  """One document for each `length` bytes, one for the rest; every label is 0."""
  count = -(-len(content) // length)
  offsets = np.minimum(np.arange(count + 1, dtype=np.int64) * length, len(content))
  index = np.arange(count, dtype=np.int32)[:, None]
  return Examples(np.frombuffer(content, np.uint8), offsets, index, np.zeros(count, np.uint8))


def _find(raw_dir: str | Path | None, source: str) -> tuple[str, Path | None]:
  """The kind of text and where it is; None where `text` looks itself. Raises UserError."""
  if source not in SOURCES:
    raise UserError(f"config.task.source is one of {', '.join(SOURCES)}, not {source!r}")
  if source in ("auto", "wikitext"):
    found = archives.find(raw_dir, *WIKITEXT_NAMES, itself=(WIKITEXT_FILES["train"],))
    if found:
      return "wikitext", found
    if source == "wikitext":
      raise UserError(
        f"no WikiText-103: get {WIKITEXT.name} from {WIKITEXT.url} and put it in "
        f"{raw_dir or 'a folder of raw files'} (--raw_dir or $LRA_RAW_DIR){WIKITEXT.instead}"
      )
  if source in ("auto", "files"):
    if raw_dir and _texts(Path(raw_dir)):
      return "files", Path(raw_dir)
    if source == "files":
      raise UserError(
        f"no *.txt in {raw_dir or 'a folder of raw files'} (--raw_dir or $LRA_RAW_DIR): put your "
        "text there"
      )
  return "imdb", None


def _texts(folder: Path) -> list[Path]:
  return sorted(file for file in folder.glob("*.txt") if file.is_file())


def _read(file: Path) -> bytes:
  with archives.reading(file):
    return file.read_bytes()


def _wikitext(path: Path, report: Callable[[str], None]) -> dict[str, bytes]:
  """The three files of a folder, a zip or a tar."""
  found = {}
  with archives.reading(path):
    for name, open_member in archives.members(path, report):
      for split, file in WIKITEXT_FILES.items():
        if PurePosixPath(name).name == file:
          if split in found:
            raise UserError(f"{path} has {file} twice: leave one of them there")
          with open_member() as opened:
            found[split] = archives.content(opened, LARGEST, f"{name} of {path}")
  if missing := [WIKITEXT_FILES[split] for split in SPLITS if split not in found]:
    raise UserError(f"{path} has no {', '.join(missing)}: get {WIKITEXT.url} again")
  return found


def _reviews(
  raw_dir: str | Path | None, cache_dir: str | Path, seed: int, report: Callable[[str], None]
) -> tuple[bytes, dict[str, Any]]:
  """IMDB's training reviews in a random order, a line end after each."""
  path, origin = text.archive(raw_dir, cache_dir, report)
  reviews = [review for review, _ in text.read(path, report)["train"]]
  order = np.random.default_rng(seed).permutation(len(reviews))
  whole = b"".join(reviews[i] + b"\n" for i in order)
  return whole, download.describe(path, origin, text.ARCHIVE) | {"seed": seed}


def _cut(whole: bytes, share: float, length: int) -> dict[str, bytes]:
  """Train, validation and test, one after the other; the latter two begin where a block does."""
  held_out = round(len(whole) * share / length) * length or length
  ends = [max(0, len(whole) - 2 * held_out) // length * length]
  ends.append(ends[0] + held_out)
  return {
    "train": whole[: ends[0]],
    "validation": whole[ends[0] : ends[1]],
    "test": whole[ends[1] :],
  }


TASK = Task(
  name="lm",
  vocab_size=257,
  num_classes=0,
  id_offset=1,
  streams=1,
  longest=lambda options: options["max_length"],
  prepare=prepare,
  baselines=lambda train, evaluated: {},
  fingerprint=fingerprint,
)
