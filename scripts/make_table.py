"""Prints the accuracy table, mean and standard deviation over seeds, beside the published one.

    scripts/run scripts/make_table.py                            from results/
    scripts/run scripts/make_table.py runs --format latex        from run directories
    scripts/run scripts/make_table.py --update_readme            README.md and results/README.md

Each preset has a table of its own. A row never mixes presets, configs or data unless --mix says so.
"""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from configs.lra import base
from lra.reporting import (
  accuracy_table,
  grouping,
  run_record,
  table_formats,
  table_text,
  token_table,
)
from lra.runs import command
from lra.system import files
from lra.system.errors import UserError
from lra.system.process import run_main

README, ALL = ROOT / "README.md", ROOT / "results/README.md"


def made(records: Sequence[Mapping[str, Any]], name: str, mix: bool) -> str:
  """All tables of `records` in the format `name`."""
  accuracy = accuracy_table.tables(records, mix=mix, full_size=base.TASKS)
  return table_formats.FORMATS[name](accuracy, token_table.tables(records))


def pages(records: Sequence[Mapping[str, Any]]) -> dict[Path, str]:
  """What stands between the markers of each page: in README the recipes, in the other all there is."""
  return {
    README: made([r for r in records if of_recipe(r)], "markdown", False),
    ALL: made(records, "markdown", False),
  }


def of_recipe(record: Mapping[str, Any]) -> bool:
  """Whether a run is of a default recipe, from scratch, changed in how its layers mix tokens alone."""
  mixing = ("model.attention", "model.convolution", "model.output_norm")
  return (
    record["preset"] == "default"
    and grouping.objective(record) == "classify"
    and not record.get("parent")
    and all(key.startswith(mixing) for key in record["overrides"])
  )


def main() -> int:
  """Prints the table, or writes it into the README."""
  parser = command.parser(__doc__)
  parser.add_argument("source", nargs="*", type=Path, default=[ROOT / "results"])
  parser.add_argument("--format", choices=tuple(table_formats.FORMATS), default="markdown")
  parser.add_argument("--preset", nargs="+", help="only these")
  parser.add_argument("--mix", action="store_true", help="whatever the runs differ in, one table")
  parser.add_argument(
    "--update_readme", action="store_true", help="the two pages in the repository, from results/"
  )
  args = parser.parse_args()
  if args.update_readme:
    if args.source != [ROOT / "results"] or args.preset or args.mix or args.format != "markdown":
      raise UserError("--update_readme shows all of results/, so it goes with no other option")
  records = run_record.read_all(args.source, args.preset)
  if args.update_readme:
    for page, text in pages(records).items():
      files.write(page, table_text.between_markers(page.read_text(), text))
      print(page.relative_to(ROOT))
  else:
    print(made(records, args.format, args.mix), end="")
  return 0


if __name__ == "__main__":
  run_main(main)
