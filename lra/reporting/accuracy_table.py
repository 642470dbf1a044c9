"""The accuracy table: means and standard deviations over seeds, computed from records of runs.

A row is a mechanism with its overrides, a column a task; presets have tables of their own. Text of
it: table_text.py and table_formats.py.
"""

import dataclasses
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from lra.reporting.significance import Difference, differences
from lra.system.errors import UserError

TASKS = ("listops", "text", "retrieval", "image", "pathfinder")  # of the average
MECHANISMS = ("softmax", "linear", "cosformer")  # in this order, others after them
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
  records = of_classes(records)
  key = (lambda r: "") if mix else setting
  settings = sorted({key(r) for r in records}, key=lambda name: (name != "default", name))
  return [_table([r for r in records if key(r) == s], mix, full_size or {}) for s in settings]


def objective(record: Mapping[str, Any]) -> str:
  """What a run was trained for."""
  return record["config"].get("train", {}).get("objective", "classify")


def of_classes(records: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
  """Those of runs that learned a task's classes: what accuracies can be compared of."""
  return [r for r in records if objective(r) == "classify"]


def setting(record: Mapping[str, Any]) -> str:
  """The preset and what was changed of the data."""
  data = {k: v for k, v in record["overrides"].items() if k.startswith("task.")}
  return ", ".join([record["preset"], *([label(data)] if data else [])])


def device(record: Mapping[str, Any]) -> str:
  """The hardware of a run, in words."""
  return f"{record['environment']['devices']} x {record['environment']['device']}"


def revisions(record: Mapping[str, Any]) -> tuple[str, ...]:
  """Revisions of the code, one for each session where they differ."""
  sessions = record["environment"].get("sessions", [record["environment"]])
  named = [
    (s["revision"] or "unknown")[:7] + (" with changes" if s["modified"] else "") for s in sessions
  ]
  return tuple(dict.fromkeys(named))


def row_key(record: Mapping[str, Any], hidden: tuple[str, ...] = ()) -> tuple[str, str]:
  """Mechanism and overrides but the hidden ones, with what it was pretrained on: a record's row."""
  hidden = ("task.", "train.objective", *hidden)
  overrides = {k: v for k, v in record["overrides"].items() if not k.startswith(hidden)}
  return record["attention"], ", ".join(filter(None, [pretraining(record), label(overrides)]))


def pretraining(record: Mapping[str, Any]) -> str:
  """The run that this one started from, without its seed; "" for none."""
  if not (parent := record.get("parent")):
    return ""
  where = "" if parent["task"] == record["task"] else f" on {parent['task']}"
  return f"after {parent['steps']:,} steps {parent['objective']}{where}"


def _mixed_key(record: Mapping[str, Any], presets: str) -> tuple[str, str]:
  """The row of a record where settings are mixed: named after what its runs differ in."""
  attention, overrides = row_key(record)
  own = setting(record) if setting(record) != presets else ""
  return attention, ", ".join(filter(None, [own, overrides]))


def row_order(key: tuple[str, str]) -> tuple:
  """Sort key of rows: mechanisms without overrides first."""
  place = MECHANISMS.index(key[0]) if key[0] in MECHANISMS else len(MECHANISMS)
  return key[1] != "", place, key


def tasks_of(records: Iterable[Mapping[str, Any]]) -> list[str]:
  """The tasks there are, in the order of the table's columns."""
  there = {r["task"] for r in records}
  return [*(t for t in TASKS if t in there), *sorted(there - set(TASKS))]


def grouped(
  records: Iterable[Mapping[str, Any]],
  key: Callable[[Mapping[str, Any]], Any],
  order: Callable[[Any], Any] | None = None,
) -> dict[Any, list[Mapping[str, Any]]]:
  """Records by `key`, the keys sorted by `order`."""
  found: dict[Any, list] = {}
  for r in records:
    found.setdefault(key(r), []).append(r)
  return {k: found[k] for k in sorted(found, key=order)}


def provenance(records: Sequence[Mapping[str, Any]], what: str, mix: bool) -> dict[str, Any]:
  """Where the runs of table `what` come from. Raises UserError for different data, unless `mix`."""
  digests = {
    task: tuple(sorted({r["data"]["digest"] for r in records if r["task"] == task}))
    for task in tasks_of(records)
  }
  for task, found in digests.items():
    if len(found) > 1 and not mix:
      raise UserError(
        f"{what}, {task}: runs on different data ({', '.join(d[:12] for d in found)}); take some "
        "away (--mix mixes accuracies)"
      )
  return {
    "revisions": tuple(sorted({revision for r in records for revision in revisions(r)})),
    "digests": digests,
    "devices": tuple(sorted({device(r) for r in records})),
    "runs": len(records),
  }


def by_seed(records: Sequence[Mapping[str, Any]], name: str, mix: bool) -> list[Mapping[str, Any]]:
  """The runs of cell `name`. Raises UserError for a seed twice, or different configs, unless `mix`."""
  made = sorted(records, key=lambda r: r["seed"])
  seeds = [r["seed"] for r in made]
  if twice := {seed for seed in seeds if seeds.count(seed) > 1}:
    names = ", ".join(r["name"] for r in made if r["seed"] in twice)
    raise UserError(
      f"{name}: more than one run of seed {min(twice)} ({names}), in one source or in two; "
      "take one away"
    )
  if not mix and any(comparable(r) != comparable(made[0]) for r in made):
    raise UserError(
      f"{name}: seeds {seeds} have different configs under the same name; --mix mixes accuracies"
    )
  return made


def _table(records: Sequence[Mapping[str, Any]], mix: bool, full_size: Mapping) -> Table:
  preset = " + ".join(sorted({setting(r) for r in records}))
  facts = provenance(records, f"preset {preset}", mix)
  groups = grouped(records, lambda r: _mixed_key(r, preset) if mix else row_key(r), row_order)
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
    here = by_seed([r for r in records if r["task"] == task], f"{attention} on {task}", mix)
    cells[task] = Score({r["seed"]: 100 * r["test"]["accuracy"] for r in here})
    parameters[task] = here[0]["parameters"]
    made_of = [(setting(r), *revisions(r), r["data"]["digest"][:12]) for r in here]
    sources[task] = tuple(dict.fromkeys(part for parts in made_of for part in parts))
    if count := sum(bool(r.get("plateau")) for r in here):
      stuck[task] = count
    if count := sum(r["restarts"] > 0 for r in here):
      restarted[task] = count
  scratch = None
  if records[0].get("parent"):
    scratch = row_key(records[0] | {"parent": None}, hidden=("train.steps",))[1]
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


def label(overrides: Mapping[str, Any]) -> str:
  """Overrides as a row's name has them; the mechanism is a row of its own anyway."""
  kept = {k: v for k, v in overrides.items() if k != "model.attention"}
  return ", ".join(f"{k.removeprefix('model.attention_options.')}={v}" for k, v in kept.items())


def comparable(record: Mapping[str, Any]) -> dict[str, Any]:
  """The config without its seed."""
  return {key: value for key, value in record["config"].items() if key != "seed"}


def _unlike(records: Sequence[Mapping[str, Any]], task: str) -> bool:
  """Whether recipes differ by more than the mechanism and the seed."""
  recipes = []
  for r in records:
    if r["task"] == task and not row_key(r)[1]:
      config = comparable(r)
      own = ("attention", "attention_options")
      model = {k: v for k, v in config.get("model", {}).items() if k not in own}
      recipes.append(config | {"model": model})
  return any(recipe != recipes[0] for recipe in recipes)
