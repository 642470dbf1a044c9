"""The HTML page of all results, self-contained: no network, no scripts, no other files."""

import base64
import json
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from lra.reporting import accuracy_table, table_text
from lra.reporting.accuracy_table import Table
from lra.system.errors import UserError
from lra.system.progress import duration

Records = Sequence[Mapping[str, Any]]
TYPES = {".svg": "image/svg+xml", ".png": "image/png"}
STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #222; max-width: 76rem; margin: 2rem auto;
  padding: 0 1rem; }
h1, h2, h3 { line-height: 1.2; } h2 { margin-top: 2.5rem; border-bottom: 1px solid #ccc; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; margin: 1rem 0; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .6rem; border-bottom: 1px solid #ddd; text-align: right; white-space: nowrap; }
th:first-child, td:first-child, td.text, th.text { text-align: left; }
thead th { border-bottom: 2px solid #888; }
code { font: 13px/1.4 ui-monospace, monospace; }
td code { white-space: pre-wrap; overflow-wrap: anywhere; }
td.command { min-width: 24rem; white-space: normal; text-align: left; }
figure { margin: 1rem 0; } img { max-width: 100%; height: auto; }
figcaption, .notes { color: #555; font-size: 13.5px; }
@media print { body { max-width: none; font-size: 11px; } figure, tr { break-inside: avoid; } }
"""


def page(
  records: Records,
  tables: Iterable[Table],
  pictures: Mapping[str, tuple[bytes, str]],
) -> str:
  """The page. `pictures`: by caption, the content and the suffix of its file, .svg or .png."""
  tables = list(tables)
  tasks = {r["task"] for r in records}
  revisions = sorted({revision for made in tables for revision in made.revisions})
  parts = [
    "<h1>Long Range Arena: results</h1>",
    f"<p>{_count(len(records), 'run')} on {_count(len(tasks), 'task')}; "
    f"revision {escape(', '.join(revisions))}.</p>",
  ]
  for made in tables:
    parts.append(f"<h2>Accuracy: preset {escape(made.preset)}</h2>")
    parts.append(_table(*table_text.grid(made)))
    header, rows = table_text.significance(made)
    if rows:
      parts += ["<h3>Differences between mechanisms</h3>", _table(header, rows)]
    notes = "".join(f"<li>{escape(note)}</li>" for note in table_text.notes(made))
    parts.append(f'<ul class="notes">{notes}</ul>')
  if pictures:
    parts.append("<h2>Pictures</h2>")
    parts += [_figure(caption, *content) for caption, content in pictures.items()]
  parts += [
    "<h2>Environment</h2>",
    _table(*environments(records), text=range(8)),
    "<h2>How to repeat each number</h2>",
    "<p>Check out the revision and run the command in the repository. It prepares the data first; "
    "the digest of what it used is in <code>result.json</code>, and must be the one here.</p>",
    _runs(records),
  ]
  body = "\n".join(parts)
  return (
    '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
    '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
    "<title>Long Range Arena: results</title>\n"
    f"<style>{STYLE}</style>\n</head>\n<body>\n{body}\n</body>\n</html>\n"
  )


def read_picture(path: Path) -> tuple[bytes, str]:
  """A picture to embed. Raises UserError for a file that is none."""
  if path.suffix.lower() not in TYPES:
    raise UserError(f"{path} is neither PNG nor SVG")
  try:
    return path.read_bytes(), path.suffix.lower()
  except OSError as error:
    raise UserError(f"cannot read the picture {path}: {error.strerror}") from None


def environments(records: Records) -> tuple[list[str], list[list[str]]]:
  """Header and rows: what the runs ran on, each kind once."""
  kinds: dict[str, list] = {}
  for r in records:
    kinds.setdefault(json.dumps(r["environment"], sort_keys=True), []).append(r)
  rows = []
  for text, group in kinds.items():
    e = json.loads(text)
    packages = ", ".join(f"{name} {version}" for name, version in e["packages"].items())
    device = f"{accuracy_table.device(group[0])} ({e['platform']})"
    hosts = str(e["hosts"])
    rows.append([device, hosts, f"Python {e['python']}, {packages}", _revision(e), str(len(group))])
  return ["devices", "hosts", "versions", "revision", "runs"], rows


def _revision(environment: Mapping[str, Any]) -> str:
  changed = " with uncommitted changes" if environment["modified"] else ""
  return (environment["revision"] or "unknown") + changed


def _runs(records: Records) -> str:
  order = [*accuracy_table.TASKS]
  place = lambda r: order.index(r["task"]) if r["task"] in order else len(order)
  key = lambda r: (
    accuracy_table.setting(r),
    place(r),
    r["task"],
    accuracy_table.row_order(accuracy_table.row_key(r)),
    r["seed"],
  )
  header = (
    "run",
    *("seed", "test accuracy, %", "steps", "wall time", "examples/s", "peak memory, GB"),
    *("command", "revision", "data digest"),
  )
  lines = []
  for r in sorted(records, key=key):
    attention, overrides = accuracy_table.row_key(r)
    name = f"{table_text.name(r['task'])}, {table_text.name(attention)}" + (
      f" ({overrides})" if overrides else ""
    )
    numbers = (
      str(r["seed"]),
      f"{100 * r['test']['accuracy']:.2f}",
      f"{r['steps']:,}",
      duration(r["time"]["seconds"]),
      f"{r['time']['examples_per_second']:,.1f}",
      f"{r['peak_memory_gigabytes']:.2f}",
    )
    cells = [f'<td class="text">{escape(name)}, {escape(accuracy_table.setting(r))}</td>']
    cells += [f"<td>{escape(number)}</td>" for number in numbers]
    cells.append(f'<td class="command"><code>{escape(r["command"])}</code></td>')
    revision, digest = _revision(r["environment"]), r["data"]["digest"]
    short = revision[:7] + (" with changes" if r["environment"]["modified"] else "")
    for brief, whole in ((short, revision), (digest[:12], digest)):
      cells.append(f'<td class="text"><code title="{escape(whole)}">{escape(brief)}</code></td>')
    lines.append(f"<tr>{''.join(cells)}</tr>")
  heads = "".join(
    f"<th{_text(h in ('command', 'revision', 'data digest'))}>{h}</th>" for h in header
  )
  return _wide(heads, lines)


def _table(header: Sequence[str], rows: Sequence[Sequence[str]], text: Iterable[int] = (0,)) -> str:
  """text: columns of words, not numbers."""
  text = set(text)
  heads = "".join(f"<th{_text(i in text)}>{escape(h)}</th>" for i, h in enumerate(header))
  lines = [
    f"<tr>{''.join(f'<td{_text(i in text)}>{escape(c)}</td>' for i, c in enumerate(row))}</tr>"
    for row in rows
  ]
  return _wide(heads, lines)


def _wide(heads: str, lines: Sequence[str]) -> str:
  return (
    f'<div class="wide"><table>\n<thead><tr>{heads}</tr></thead>\n<tbody>\n'
    + "\n".join(lines)
    + "\n</tbody>\n</table></div>"
  )


def _text(words: bool) -> str:
  return ' class="text"' if words else ""


def _figure(caption: str, content: bytes, suffix: str) -> str:
  source = f"data:{TYPES[suffix]};base64,{base64.b64encode(content).decode()}"
  caption = escape(caption)
  return f'<figure><img src="{source}" alt="{caption}"><figcaption>{caption}</figcaption></figure>'


def _count(n: int, what: str) -> str:
  return f"{n:,} {what}" + ("" if n == 1 else "s")
