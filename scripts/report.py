"""Writes all results as one HTML page that opens without a network: tables, pictures, commands.

    scripts/run scripts/report.py                                   results/ -> report.html
    scripts/run scripts/report.py runs --preset quick --out quick.html
    scripts/run scripts/report.py --scaling cosformer.json --pictures runs/*/attention-*.svg

Pictures are those of scripts/plot.py, and whatever PNG and SVG files --pictures names.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from configs.lra import base
from lra.reporting import accuracy_table, grouping, html_page, pictures, run_record
from lra.reporting.pictures import style
from lra.runs import command
from lra.system import files
from lra.system.errors import UserError
from lra.system.process import run_main


def main() -> int:
  """Writes the page."""
  parser = command.parser(__doc__)
  parser.add_argument("source", nargs="*", type=Path, default=[ROOT / "results"])
  parser.add_argument("--preset", nargs="+", help="only these")
  parser.add_argument("--mix", action="store_true", help="whatever the runs differ in, one table")
  parser.add_argument(
    "--scaling", nargs="+", type=Path, default=[], help="JSON files of benchmark.py scaling"
  )
  parser.add_argument("--pictures", nargs="+", type=Path, default=[], help="PNG and SVG files")
  parser.add_argument("--out", type=Path, default=Path("report.html"))
  args = parser.parse_args()
  records = grouping.of_classes(run_record.read_all(args.source, args.preset))
  if not records:
    raise UserError(
      f"nothing to report in {', '.join(map(str, args.source))}: no finished run; "
      "scripts/export_run.py puts finished runs into results/"
    )
  tables = accuracy_table.tables(records, mix=args.mix, full_size=base.TASKS)
  figures = pictures.of_records(records, args.scaling)
  shown = {name: (style.encode(figure, "svg"), ".svg") for name, figure in figures.items()}
  shown |= {str(path): html_page.read_picture(path) for path in args.pictures}
  args.out.parent.mkdir(parents=True, exist_ok=True)
  files.write(args.out, html_page.page(records, tables, shown))
  print(
    f"{args.out}: {len(records)} runs, {len(shown)} pictures, {args.out.stat().st_size / 1e6:.1f} MB"
  )
  return 0


if __name__ == "__main__":
  run_main(main)
