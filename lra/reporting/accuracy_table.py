"""The accuracy table: means and standard deviations over seeds, computed from records of runs.

A row is a mechanism with its overrides, a column a task; presets have tables of their own. Text of
it: table_text.py and table_formats.py.
"""

import dataclasses
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from lra.reporting import grouping
from lra.reporting.grouping import TASKS
from lra.reporting.significance import Difference, differences

FEW = 3  # a cell with fewer seeds is marked
SOURCE = (
  "Qin et al., cosFormer: Rethinking Softmax in Attention, ICLR 2022, arXiv 2202.08791, table 4"
)
PUBLISHED = {  # accuracy in %
  "Transformer": dict(zip(TASKS, (36.37, 64.27, 57.46, 42.44, 71.40))) | {"average": 54.39},
  "Linear Transformer": dict(zip(TASKS, (16.13, 65.90, 53.09, 42.34, 75.30))) | {"average": 50.55},
  "cosFormer": dict(zip(TASKS, (37.90, 63.41, 61.36, 43.17, 70.33))) | {"average": 55.23},
}


@dataclasses.dataclass(frozen=True)
class Score:
  """Test accuracy in % by seed; under -1 an average of means, where tasks have other seeds."""

  by_seed: Mapping[int, float]

  @property
  def mean(self) -> float:
    return statistics.mean(self.by_seed.values())

  @property
  def std(self) -> float | None:
    """The sample's, None for a single seed."""
    return statistics.stdev(self.by_seed.values()) if len(self.by_seed) > 1 else None


@dataclasses.dataclass(frozen=True)
class Row:
  """A row of the table: a mechanism with its overrides."""

  attention: str
  overrides: str  # "" or "key=value, ..."
  cells: Mapping[str, Score]  # by task
  average: Score | None  # over TASKS, of the seeds that all of them have
  parameters: Mapping[str, int]  # by task
  sources: Mapping[str, tuple[str, ...]]  # by task: preset, revisions and data
  stuck: Mapping[str, int]  # runs that learned nothing, by task
  restarted: Mapping[str, int]  # runs that were started again from another seed, by task
  scratch: str | None = None  # of a pretrained row: overrides of the same one from scratch


@dataclasses.dataclass(frozen=True)
class Table:
  """The content of an accuracy table."""

  preset: str  # and what was changed of the data; several joined by " + " where they were mixed
  tasks: tuple[str, ...]
  rows: tuple[Row, ...]
  baselines: Mapping[str, tuple[str, float]]  # the best trivial one of each task: name, %
  differences: tuple[Difference, ...]
  revisions: tuple[str, ...]
  digests: Mapping[str, tuple[str, ...]]  # of the data, by task
  devices: tuple[str, ...]
  resized: tuple[str, ...]  # tasks whose data is not of the published size
  unlike: tuple[str, ...]  # tasks on which mechanisms without overrides had other recipes
  runs: int


def tables(
  records: Sequence[Mapping[str, Any]],
  *,
  mix: bool = False,
  full_size: Mapping[str, Mapping[str, Any]] | None = None,
) -> list[Table]:
  """One table a preset and choice of data, or with `mix` a single one.

  `full_size` has the data options of each task as published.

  Records of objectives over tokens have tables of their own (token_table.py). Raises UserError where
  a cell would mix configs, or a task data, unless `mix` allows it.
  """
  records = grouping.of_classes(records)
  key = (lambda r: "") if mix else grouping.setting
  settings = sorted({key(r) for r in records}, key=lambda name: (name != "default", name))
  return [_table([r for r in records if key(r) == s], mix, full_size or {}) for s in settings]


def _mixed_key(record: Mapping[str, Any], presets: str) -> tuple[str, str]:
  """The row of a record where settings are mixed: named after what its runs differ in."""
  attention, overrides = grouping.row_key(record)
  own = grouping.setting(record) if grouping.setting(record) != presets else ""
  return attention, ", ".join(filter(None, [own, overrides]))


def _table(records: Sequence[Mapping[str, Any]], mix: bool, full_size: Mapping) -> Table:
  preset = " + ".join(sorted({grouping.setting(r) for r in records}))
  facts = grouping.provenance(records, f"preset {preset}", mix)
  groups = grouping.grouped(
    records, lambda r: _mixed_key(r, preset) if mix else grouping.row_key(r), grouping.row_order
  )
  rows = tuple(_row(*key, group, mix) for key, group in groups.items())
  baselines, resized = {}, set()
  for r in records:
    name, share = max(r["baselines"].items(), key=lambda item: item[1])
    baselines[r["task"]] = (name, 100 * share)
    options = {k: v for k, v in r["config"]["task"].items() if k != "name"}
    if options != full_size.get(r["task"], options):
      resized.add(r["task"])
  tasks = tuple(facts["digests"])
  return Table(
    preset=preset,
    tasks=tuple(dict.fromkeys((*TASKS, *tasks))),
    rows=rows,
    baselines=baselines,
    differences=tuple(differences(rows)),
    resized=tuple(task for task in tasks if task in resized),
    unlike=tuple(task for task in tasks if _unlike(records, task)),
    **facts,
  )


def _row(attention: str, overrides: str, records: Sequence[Mapping], mix: bool) -> Row:
  cells, parameters, sources, stuck, restarted = {}, {}, {}, {}, {}
  for task in dict.fromkeys(r["task"] for r in records):
    here = grouping.by_seed(
      [r for r in records if r["task"] == task], f"{attention} on {task}", mix
    )
    cells[task] = Score({r["seed"]: 100 * r["test"]["accuracy"] for r in here})
    parameters[task] = here[0]["parameters"]
    made_of = [
      (grouping.setting(r), *grouping.revisions(r), r["data"]["digest"][:12]) for r in here
    ]
    sources[task] = tuple(dict.fromkeys(part for parts in made_of for part in parts))
    if count := sum(bool(r.get("plateau")) for r in here):
      stuck[task] = count
    if count := sum(r["restarts"] > 0 for r in here):
      restarted[task] = count
  scratch = None
  if records[0].get("parent"):
    scratch = grouping.row_key(records[0] | {"parent": None}, hidden=("train.steps",))[1]
  return Row(
    attention, overrides, cells, average(cells), parameters, sources, stuck, restarted, scratch
  )


def average(cells: Mapping[str, Score], tasks: Iterable[str] = TASKS) -> Score | None:
  """Over `tasks`, seed by seed, of the means where they have other seeds; None if one is missing."""
  if not all(task in cells for task in tasks):
    return None
  seeds = {tuple(sorted(cells[task].by_seed)) for task in tasks}
  if len(seeds) > 1:
    return Score({-1: statistics.mean(cells[task].mean for task in tasks)})
  return Score({s: statistics.mean(cells[t].by_seed[s] for t in tasks) for s in min(seeds)})


def _unlike(records: Sequence[Mapping[str, Any]], task: str) -> bool:
  """Whether recipes differ by more than the mechanism and the seed."""
  recipes = []
  for r in records:
    if r["task"] == task and not grouping.row_key(r)[1]:
      config = grouping.comparable(r)
      own = ("attention", "attention_options")
      model = {k: v for k, v in config.get("model", {}).items() if k not in own}
      recipes.append(config | {"model": model})
  return any(recipe != recipes[0] for recipe in recipes)
