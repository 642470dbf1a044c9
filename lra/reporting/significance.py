"""Significance tests: differences between rows of an accuracy table, with corrected p-values."""

import dataclasses
import itertools
import math
import statistics
from collections.abc import Sequence
from typing import Any

from scipy import stats  # JAX needs it, too


@dataclasses.dataclass(frozen=True)
class Difference:
  """The difference of two rows on one task."""

  first: int  # rows
  second: int
  task: str  # or "average"
  seeds: tuple[int, ...]  # how many: of both where they pair, else of the first and the second
  mean: float  # of second - first, in points
  p: float | None  # of a two-sided t-test, after Holm; None where nothing varies


def differences(rows: Sequence[Any]) -> list[Difference]:
  """Mechanisms with each other, and each with its ablations, on all tasks: p after Holm's correction.

  The first row of a mechanism with two seeds or more on a task stands for it there; a pretrained row
  is compared with the same one from scratch, if there is one. Runs pair where
  both rows have the same seeds and none was started again from another one. Mechanisms as they are, and
  pairs with an ablation among them, are two families of tests.
  """
  found = []
  for task in (*dict.fromkeys(task for row in rows for task in row.cells), "average"):
    scores = [row.average if task == "average" else row.cells.get(task) for row in rows]
    tested = [i for i, score in enumerate(scores) if score and len(score.by_seed) > 1]
    by_name = {(rows[i].attention, rows[i].overrides): i for i in tested}
    scratch = {i: by_name.get((rows[i].attention, rows[i].scratch)) for i in tested}
    pretrained_last = sorted(tested, key=lambda i: scratch[i] is not None)
    first = {rows[i].attention: i for i in reversed(pretrained_last)}
    for i, j in itertools.permutations(tested, 2):
      a, b, x, y = rows[i], rows[j], scores[i], scores[j]
      own = first[b.attention] if scratch[j] is None else scratch[j]
      if i != own and not (i < j and first[a.attention] == i and first[b.attention] == j):
        continue
      tasks = a.cells if task == "average" else (task,)
      pairs = x.by_seed.keys() == y.by_seed.keys()
      pairs &= not any(t in row.restarted for t in tasks for row in (a, b))
      one, two = ([score.by_seed[s] for s in sorted(score.by_seed)] for score in (x, y))
      gaps = [v - u for u, v in zip(one, two)]
      seeds = (len(one),) if pairs else (len(one), len(two))
      p = paired(gaps) if pairs else unpaired(one, two)
      found.append(Difference(i, j, task, seeds, y.mean - x.mean, p))
  found.sort(key=lambda d: (d.first, d.second))
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
  """p of the two-sided paired t-test for these differences; None where they are all the same."""
  if math.isclose(statistics.stdev(gaps), 0, abs_tol=1e-12):
    return None
  return float(stats.ttest_1samp(gaps, 0).pvalue)


def unpaired(first: Sequence[float], second: Sequence[float]) -> float | None:
  """p of Welch's two-sided t-test; None where neither varies."""
  if all(math.isclose(statistics.stdev(x), 0, abs_tol=1e-12) for x in (first, second)):
    return None
  return float(stats.ttest_ind(first, second, equal_var=False).pvalue)
