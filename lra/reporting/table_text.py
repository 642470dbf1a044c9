"""An accuracy table as text: cells, notes, Markdown, and its place in the README."""

from collections.abc import Sequence

from lra.reporting.accuracy_table import FEW, PUBLISHED, SOURCE, Row, Score, Table
from lra.reporting.grouping import TASKS
from lra.system.errors import UserError

NAMES = {
  "listops": "ListOps",
  "text": "Text",
  "retrieval": "Retrieval",
  "image": "Image",
  "pathfinder": "Pathfinder",
  "pathx": "Path-X",
  "lm": "text bytes",
  "cosformer": "cosFormer",
}
MARKERS = "<!-- results -->", "<!-- /results -->"
WELCH = ", or Welch's where the seeds do not pair (n + m)"


def name(key: str) -> str:
  """Display name of a task or mechanism."""
  return NAMES.get(key, key)


def title(row: Row) -> str:
  """A row's first cell."""
  return name(row.attention) + (f" ({row.overrides})" if row.overrides else "")


def cell(score: Score | None, *, few: bool, stuck: bool = False, digits: int = 2) -> str:
  """Mean ± standard deviation, and marks."""
  if score is None:
    return "–"
  spread = "" if score.std is None else f" ± {score.std:.{digits}f}"
  return f"{score.mean:.{digits}f}{spread}{'*' * few}{'†' * stuck}"


def grid(table: Table) -> tuple[list[str], list[list[str]]]:
  """Header and rows of text: mechanisms, best trivial baseline, parameters, published figures."""
  header = ["test accuracy, %", *map(name, table.tasks), "average", "seeds"]
  rows = []
  for row in table.rows:
    seeds = [len(score.by_seed) for score in row.cells.values()]
    few = {task: len(score.by_seed) < FEW for task, score in row.cells.items()}
    count = f"{min(seeds)}" + (f" to {max(seeds)}" if max(seeds) > min(seeds) else "")
    cells = [
      cell(row.cells.get(task), few=few.get(task, False), stuck=task in row.stuck)
      for task in table.tasks
    ]
    average = cell(row.average, few=any(few.get(task) for task in TASKS))
    rows.append([title(row), *cells, average, count])
  best = {task: value for task, (_, value) in table.baselines.items()}
  average = sum(best[t] for t in TASKS) / len(TASKS) if set(TASKS) <= set(best) else None
  rows.append(["best trivial baseline", *_plain(best | {"average": average}, table.tasks), ""])
  rows.append(["parameters", *(_parameters(table.rows, task) for task in table.tasks), "", ""])
  for model, figures in PUBLISHED.items():
    rows.append([f"published: {model}", *_plain(figures, table.tasks), ""])
  return header, rows


def _parameters(rows: Sequence[Row], task: str) -> str:
  """How many parameters the models of a task have, from the fewest to the most."""
  counts = sorted({row.parameters[task] for row in rows if task in row.parameters})
  return " to ".join(f"{n:,}" for n in dict.fromkeys([*counts[:1], *counts[-1:]])) or "–"


def _plain(figures: dict[str, float | None], tasks: Sequence[str]) -> list[str]:
  values = [figures.get(key) for key in (*tasks, "average")]
  return ["–" if value is None else f"{value:.2f}" for value in values]


def significance(table: Table) -> tuple[list[str], list[list[str]]]:
  """Header and rows of text: a row for each pair of mechanisms with several seeds each."""
  columns = (*table.tasks, "average")
  found = {(d.first, d.second, d.task): d for d in table.differences}
  pairs = dict.fromkeys((d.first, d.second) for d in table.differences)
  rows = []
  for i, j in pairs:
    cells = []
    for task in columns:
      d = found.get((i, j, task))
      count = "" if d is None else " + ".join(map(str, d.seeds))
      p = "" if d is None else f" ({'no p' if d.p is None else f'p {p_value(d.p)}'}, {count})"
      cells.append("–" if d is None else f"{d.mean:+.2f}{p}")
    rows.append([f"{title(table.rows[j])} − {title(table.rows[i])}", *cells])
  return ["difference (p, seeds)", *map(name, columns)], rows


def p_value(p: float) -> str:
  """Three digits of p."""
  return "< 0.001" if p < 0.001 else f"{p:.3f}"


def notes(table: Table) -> list[str]:
  """Notes below a table: the meaning and provenance of its numbers, a sentence each."""
  stuck = [
    f"{title(row)} on {name(task)}, {count} of {len(row.cells[task].by_seed)}"
    for row in table.rows
    for task, count in row.stuck.items()
  ]
  baselines = [f"{name(t)} {table.baselines[t][0]}" for t in table.tasks if t in table.baselines]
  digests = [f"{name(t)} {' '.join(d[:12] for d in found)}" for t, found in table.digests.items()]
  resized = ", ".join(map(name, table.resized))
  significant = sum(d.p is not None and d.p < 0.05 for d in table.differences)
  tested = sum(d.p is not None for d in table.differences)
  welch = any(len(d.seeds) > 1 for d in table.differences)
  restarted = [
    f"{title(row)} on {name(task)}, {count} of {len(row.cells[task].by_seed)}"
    for row in table.rows
    for task, count in row.restarted.items()
  ]
  return [
    f"Mean ± standard deviation over seeds; * fewer than {FEW} seeds; – not run.",
    *([f"† Runs no better than the commonest label: {'; '.join(stuck)}."] if stuck else []),
    *([f"Started again from another seed: {'; '.join(restarted)}."] if restarted else []),
    *([f"Best trivial baseline: {', '.join(baselines)}."] if baselines else []),
    f"Published: {SOURCE}; its Transformer and Linear Transformer rows are those of Tay et al., "
    "Long Range Arena, arXiv 2011.04006."
    + (
      f" They are of the full-size tasks: the {table.preset} preset changes the data of {resized}."
      if resized
      else ""
    ),
    f"Significance: two-sided t-test paired over seeds{WELCH * welch}, Holm's correction; "
    f"{significant} of {tested} tests below 0.05."
    if tested
    else "Significance: nothing to test, "
    + ("no difference varies." if table.differences else "no two mechanisms have two seeds each."),
    *(
      [f"The mechanisms had different recipes on {', '.join(map(name, table.unlike))}."]
      if table.unlike
      else []
    ),
    f"Runs: {table.runs}; preset {table.preset}; git {_revisions(table)}; "
    f"on {', '.join(table.devices)}; data {', '.join(digests)}.",
  ]


def _revisions(table: Table) -> str:
  """All of them; where there are several, with the tasks, and the mechanisms if not all, of each."""
  if len(table.revisions) == 1:
    return table.revisions[0]
  parts = []
  for revision in table.revisions:
    cells = []
    for task in table.tasks:
      there = [row for row in table.rows if task in row.cells]
      rows = [row for row in there if revision in row.sources[task]]
      names = dict.fromkeys(name(row.attention) for row in rows)
      named = f" {' '.join(names)}" if len(rows) < len(there) else ""
      cells += [name(task) + named] if rows else []
    parts.append(f"{revision} ({', '.join(cells)})")
  return ", ".join(parts)


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
  """A table of text cells."""
  escape = lambda cells: [c.replace("|", "\\|").replace("*", "\\*") for c in cells]
  lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
  return "\n".join(f"| {' | '.join(escape(line))} |" for line in lines)


def between_markers(page: str, content: str) -> str:
  """The page with `content` between its markers. Raises UserError if they are not there."""
  begin, end = MARKERS
  if page.count(begin) != 1 or page.count(end) != 1 or page.index(begin) > page.index(end):
    raise UserError(f"the page needs one {begin} and one {end} after it")
  return page[: page.index(begin)] + f"{begin}\n{content}{end}" + page.split(end)[1]
