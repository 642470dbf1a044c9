"""Pathfinder and Path-X: do the two marked ends belong to one snake? Released PNGs or drawn images.

Linsley et al. (2018), as in LRA (Tay et al., 2020): Pathfinder is 32 x 32 pixels, Path-X 128 x 128,
both of hard difficulty (snakes of 14 dashes). A token is a pixel, 0..255, row by row. The release
has no split that could be recovered from its PNGs, so it is split at random, 80/10/10.
"""

import contextlib
import dataclasses
import hashlib
import struct
import tempfile
import time
import zlib
from collections.abc import Callable, Generator, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from lra.data import archives
from lra.data.packed import leads_out
from lra.data.tasks.pathfinder_markers import REACH, baselines
from lra.data.tasks.task import SPLITS, Examples, Prepared, Task
from lra.system.errors import UserError

DIFFICULTIES = {
  "easy": "curv_baseline",
  "intermediate": "curv_contour_length_9",
  "hard": "curv_contour_length_14",
}
FOLDERS = (".", "pathfinder", "lra_release", "lra_release/lra_release")
KNOWN_EMPTY = "pathfinder32/curv_baseline/imgs/0/sample_172.png"  # as released
RELEASED = 200_000  # images of each resolution and difficulty

_Images = tuple[Generator[np.ndarray, None, None], list[int], dict[str, Any]]
_DAMAGED_PNG = (
  *(OSError, SyntaxError, ValueError, LookupError, TypeError, struct.error, zlib.error, EOFError),
  *(Image.DecompressionBombError, Image.DecompressionBombWarning, MemoryError),
)
_MEND = "unpack the release again, or move it away to generate the data"


def prepare(
  *,
  raw_dir: str | Path | None,
  cache_dir: str | Path,
  report: Callable[[str], None],
  resolution: int,
  difficulty: str,
  train: int,
  validation: int,
  test: int,
  seed: int,
  lra_quirks: bool,
) -> Prepared:
  """The released images if `raw_dir` holds them, else images drawn by the same rules.

  Of the release, each split is at most as large as asked for. `seed` is that of the split or of the
  drawing. Without `lra_quirks` images are always drawn, with free seeding (pathfinder_generator).
  Tokens live in an unnamed file in `cache_dir`, which goes away with the last array that uses it.
  Raises UserError for a damaged release and for options that have no images.
  """
  sizes = dict(zip(SPLITS, (train, validation, test), strict=True))
  if resolution not in REACH or difficulty not in DIFFICULTIES:
    raise UserError(
      f"pathfinder: no images of resolution {resolution} and difficulty {difficulty!r}; "
      f"set one of {', '.join(map(str, REACH))} and one of {', '.join(DIFFICULTIES)}"
    )
  name = f"pathfinder{resolution}/{DIFFICULTIES[difficulty]}"
  Path(cache_dir).mkdir(parents=True, exist_ok=True)
  with contextlib.ExitStack() as stack:
    folder = None
    if raw_dir is not None and not lra_quirks:
      report(f"pathfinder: {raw_dir} is not used, lra_quirks is False: generating\n")
    elif raw_dir is not None:
      folder = _released_folder(Path(raw_dir), name, Path(cache_dir), stack, report)
    if folder is None:
      images, labels, source = _draw(resolution, difficulty, sizes, seed, lra_quirks)
    else:
      images, labels, source = _read_release(folder, resolution, sizes, seed, report)
    stack.enter_context(contextlib.closing(images))
    splits = _pack(images, labels, source["sizes"], cache_dir, report)
  return Prepared(splits, source)


def _released_folder(
  raw_dir: Path,
  name: str,
  cache_dir: Path,
  stack: contextlib.ExitStack,
  report: Callable[[str], None],
) -> Path | None:
  """The folder `name` of the release, out of its archive if need be, for as long as `stack` lasts."""
  found = [folder for parent in FOLDERS if (folder := raw_dir / parent / name).is_dir()]
  archive = archives.find(raw_dir, *archives.LRA)
  if not found and archive:

    def target(member: str) -> str | None:
      at = f"/{member}".find(f"/{name}/")
      return None if at < 0 else member[at:]

    unpacked = stack.enter_context(archives.unpacked(archive, target, cache_dir, report))
    found = [folder for folder in (unpacked / name,) if folder.is_dir()]
  if not found:
    report(f"pathfinder: no {name} under {raw_dir}: generating\n")
  return next(iter(found), None)


def _draw(
  resolution: int, difficulty: str, sizes: dict[str, int], seed: int, quirks: bool
) -> _Images:
  """Images (an iterator), their labels (filled by it) and the source."""
  from lra.data.tasks import pathfinder_generator as generator  # numba loads only where it draws
  from lra.data.tasks.pathfinder_raster import published_parameters

  parameters = published_parameters(resolution, difficulty, quirks)
  labels = []

  def images():
    for scenes in generator.stream(sum(sizes.values()), seed=seed, parameters=parameters):
      labels.extend(scenes.labels.tolist())
      yield from scenes.images

  source = {"origin": "generated", "generator_version": generator.VERSION, "sizes": sizes}
  return images(), labels, source | {"seed": seed, "parameters": parameters._asdict()}


def _read_release(
  folder: Path, resolution: int, sizes: dict[str, int], seed: int, report: Callable[[str], None]
) -> _Images:
  """Images (an iterator), their labels and the source (completed by the iterator)."""
  report(f"pathfinder: reading {folder}")
  name = f"{folder.parent.name}/{folder.name}"
  records, skipped = [], []
  for file, label, where in _records(folder):
    known = f"{name}/{file}" == KNOWN_EMPTY and (folder / file).is_file()
    if known and (folder / file).stat().st_size == 0:
      report(f"pathfinder: {folder / file} is empty, as released: skipped\n")
      skipped.append(file)
    else:
      records.append((file, label, where))
  _check_balance(folder, [label for _, label, _ in records])
  tenth = len(records) // 10
  order = np.random.default_rng(seed).permutation(len(records))
  parts = zip(SPLITS, (order[2 * tenth :], order[:tenth], order[tenth : 2 * tenth]), strict=True)
  parts = {split: part[: sizes[split]] for split, part in parts}
  chosen = [records[i] for part in parts.values() for i in part]
  source: dict[str, Any] = {"origin": "released files", "folder": name, "published": None}
  source |= {"images": len(records), "seed": seed}
  source |= {"skipped": skipped, "sizes": {split: len(part) for split, part in parts.items()}}

  def images():
    sha256 = hashlib.sha256()
    for file, label, where in chosen:
      image = _read_image(folder / file, resolution, where)
      sha256.update(bytes([label]) + image.tobytes())
      yield image
    source["sha256"] = sha256.hexdigest()

  return images(), [label for _, label, _ in chosen], source


def _check_balance(folder: Path, labels: list[int]) -> None:
  """Raises UserError unless these are about as many images as in the release, half of them joined."""
  joined = sum(labels) / max(1, len(labels))
  if len(labels) < 0.99 * RELEASED or not 0.45 < joined < 0.55:
    raise UserError(
      f"pathfinder: {folder} has {len(labels):,} images, {joined:.0%} of them joined, instead of "
      f"about {RELEASED:,} and a half; {_MEND}"
    )


def _records(folder: Path) -> Iterator[tuple[str, int, str]]:
  """Image file below `folder`, label and place in the metadata, of every released image.

  The metadata are lines of text in files named .npy (subpath, filename, index, label, ...), or real
  .npy arrays of such rows, as the published generator writes them.
  """
  files = sorted((folder / "metadata").glob("[!.]*.npy"))  # a Mac adds ._NAME
  if not files:
    raise UserError(f"pathfinder: no .npy files in {folder / 'metadata'}; {_MEND}")
  for file in files:
    try:
      if file.read_bytes().startswith(b"\x93NUMPY"):
        table = np.load(file).astype(str)
        if (np.frombuffer(table.tobytes(), np.uint32) > 0x10FFFF).any():
          raise ValueError("no such characters")
        rows = table.tolist()
      else:
        rows = [line.split() for line in file.read_text().splitlines()]
    except Exception as error:  # a damaged .npy can raise anything
      raise UserError(f"{file}: unreadable ({str(error)[:80]}); {_MEND}") from None
    for number, row in enumerate(rows, start=1):
      if not isinstance(row, list) or len(row) < 4 or row[3] not in ("0", "1"):
        fields = "subpath, filename, index, label (0 or 1), ..."
        raise UserError(f"{file}:{number}: {str(row)[:80]} is not {fields}; {_MEND}")
      if not all(isinstance(x, str) for x in row[:2]) or leads_out(f"{row[0]}/{row[1]}"):
        raise UserError(f"{file}:{number}: {str(row)[:80]} leads out of {folder}; {_MEND}")
      yield f"{row[0]}/{row[1]}", int(row[3]), f"{file}:{number}"


def _read_image(path: Path, resolution: int, where: str) -> np.ndarray:
  """A gray PNG, listed at `where`. uint8 [resolution, resolution]"""
  try:
    problem = "empty file" if path.stat().st_size == 0 else None
    if problem is None:
      with Image.open(path, formats=["PNG"]) as image:
        found = f"{image.width} x {image.height} {image.mode}"
        if found != f"{resolution} x {resolution} L":  # before pixels of any number are decoded
          problem = f"{found} instead of {resolution} x {resolution} L (8-bit gray)"
        else:
          pixels = np.asarray(image)
  except FileNotFoundError:
    problem = "no such file"
  except _DAMAGED_PNG as error:
    problem = f"not a readable PNG: {error}"
  if problem is not None:
    raise UserError(f"{path}: {problem} (listed at {where}); {_MEND}")
  return pixels


def _pack(
  images: Iterable[np.ndarray],
  labels: list[int],
  sizes: dict[str, int],
  cache_dir: str | Path,
  report: Callable[[str], None],
) -> dict[str, Examples]:
  """Splits over one memory-mapped file, since 3.3 GB of Path-X need not sit in memory."""
  total, start, reported = sum(sizes.values()), None, 0.0
  with tempfile.TemporaryFile(dir=cache_dir) as file:
    for done, image in enumerate(images):
      file.write(image.tobytes())
      now = time.monotonic()
      if start is None:
        start = reported = now  # from here on, nothing is being compiled
      elif now - reported >= 1:
        rate, reported = done / (now - start), now
        left = (total - done) / rate
        left = f"{left / 60:.0f} min" if left >= 90 else f"{left:.0f} s"
        report(f"pathfinder: {done:,} / {total:,} images, {rate:,.0f}/s, {left} left")
    file.flush()
    tokens = np.memmap(file, np.uint8, "r")
  splits, first = {}, 0
  for split, size in sizes.items():
    splits[split] = Examples(
      tokens=tokens[first * image.size : (first + size) * image.size],
      offsets=np.arange(size + 1, dtype=np.int64) * image.size,
      documents=np.arange(size, dtype=np.int32)[:, None],
      labels=np.array(labels[first : first + size], np.uint8),
    )
    first += size
  return splits


def contact_sheet(images: np.ndarray, columns: int, scale: int = 1) -> np.ndarray:
  """Images side by side on gray, enlarged `scale` times. uint8 [n, side, side] -> uint8 [h, w]

  PIL.Image.fromarray(sheet).save(path) makes a file of it.
  """
  n, side, _ = images.shape
  tiles = np.full((-(-n // columns) * columns, side + 2, side + 2), 80, np.uint8)
  tiles[:n, 1:-1, 1:-1] = images
  grid = tiles.reshape(-1, columns, side + 2, side + 2).swapaxes(1, 2)
  return grid.reshape(-1, columns * (side + 2)).repeat(scale, 0).repeat(scale, 1)


TASK = Task(
  name="pathfinder",
  vocab_size=256,
  num_classes=2,
  id_offset=0,
  streams=1,
  longest=lambda options: options["resolution"] ** 2,
  prepare=prepare,
  baselines=baselines,
)
PATHX = dataclasses.replace(TASK, name="pathx")
