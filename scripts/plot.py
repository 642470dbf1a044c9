"""Draws finished runs, as PNG and SVG: accuracy against speed, training curves, growth with length.

    scripts/run scripts/plot.py                                   results/ -> pictures/
    scripts/run scripts/plot.py runs --preset quick --out DIR     from run directories
    scripts/run scripts/benchmark.py scaling --json cosformer.json
    scripts/run scripts/plot.py --scaling cosformer.json          and how it grows with length

Each preset and device has pictures of its own: speeds of different machines say nothing.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from lra.reporting import grouping, pictures, run_record
from lra.reporting.pictures import style
from lra.runs import command
from lra.system.errors import UserError
from lra.system.process import run_main


def main() -> int:
  """Draws everything that there is."""
  parser = command.parser(__doc__)
  parser.add_argument("source", nargs="*", type=Path, default=[ROOT / "results"])
  parser.add_argument("--preset", nargs="+", help="only these")
  parser.add_argument(
    "--scaling", nargs="+", type=Path, default=[], help="JSON files of benchmark.py scaling"
  )
  parser.add_argument("--out", type=Path, default=Path("pictures"), help="folder")
  args = parser.parse_args()
  records = grouping.of_classes(run_record.read_all(args.source, args.preset))
  if not records and not args.scaling:
    raise UserError(
      f"nothing to draw in {', '.join(map(str, args.source))}: no finished run; "
      "scripts/export_run.py puts finished runs into results/"
    )
  figures = pictures.of_records(records, args.scaling)
  for name, figure in figures.items():
    print(*style.write(figure, args.out / name))
  return 0


if __name__ == "__main__":
  run_main(main)
