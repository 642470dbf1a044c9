"""The numbers shown in pictures: accuracy against speed, curves over seeds, power laws."""

import dataclasses
import json
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lra.reporting import accuracy_table, grouping
from lra.reporting.accuracy_table import Score
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
  speed_std: float | None  # over runs; None over several tasks
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


def settings(records: Records) -> dict[tuple[str, str], list]:
  """Records that may share a picture: by preset (with what was changed of the data) and device."""
  key = lambda r: (grouping.setting(r), grouping.device(r))
  return grouping.grouped(records, key, lambda k: (k[0] != "default", k))


def rows(records: Records) -> dict[tuple[str, str], list]:
  """Records by (mechanism, its overrides), in the order of the table's rows."""
  return grouping.grouped(records, grouping.row_key, grouping.row_order)


def task_points(records: Records, task: str) -> list[Point]:
  """One point a mechanism on one task: means over its seeds."""
  here = rows([r for r in records if r["task"] == task])
  return [_point(key, {task: group}) for key, group in here.items()]


def average_points(records: Records) -> tuple[list[Point], list[str]]:
  """One point a mechanism over the tasks of the average that all of those drawn have, and which.

  Only those with the most tasks are drawn; one that lacks some would shrink the average.
  Accuracy and memory are means over tasks, speed is the geometric mean.
  """
  by_task = {
    key: grouping.grouped(group, lambda r: r["task"]) for key, group in rows(records).items()
  }
  have = {key: there.keys() & set(grouping.TASKS) for key, there in by_task.items()}
  most = max(map(len, have.values()), default=0)
  full = [key for key, there in have.items() if len(there) == most]
  shared = [t for t in grouping.TASKS if full and all(t in have[key] for key in full)]
  points = [_point(key, {t: by_task[key][t] for t in shared}) for key in full if shared]
  return points, shared


def _point(key: tuple[str, str], by_task: Mapping[str, Records]) -> Point:
  """The point of one mechanism: means over seeds, then over tasks."""
  cells = {
    t: Score({r["seed"]: 100 * r["test"]["accuracy"] for r in g}) for t, g in by_task.items()
  }
  score = accuracy_table.average(cells, cells)
  speeds = [[r["time"]["examples_per_second"] for r in group] for group in by_task.values()]
  memory = [[r["peak_memory_gigabytes"] for r in group] for group in by_task.values()]
  return Point(
    *key,
    speed=statistics.geometric_mean(map(statistics.mean, speeds)),
    speed_std=statistics.stdev(speeds[0]) if len(speeds) == 1 and len(speeds[0]) > 1 else None,
    accuracy=score.mean,
    std=score.std,
    gigabytes=statistics.mean(map(statistics.mean, memory)),
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
