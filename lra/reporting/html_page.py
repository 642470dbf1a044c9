"""The HTML page of all results, self-contained: no network, no scripts, no other files."""

import base64
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2

from lra.reporting import grouping, table_text
from lra.reporting.accuracy_table import Table
from lra.system.errors import UserError
from lra.system.progress import duration

Records = Sequence[Mapping[str, Any]]
TYPES = {".svg": "image/svg+xml", ".png": "image/png"}


def page(
  records: Records,
  tables: Iterable[Table],
  pictures: Mapping[str, tuple[bytes, str]],
) -> str:
  """The page. `pictures`: by caption, the content and the suffix of its file, .svg or .png."""
  tables = list(tables)
  environment = jinja2.Environment(
    loader=jinja2.FileSystemLoader(Path(__file__).parent),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
  )
  return environment.get_template("html_page.html").render(
    runs=_rows(records),
    tasks=len({r["task"] for r in records}),
    revisions=", ".join(sorted({revision for made in tables for revision in made.revisions})),
    tables=[
      (made, table_text.grid(made), table_text.significance(made), table_text.notes(made))
      for made in tables
    ],
    pictures={
      caption: f"data:{TYPES[suffix]};base64,{base64.b64encode(content).decode()}"
      for caption, (content, suffix) in pictures.items()
    },
    environments=environments(records),
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
  kind = lambda r: json.dumps(r["environment"], sort_keys=True)
  groups, rows = grouping.grouped(records, kind), []
  for text in dict.fromkeys(map(kind, records)):
    group = groups[text]
    e = json.loads(text)
    packages = ", ".join(f"{name} {version}" for name, version in e["packages"].items())
    device = f"{grouping.device(group[0])} ({e['platform']})"
    hosts = str(e["hosts"])
    rows.append([device, hosts, f"Python {e['python']}, {packages}", _revision(e), str(len(group))])
  return ["devices", "hosts", "versions", "revision", "runs"], rows


def _revision(environment: Mapping[str, Any]) -> str:
  changed = " with uncommitted changes" if environment["modified"] else ""
  return (environment["revision"] or "unknown") + changed


def _rows(records: Records) -> list[dict[str, Any]]:
  """The runs in the order of the tables: what the template shows of each."""
  tasks, row = grouping.tasks_of(records), grouping.row_key
  key = lambda r: (
    grouping.setting(r),
    tasks.index(r["task"]),
    grouping.row_order(row(r)),
    r["seed"],
  )
  return [
    {
      "name": f"{table_text.name(r['task'])}, {table_text.name(row(r)[0])}"
      + (f" ({row(r)[1]})" if row(r)[1] else "")
      + f", {grouping.setting(r)}",
      "numbers": [
        r["seed"],
        f"{100 * r['test']['accuracy']:.2f}",
        f"{r['steps']:,}",
        duration(r["time"]["seconds"]),
        f"{r['time']['examples_per_second']:,.1f}",
        f"{r['peak_memory_gigabytes']:.2f}",
      ],
      "command": r["command"],
      "revision": _revision(r["environment"]),
      "short": (r["environment"]["revision"] or "unknown")[:7]
      + (" with changes" if r["environment"]["modified"] else ""),
      "digest": r["data"]["digest"],
    }
    for r in sorted(records, key=key)
  ]
