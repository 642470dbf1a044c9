"""Differences between the rows of an accuracy table, and how sure they are."""

import dataclasses
import itertools
import math
import statistics
from collections.abc import Sequence
from typing import Any


@dataclasses.dataclass(frozen=True)
class Difference:
  """Two mechanisms on the seeds they share."""

  first: int  # rows
  second: int
  task: str  # or "average"
  seeds: int
  mean: float  # of second - first, in points
  p: float | None  # two-sided paired t-test, after Holm; None where there is none


def differences(rows: Sequence[Any]) -> list[Difference]:
  """All pairs of rows on all tasks where they share two seeds or more, with Holm's correction.

  Mechanisms as they are, and pairs with an ablation among them, are two families of tests.
  """
  found = []
  for (i, a), (j, b) in itertools.combinations(enumerate(rows), 2):
    for task in (*dict.fromkeys([*a.cells, *b.cells]), "average"):
      x, y = (r.average if task == "average" else r.cells.get(task) for r in (a, b))
      seeds = sorted(set(x.by_seed) & set(y.by_seed) - {-1}) if x and y else []
      if len(seeds) > 1:
        gaps = [y.by_seed[s] - x.by_seed[s] for s in seeds]
        found.append(Difference(i, j, task, len(seeds), statistics.mean(gaps), paired(gaps)))
  plain = lambda d: not (rows[d.first].overrides or rows[d.second].overrides)
  corrected = {}
  for family in (True, False):
    tested = [d for d in found if d.p is not None and plain(d) == family]
    highest = 0.0
    for k, d in enumerate(sorted(tested, key=lambda d: d.p)):
      highest = max(highest, min(1.0, d.p * (len(tested) - k)))
      corrected[id(d)] = highest
  return [dataclasses.replace(d, p=corrected.get(id(d))) for d in found]


def paired(gaps: Sequence[float]) -> float | None:
  """p of the two-sided paired t-test for these differences; None without scipy or variance."""
  spread = statistics.stdev(gaps)
  if math.isclose(spread, 0, abs_tol=1e-12):
    return None
  try:
    from scipy import stats  # JAX needs it, too
  except ImportError:
    return None
  t = statistics.mean(gaps) / (spread / math.sqrt(len(gaps)))
  return float(2 * stats.t.sf(abs(t), len(gaps) - 1))
