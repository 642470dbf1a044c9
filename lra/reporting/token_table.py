"""The table of objectives over tokens: bits a token of each mechanism on held-out text or inputs.

One table an objective and preset; a row is a mechanism with its overrides on a task.
"""

import dataclasses
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from lra.reporting import grouping
from lra.reporting.accuracy_table import FEW, Row, Score
from lra.reporting.significance import Difference, differences
from lra.reporting.table_text import cell, name, p_value, title

HEADINGS = {"masked": "Hidden tokens", "next": "Next tokens"}
HEADER = (
  *("bits a token", "task", "validation", "test", "perplexity", "accuracy, %"),
  *("parameters", "examples/s", "seeds"),
)


@dataclasses.dataclass(frozen=True)
class TokenRow:
  """A mechanism on a task; every score by seed."""

  task: str
  attention: str
  overrides: str  # "" or "key=value, ..."
  validation: Score  # bits a token
  test: Score  # bits a token
  perplexity: Score  # of test
  accuracy: Score  # of test, %
  parameters: int
  examples_per_second: float  # mean over runs


@dataclasses.dataclass(frozen=True)
class TokenTable:
  """The content of a table."""

  objective: str
  preset: str  # and what was changed of the data
  rows: tuple[TokenRow, ...]
  baselines: Mapping[str, Mapping[str, float]]  # bits a token of each, by task
  differences: tuple[Difference, ...]  # between rows of a task, in bits
  revisions: tuple[str, ...]
  digests: Mapping[str, tuple[str, ...]]  # of the data, by task
  devices: tuple[str, ...]
  runs: int


def tables(records: Sequence[Mapping[str, Any]]) -> list[TokenTable]:
  """The tables of those records whose objective is over tokens.

  Raises UserError where a row would mix configs or data, or has a seed twice.
  """
  over_tokens = [r for r in records if grouping.objective(r) != "classify"]
  order = lambda key: (key[0] != "next", key[1] != "default", key[1])
  key = lambda r: (grouping.objective(r), grouping.setting(r))
  groups = grouping.grouped(over_tokens, key, order)
  return [_table(*key, group) for key, group in groups.items()]


def _table(objective: str, preset: str, records: Sequence[Mapping[str, Any]]) -> TokenTable:
  tasks = grouping.tasks_of(records)
  key = lambda r: (r["task"], *grouping.row_key(r))
  order = lambda key: (tasks.index(key[0]), grouping.row_order(key[1:]))
  groups = grouping.grouped(records, key, order)
  rows = tuple(_row(*key, group) for key, group in groups.items())
  compared = [Row(r.attention, r.overrides, {r.task: r.test}, None, {}, {}, {}, {}) for r in rows]
  return TokenTable(
    objective=objective,
    preset=preset,
    rows=rows,
    baselines={r["task"]: r.get("baseline_bits", {}) for r in records},
    differences=tuple(differences(compared)),
    **grouping.provenance(records, f"preset {preset}, objective {objective}", False),
  )


def _row(task: str, attention: str, overrides: str, records: Sequence[Mapping]) -> TokenRow:
  here = grouping.by_seed(records, f"{attention} on {task}", False)
  score = lambda split, key, scale=1: Score({r["seed"]: scale * r[split][key] for r in here})
  return TokenRow(
    task,
    attention,
    overrides,
    validation=score("validation", "bits_per_token"),
    test=score("test", "bits_per_token"),
    perplexity=score("test", "perplexity"),
    accuracy=score("test", "accuracy", 100),
    parameters=here[0]["parameters"],
    examples_per_second=statistics.mean(r["time"]["examples_per_second"] for r in here),
  )


def heading(table: TokenTable) -> str:
  """What the table is about."""
  return f"{HEADINGS[table.objective]}, preset `{table.preset}`"


def grid(table: TokenTable) -> tuple[list[str], list[list[str]]]:
  """Header and rows of text: mechanisms, and the trivial baselines of each task after them."""
  lines = []
  for task in table.digests:
    for row in (row for row in table.rows if row.task == task):
      few = len(row.test.by_seed) < FEW
      shown = ((row.validation, 4), (row.test, 4), (row.perplexity, 3), (row.accuracy, 2))
      scores = [cell(score, few=few, digits=digits) for score, digits in shown]
      rest = [f"{row.parameters:,}", f"{row.examples_per_second:,.0f}", f"{len(row.test.by_seed)}"]
      lines.append([title(row), name(task), *scores, *rest])
    for baseline, bits in table.baselines[task].items():
      lines.append(
        [f"baseline: {baseline}", name(task), "–", f"{bits:.4f}", f"{2**bits:.3f}", *"–––", ""]
      )
  return list(HEADER), lines


def significance(table: TokenTable) -> list[str]:
  """A sentence for each pair of rows of a task with several seeds each."""
  return [
    f"{name(d.task)}: {title(table.rows[d.second])} − {title(table.rows[d.first])}: "
    f"{d.mean:+.4f} bits ({'no p' if d.p is None else f'p {p_value(d.p)}'}, "
    f"{' + '.join(map(str, d.seeds))} seeds)."
    for d in table.differences
  ]


def notes(table: TokenTable) -> list[str]:
  """Notes below a table: the meaning and provenance of its numbers, a sentence each."""
  what = {
    "next": "Each token of a sequence but its first, predicted from those before it",
    "masked": "Hidden tokens, predicted from the others; the same ones in all runs",
  }[table.objective]
  digests = [f"{name(t)} {' '.join(d[:12] for d in found)}" for t, found in table.digests.items()]
  return [
    f"{what}; on test, with the parameters that are best on validation. Less is better; of tasks that "
    "read bytes, a token is a byte.",
    f"Mean ± standard deviation over seeds; * fewer than {FEW} seeds.",
    *significance(table),
    *(
      ["Significance: two-sided t-test paired over seeds, Holm's correction."]
      if table.differences
      else []
    ),
    f"Runs: {table.runs}; preset {table.preset}; git {', '.join(table.revisions)}; "
    f"on {', '.join(table.devices)}; data {', '.join(digests)}.",
  ]
