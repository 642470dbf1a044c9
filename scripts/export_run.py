"""Exports finished runs to results/, one small JSON a run; nothing else writes there.

    scripts/run scripts/export_run.py runs/listops_cosformer-seed0
    scripts/run scripts/export_run.py runs/*                            skips unfinished ones

Refuses runs whose files disagree, and, without --replace, another run of a command that is there.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from lra.reporting import run_record
from lra.runs import command
from lra.system.errors import UserError
from lra.system.process import run_main


def main() -> int:
  """Exports every run named, however many fail; the number that failed is the exit code."""
  parser = command.parser(__doc__)
  parser.add_argument("run", nargs="+", type=Path, help="a run's folder (--workdir)")
  parser.add_argument(
    "--results", type=Path, default=Path(__file__).parent.parent / "results", help="where to"
  )
  parser.add_argument("--replace", action="store_true", help="another run of the same command")
  args = parser.parse_args()
  failed = 0
  for folder in args.run:
    if len(args.run) > 1 and not (folder / "result.json").exists():
      print(f"{folder}: skipped, not finished")
      continue
    try:
      path = run_record.write(run_record.make(folder), args.results, replace=args.replace)
    except UserError as error:
      print(f"error: {error}", file=sys.stderr)
      failed += 1
    else:
      print(f"{folder} -> {path}")
  return min(failed, 100)


if __name__ == "__main__":
  run_main(main)
