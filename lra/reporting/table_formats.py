"""The accuracy tables, and those of objectives over tokens, as Markdown, LaTeX, CSV or JSON."""

import csv
import dataclasses
import io
import json
import re
from collections.abc import Iterable, Iterator
from typing import Any

from lra.reporting import token_table
from lra.reporting.accuracy_table import PUBLISHED, SOURCE, Score, Table
from lra.reporting.table_text import grid, markdown_table, notes, significance, title
from lra.reporting.token_table import TokenTable

NOTHING = "No finished run has been exported to `results/` yet."


def _shown(tables: Iterable[Table], tokens: Iterable[TokenTable]) -> Iterator[tuple]:
  """Heading, columns of text, grid, rows above a line, grid of tests and notes of each table."""
  for table in tables:
    header, rows = grid(table)
    rules = (len(rows) - len(PUBLISHED), len(table.rows), 0)
    tests = significance(table)
    yield f"Preset `{table.preset}`", "l", (header, rows), rules, tests, notes(table)
  for table in tokens:
    heading, shown = token_table.heading(table), token_table.grid(table)
    yield heading, "ll", shown, (0,), ([], []), token_table.notes(table)


def markdown(tables: Iterable[Table], tokens: Iterable[TokenTable] = ()) -> str:
  """All tables, under a heading each."""
  parts = []
  for heading, _, shown, _, tests, below in _shown(tables, tokens):
    parts += [f"### {heading}", *(markdown_table(*g) for g in (shown, tests) if g[1])]
    parts.append("\n".join(f"- {note}" for note in below))
  return "\n\n".join(parts or [NOTHING]) + "\n"


def latex(tables: Iterable[Table], tokens: Iterable[TokenTable] = ()) -> str:
  """A tabular for each table, without packages; the notes below it."""
  parts = []
  for heading, left, (header, rows), rules, (pairs, tests), below in _shown(tables, tokens):
    lines = [f"  {' & '.join(map(_tex, line))} \\\\" for line in (header, *rows)]
    for above in rules:
      lines.insert(above + 1, "  \\hline")
    tested = (f"{c[0]}: {', '.join(map(' '.join, zip(pairs[1:], c[1:])))}." for c in tests)
    body, below = "\n".join(lines), "\n\n".join(map(_tex, [*tested, *below]))
    parts.append(
      f"% {heading}\n\\begin{{tabular}}{{{left}{'r' * (len(header) - len(left))}}}\n{body}\n"
      f"\\end{{tabular}}\n\n{{\\footnotesize\n{below}\n\n}}\n"
    )
  return "\n".join(parts)


def _tex(text: str) -> str:
  text = re.sub(r"([\\&%$#_{}])", r"\\\1", text)
  for plain, tex in (("±", "$\\pm$"), ("†", "$\\dagger$"), ("–", "--"), ("−", "$-$"), ("<", "$<$")):
    text = text.replace(plain, tex)
  return text


def comma_separated(tables: Iterable[Table], tokens: Iterable[TokenTable] = ()) -> str:
  """One line a number, so that other programs can read it."""
  out = io.StringIO()
  writer = csv.writer(out, lineterminator="\n")
  writer.writerow(
    [
      *("preset", "kind", "attention", "overrides", "task"),
      *("mean", "std", "seeds", "parameters", "p", "made of"),
    ]
  )
  for table in tables:
    for row in table.rows:
      scores = {**row.cells, **({"average": row.average} if row.average else {})}
      for task, score in scores.items():
        seeds = "" if -1 in score.by_seed else len(score.by_seed)
        numbers = (score.mean, score.std, seeds, row.parameters.get(task))
        made_of = " ".join(row.sources.get(task, ()))
        head = (table.preset, "measured", row.attention, row.overrides, task)
        writer.writerow([*head, *map(_csv, numbers), "", made_of])
    for d in table.differences:
      pair = f"{title(table.rows[d.second])} - {title(table.rows[d.first])}"
      numbers = (_csv(d.mean), "", " + ".join(map(str, d.seeds)), "", _csv(d.p))
      writer.writerow([table.preset, "difference", pair, "", d.task, *numbers, ""])
    for task, (baseline, value) in table.baselines.items():
      head = (table.preset, "baseline", baseline, "", task)
      writer.writerow([*head, _csv(value), "", "", "", "", ""])
  for table in tokens:
    for row in table.rows:
      numbers = (row.test.mean, row.test.std, len(row.test.by_seed), row.parameters)
      head = (table.preset, f"bits a token, {table.objective}", row.attention, row.overrides)
      writer.writerow([*head, row.task, *map(_csv, numbers), "", ""])
    for task, baselines in table.baselines.items():
      for baseline, bits in baselines.items():
        head = (table.preset, f"baseline, bits a token, {table.objective}", baseline, "", task)
        writer.writerow([*head, _csv(bits), "", "", "", "", ""])
  for model, figures in PUBLISHED.items():
    for task, value in figures.items():
      writer.writerow(["", "published", model, "", task, _csv(value), "", "", "", "", ""])
  return out.getvalue()


def _csv(value: float | str | None) -> str:
  return "" if value is None else f"{value:.4f}" if isinstance(value, float) else str(value)


def as_json(tables: Iterable[Table], tokens: Iterable[TokenTable] = ()) -> str:
  """Everything, in full."""
  content = {
    "tables": [_json(table) for table in tables],
    "tokens": [dataclasses.asdict(table) for table in tokens],
    "published": {"source": SOURCE, "accuracy": PUBLISHED},
  }
  return json.dumps(content, indent=1) + "\n"


def _json(table: Table) -> dict[str, Any]:
  content = dataclasses.asdict(table)
  for row, made in zip(table.rows, content["rows"]):
    made["cells"] = {task: _score(score) for task, score in row.cells.items()}
    made["average"] = row.average and _score(row.average)
  return content


def _score(score: Score) -> dict[str, Any]:
  by_seed = {} if -1 in score.by_seed else {"by_seed": dict(score.by_seed)}
  return {"mean": score.mean, "std": score.std, **by_seed}


FORMATS = {"markdown": markdown, "latex": latex, "csv": comma_separated, "json": as_json}
