"""Whether a repeated run agrees with the curve of a committed record."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from lra.reporting.run_record import CURVES

DIGITS = 5  # of a record's curve
LOSS = 0.05  # of another kind of machine or revision: relative difference of a loss at most ...
ACCURACY = 0.05  # ... and of an accuracy, in units of accuracy
SAME = ("device", "devices", "platform")  # and versions: what makes two machines one kind


@dataclasses.dataclass(frozen=True)
class Column:
  """One figure of a curve: how many of its points were repeated, and how they agree."""

  name: str
  points: int
  equal: int  # to all recorded digits
  largest: float  # difference: relative for a loss, absolute for an accuracy
  last_equal: int | None  # step up to which all points are equal

  @property
  def within(self) -> bool:
    """Whether it keeps the tolerance for other machines."""
    return self.largest <= (LOSS if self.name.endswith("loss") else ACCURACY)


def compare(record: Mapping[str, Any], metrics: Sequence[Mapping[str, float]]) -> list[Column]:
  """Every figure of the record's curve beside the lines of a metrics.jsonl that has its steps."""
  columns = []
  for curve, keys in CURVES.items():
    lines = {line["step"]: line for line in metrics if keys[0] in line}
    for key in keys:
      recorded = record["curve"][curve]
      known = zip(recorded["step"], recorded[key.partition("/")[2]], strict=True)
      pairs = [(step, value, lines[step][key]) for step, value in known if step in lines]
      equal = [value == float(f"{new:.{DIGITS}g}") for _, value, new in pairs]
      before = equal.index(False) if False in equal else len(equal)
      differences = [_difference(value, new, key.endswith("loss")) for _, value, new in pairs]
      last = pairs[before - 1][0] if before else None
      columns.append(Column(key, len(pairs), sum(equal), max(differences, default=0.0), last))
  return columns


def _difference(old: float, new: float, relative: bool) -> float:
  found = abs(old - new) / (max(abs(old), 1e-6) if relative else 1.0)
  return found if math.isfinite(found) else math.inf


def differing(record: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
  """What the environment of a record and this one differ in, in words."""
  facts = lambda environment, data: {
    **{key: environment.get(key) for key in SAME},
    **environment["packages"],
    "data": str(data)[:12],
    "parameters to start from": environment.get("parent", {}).get("digest", "none")[:12],
    "revision": str(environment.get("revision"))[:7],
  }
  there, now = facts(record["environment"], record["data"]["digest"]), facts(here, here.get("data"))
  keys = [key for key in {**there, **now} if there.get(key) != now.get(key)]
  return [f"{key} {there.get(key)}, here {now.get(key)}" for key in keys]


def verdict(columns: Sequence[Column], exact: bool) -> tuple[bool, str]:
  """Whether the curves agree, and the sentence that says so. exact: on the same kind of machine."""
  points, equal = sum(c.points for c in columns), sum(c.equal for c in columns)
  if not points:
    return False, "nothing to compare: the record has no point up to there"
  if equal == points:
    return True, f"the curve agrees in all {DIGITS} recorded digits of all {points} figures"
  outside = [c.name for c in columns if not c.within]
  bounds = f"{LOSS:.0%} of a loss, {100 * ACCURACY:.0f} points of accuracy"
  if outside:
    return False, f"the curve differs by more than {bounds} in {', '.join(outside)}"
  if exact:
    differ = f"yet {points - equal} of {points} figures differ"
    return False, f"same kind of machine and revision, {differ}"
  return True, f"the curve agrees within {bounds}; {equal} of {points} figures are equal"
