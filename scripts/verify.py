"""Repeats the command of a committed record and says whether the curve agrees.

    scripts/run scripts/verify.py results/listops_cosformer-quick-seed0.json
    scripts/run scripts/verify.py results/image_cosformer-seed0.json --steps 200    its first steps

A record of a run that began with --init_from needs that run in its place, runs/NAME.
On the same kind of machine (devices, packages) and at the record's revision every figure of the curve
is the same in all digits that the record has; elsewhere losses agree within 5 % and accuracies within
5 points. That is four times what was measured with listops_*.py:quick, seed 0: one CPU core against two
over 3,000 steps, cosFormer 1.3 % of a loss and 1.4 points, linear 0.2 and 0.6, softmax 0.5 and 0.9; an
H100 against a CPU over 300 steps, 0.8 % of a loss. Exit code 0: it agrees, 1: it does not.
"""

import argparse
import json
import shlex
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import train
from configs.lra.base import complete
from lra.reporting import run_record, verification
from lra.runs import command, sealed_json
from lra.runs.run_directory import parse_metrics
from lra.system.errors import UserError
from lra.system.process import StopRequest, run_main


class AtStep(StopRequest):
  """A request to stop that comes when the metrics of a run have reached a step."""

  def __init__(self, step: int, folder: Path) -> None:
    super().__init__()
    self._step, self._metrics = step, folder / "metrics.jsonl"

  @property
  def reason(self) -> str | None:
    """The reason to stop, None while the run may go on."""
    reached = any(line["step"] >= self._step for line in parse_metrics(self._metrics)[-1:])
    return super().reason or ("--steps are done" if reached else None)


def parser() -> argparse.ArgumentParser:
  """The options."""
  made = command.parser(__doc__)
  made.add_argument("record", type=Path, help="a file in results/")
  made.add_argument(
    "--steps", type=int, help="how many to repeat, to the next log line; default: all"
  )
  made.add_argument("--workdir", type=Path, help="keep the run there; default: a temporary folder")
  command.add_folders(made)
  return made


def repeat(record: dict, folder: Path, args: argparse.Namespace) -> tuple[list[dict], dict]:
  """The lines of metrics.jsonl, and the environment, of the record's command run again in `folder`."""
  values = command.read(shlex.split(record["command"])[2:])
  now = json.loads(json.dumps(values.config.to_dict()))
  if complete(record["config"]) != now:
    raise UserError(
      f"{args.record}: its command makes another config at this revision; check out "
      f"{record['environment']['revision']}"
    )
  stop = AtStep(record["steps"] if args.steps is None else args.steps, folder)
  try:
    parent = Path(values.init_from) if values.init_from else None
    train.train(values.config, folder, **command.folders(args), stop=stop, init_from=parent)
  finally:
    stop.restore()
  if stop.exit_code:
    sys.exit(stop.exit_code)
  environment = sealed_json.read(folder / "environment.json")
  return parse_metrics(folder / "metrics.jsonl"), environment


def main() -> int:
  """Repeats and compares; 1 if the curve does not agree."""
  args = parser().parse_args()
  if args.steps is not None and args.steps < 1:
    raise UserError(f"--steps must be at least 1, not {args.steps}")
  record = run_record.read(args.record)
  with tempfile.TemporaryDirectory(prefix="lra-verify-") as temporary:
    metrics, here = repeat(record, args.workdir or Path(temporary) / "run", args)
  differing = verification.differing(record, here)
  columns = verification.compare(record, metrics)
  for column in columns:
    until = f", all up to step {column.last_equal:,}" if column.last_equal else ""
    print(
      f"{column.name:20} {column.equal} of {column.points} figures equal{until}; "
      f"largest difference {column.largest:.2g}"
    )
  print(f"the record's machine: {'; '.join(differing) or 'as this one'}")
  agrees, sentence = verification.verdict(columns, exact=not differing)
  print(sentence)
  return 0 if agrees else 1


if __name__ == "__main__":
  run_main(main)
