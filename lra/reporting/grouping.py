"""Which table and which row a record belongs to, and what may stand in one together."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from lra.system.errors import UserError

TASKS = ("listops", "text", "retrieval", "image", "pathfinder")  # of the average
MECHANISMS = ("softmax", "linear", "cosformer")  # in this order, others after them


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
  hidden = ("train.objective", *hidden)
  shown = lambda key: key not in hidden and not key.startswith("task.")
  overrides = {k: v for k, v in record["overrides"].items() if shown(k)}
  return record["attention"], ", ".join(filter(None, [pretraining(record), label(overrides)]))


def pretraining(record: Mapping[str, Any]) -> str:
  """The runs that this one started from, the first one first, without their seeds; "" for none.

  Of other data of the same task: the keys that differ, but for sizes of splits that no training reads.
  """
  if not (parent := record.get("parent")):
    return ""
  data = {k: v for k, v in parent.get("data", {}).items() if k not in ("validation", "test")}
  others = [parent["task"]] * (parent["task"] != record["task"]) + [label(data)] * bool(data)
  where = f" on {' '.join(others)}" if others else ""
  earlier = pretraining({"task": record["task"], "parent": parent.get("parent")})
  own = f"{parent['steps']:,} steps {parent['objective']}{where}"
  return f"{earlier}, then {own}" if earlier else f"after {own}"


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


def label(overrides: Mapping[str, Any]) -> str:
  """Overrides as a row's name has them; the mechanism is a row of its own anyway."""
  kept = {k: v for k, v in overrides.items() if k != "model.attention"}
  return ", ".join(f"{k.removeprefix('model.attention_options.')}={v}" for k, v in kept.items())


def comparable(record: Mapping[str, Any]) -> dict[str, Any]:
  """The config without its seed."""
  return {key: value for key, value in record["config"].items() if key != "seed"}
