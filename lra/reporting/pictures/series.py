"""The numbers shown in pictures: accuracy against speed, curves over seeds, power laws."""

import dataclasses
import json
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lra.reporting import accuracy_table
from lra.system.errors import UserError

Records = Sequence[Mapping[str, Any]]
METRICS = ("accuracy", "loss")
SPLITS = ("train", "validation")


@dataclasses.dataclass(frozen=True)
class Point:
  """One bubble of the chart of accuracy against speed."""

  attention: str
  overrides: str
  speed: float  # training examples a second
  speed_std: float | None  # over runs
  accuracy: float  # test, %
  std: float | None  # over seeds
  gigabytes: float  # peak memory


@dataclasses.dataclass(frozen=True)
class Band:
  """A curve: mean over seeds and, from two seeds on, the standard deviation."""

  attention: str
  overrides: str
  step: np.ndarray
  mean: np.ndarray
  std: np.ndarray | None
  seeds: int


@dataclasses.dataclass(frozen=True)
class Growth:
  """A quantity as a function of the length n, and the power of n that fits it."""

  name: str
  n: np.ndarray
  values: np.ndarray
  exponent: float
  fitted: np.ndarray


def settings(records: Records) -> dict[tuple[str, str], Records]:
  """Records that may share a picture: by preset (with what was changed of the data) and device."""
  found: dict[tuple[str, str], list] = {}
  for r in records:
    found.setdefault((accuracy_table.setting(r), accuracy_table.device(r)), []).append(r)
  return dict(sorted(found.items(), key=lambda item: (item[0][0] != "default", item[0])))


def rows(records: Records) -> dict[tuple[str, str], Records]:
  """Records by (mechanism, its overrides), in the order of the table's rows."""
  found: dict[tuple[str, str], list] = {}
  for r in records:
    found.setdefault(accuracy_table.row_key(r), []).append(r)
  return {key: found[key] for key in sorted(found, key=accuracy_table.row_order)}


def tasks(records: Records) -> list[str]:
  """The tasks there are, in the order of the table's columns."""
  there = {r["task"] for r in records}
  return [
    *(t for t in accuracy_table.TASKS if t in there),
    *sorted(there - set(accuracy_table.TASKS)),
  ]


def task_points(records: Records, task: str) -> list[Point]:
  """One point a mechanism on one task: means over its seeds."""
  return [
    _point(key, [r for r in group if r["task"] == task])
    for key, group in rows(records).items()
    if any(r["task"] == task for r in group)
  ]


def average_points(records: Records) -> tuple[list[Point], list[str]]:
  """One point a mechanism over the tasks of the average that all of those drawn have, and which.

  Only those with the most tasks are drawn; one that lacks some would shrink the average.
  Accuracy and memory are means over tasks, speed is the geometric mean.
  """
  have = {
    key: {r["task"] for r in group} & set(accuracy_table.TASKS)
    for key, group in rows(records).items()
  }
  most = max(map(len, have.values()), default=0)
  full = [key for key, there in have.items() if len(there) == most]
  shared = [t for t in accuracy_table.TASKS if full and all(t in have[key] for key in full)]
  if not shared:
    return [], []
  points = []
  for key in full:
    per_task = [_point(key, [r for r in rows(records)[key] if r["task"] == t]) for t in shared]
    by_seed = {t: _by_seed(rows(records)[key], t) for t in shared}
    seeds = set.intersection(*map(set, by_seed.values()))
    paired = all(set(scores) == seeds for scores in by_seed.values()) and len(seeds) > 1
    means = [statistics.mean(by_seed[t][s] for t in shared) for s in seeds]
    points.append(
      Point(
        *key,
        speed=statistics.geometric_mean(p.speed for p in per_task),
        speed_std=None,
        accuracy=statistics.mean(p.accuracy for p in per_task),
        std=statistics.stdev(means) if paired else None,
        gigabytes=statistics.mean(p.gigabytes for p in per_task),
      )
    )
  return points, shared


def _by_seed(records: Records, task: str) -> dict[int, float]:
  return {r["seed"]: 100 * r["test"]["accuracy"] for r in records if r["task"] == task}


def _point(key: tuple[str, str], records: Records) -> Point:
  scores = [100 * r["test"]["accuracy"] for r in records]
  speeds = [r["time"]["examples_per_second"] for r in records]
  return Point(
    *key,
    speed=statistics.mean(speeds),
    speed_std=statistics.stdev(speeds) if len(speeds) > 1 else None,
    accuracy=statistics.mean(scores),
    std=statistics.stdev(scores) if len(scores) > 1 else None,
    gigabytes=statistics.mean(r["peak_memory_gigabytes"] for r in records),
  )


def bands(records: Records, split: str, metric: str) -> list[Band]:
  """One curve a mechanism, of records of one task; accuracies in %.

  Seeds with other steps are interpolated, on the range that all of them cover.
  """
  made = []
  for key, group in rows(records).items():
    curves = [r["curve"][split] for r in group if r["curve"][split]["step"]]
    if not curves:
      continue
    first = max(c["step"][0] for c in curves)
    last = min(c["step"][-1] for c in curves)
    step = np.array(sorted({s for c in curves for s in c["step"] if first <= s <= last}))
    if not len(step):
      continue
    values = np.array([np.interp(step, c["step"], c[metric]) for c in curves])
    values *= 100 if metric == "accuracy" else 1
    std = values.std(0, ddof=1) if len(values) > 1 else None
    made.append(Band(*key, step, values.mean(0), std, len(values)))
  return made


def growth(name: str, n: Sequence[float], values: Sequence[float]) -> Growth:
  """The power law through (n, values), by least squares in log-log."""
  n, values = np.asarray(n, float), np.asarray(values, float)
  slope, offset = np.polyfit(np.log(n), np.log(values), 1)
  return Growth(name, n, values, float(slope), np.exp(offset + slope * np.log(n)))


def read_scaling(paths: Iterable[Path]) -> dict[str, list[Growth]]:
  """Growths by quantity, of files that `scripts/benchmark.py scaling --json` wrote.

  A curve is named by the mechanism its rows name, else by its file. Raises UserError for other files.
  """
  found: dict[str, list[Growth]] = {"seconds": [], "peak_bytes": []}
  for path in paths:
    try:
      content = json.loads(path.read_text())
      name = content[0].get("attention", path.stem)
      columns = {key: [float(row[key]) for row in content] for key in ("n", *found)}
    except OSError:
      raise UserError(
        f"there is no {path}; scripts/benchmark.py scaling --json writes it"
      ) from None
    except (ValueError, KeyError, TypeError, AttributeError, IndexError):
      columns = {}
    if not columns or len(set(columns["n"])) < 2 or not all(map(_positive, columns.values())):
      raise UserError(f"{path} is not what scripts/benchmark.py scaling --json writes")
    for quantity, growths in found.items():
      growths.append(growth(name, columns["n"], columns[quantity]))
  return found


def _positive(values: Sequence[float]) -> bool:
  return all(math.isfinite(v) and v > 0 for v in values)
