r"""Runs tasks x attentions x seeds, each as the train.py command that a person would type.

    scripts/run scripts/sweep.py                         five tasks, three mechanisms, seeds 0 1 2
    scripts/run scripts/sweep.py --preset quick --seeds 0
    scripts/run scripts/sweep.py --tasks text image --attentions cosformer --config.train.steps=100
    scripts/run scripts/sweep.py --attentions cosformer --grid \
      model.attention_options.feature_map=relu,leaky_relu,identity
    scripts/run scripts/sweep.py --preset quick --tasks listops image --ablation locality
    scripts/run scripts/sweep.py --tasks listops text --preset quick --pretrain masked
    scripts/run scripts/sweep.py --cluster slurm --partition gpu --gpus 1 --time 600
    scripts/run scripts/sweep.py --dry_run               the commands

Finished runs are skipped, interrupted ones continue, failed ones are listed and tried again by the
same command. Ctrl-C ends all runs with a checkpoint. What follows -- goes to every train.py.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from configs.lra.ablations import ABLATIONS
from lra.runs import command
from lra.sweeps import launch, plan, scheduler
from lra.system import cores
from lra.system.errors import UserError
from lra.system.process import StopRequest, run_main
from lra.system.progress import Progress

SLURM = {  # options of a Slurm job: the name in submitit, type, help
  "partition": ("slurm_partition", str, None),
  "account": ("slurm_account", str, None),
  "qos": ("slurm_qos", str, None),
  "constraint": ("slurm_constraint", str, None),
  "time": ("timeout_min", int, "minutes, then a job is requeued; default: a day"),
  "gpus": ("gpus_per_node", int, None),
  "cpus": ("cpus_per_task", int, None),
  "mem": ("mem_gb", float, "gigabytes"),
}


def parser() -> argparse.ArgumentParser:
  """The options."""
  made = command.parser(__doc__, allow_abbrev=False)
  made.add_argument("--tasks", nargs="+", default=plan.TASKS)
  made.add_argument("--attentions", nargs="+", default=("cosformer", "linear", "softmax"))
  made.add_argument("--seeds", nargs="+", type=int, default=(0, 1, 2))
  made.add_argument("--preset", default="default", help="of the config files")
  made.add_argument(
    "--grid", action="append", default=[], metavar="KEY=V1,V2", help="all values; may be repeated"
  )
  made.add_argument(
    "--ablation", choices=tuple(ABLATIONS), help="its rows, of configs/lra/ablations.py"
  )
  made.add_argument(
    "--pretrain",
    metavar="OBJECTIVE",
    help="masked or next: each cell is two runs, this objective on the task's inputs first, then the "
    "task from its encoder, together of as many steps as the cell alone",
  )
  made.add_argument("--pretrain_steps", type=int, help="of each cell; default: half of its steps")
  made.add_argument("--runs_dir", type=Path, help="of the runs' folders; default: runs")
  made.add_argument("--dry_run", action="store_true", help="print the commands and end")
  made.add_argument("--retries", type=int, default=0, help="of a failed run within this sweep")
  made.add_argument(
    "--cluster",
    choices=("local", "slurm", "debug"),
    default="local",
    help="debug: one after another in this process, for a debugger; not for results",
  )
  made.add_argument(
    "--jobs",
    type=int,
    help="at a time; default: one a GPU, or one a CPU core, each on its own; on Slurm no limit",
  )
  slurm = made.add_argument_group("Slurm, for each job")
  for name, (_, kind, about) in SLURM.items():
    slurm.add_argument(f"--{name}", type=kind, help=about)
  slurm.add_argument(
    "--slurm", action="append", default=[], metavar="KEY=VALUE", help="any other sbatch option"
  )
  return made


def pairs(texts: list[str], option: str) -> dict[str, str]:
  """KEY=VALUE texts as a dict."""
  for text in texts:
    if "=" not in text.strip("="):
      raise UserError(f"{option} {text}: KEY=VALUE is wanted")
  keys = [text.partition("=")[0] for text in texts]
  if twice := {key for key in keys if keys.count(key) > 1}:
    raise UserError(f"{option} {min(twice)} is given twice; put all its values into one")
  return dict(text.split("=", 1) for text in texts)


def slurm_options(args: argparse.Namespace) -> dict:
  """Options of a Slurm job by their names in submitit."""
  given = {submitit: getattr(args, name) for name, (submitit, *_) in SLURM.items()}
  more = {
    "slurm_job_name": "lra",
    "slurm_additional_parameters": pairs(args.slurm, "--slurm") or None,
  }
  return {"timeout_min": 24 * 60} | {k: v for k, v in (given | more).items() if v is not None}


def main() -> int:
  """Runs the sweep; 1 if a run failed, 130 or 143 if it was stopped."""
  arguments = sys.argv[1:]
  at = arguments.index("--") if "--" in arguments else len(arguments)
  args, unknown = parser().parse_known_args(arguments[:at])
  for argument in unknown:
    if not argument.startswith("--config."):
      raise UserError(f"unexpected argument {argument!r}; options of train.py come after --")
  for option in (*SLURM, "slurm"):
    if args.cluster != "slurm" and getattr(args, option):
      raise UserError(f"--{option} is for --cluster slurm, and this sweep would run right here")
  cells = plan.cells(
    args.tasks,
    args.attentions,
    args.seeds,
    preset=args.preset,
    arguments=[*unknown, *arguments[at + 1 :]],
    grid={key: values.split(",") for key, values in pairs(args.grid, "--grid").items()},
    ablation=args.ablation,
    runs_dir=args.runs_dir,
    pretrain=args.pretrain,
    pretrain_steps=args.pretrain_steps,
  )
  if args.dry_run:
    for cell in cells:
      print(cell.command + ("  # finished" if plan.result(cell) else ""))
    return 0

  progress = Progress()
  own = cores.available() if args.cluster == "local" and launch.on_cpu() else []
  devices = [] if own or args.cluster == "slurm" else launch.gpus()
  limit = max(1, len(own or devices))
  limit = len(cells) if args.cluster == "slurm" else min(limit, len(cells))
  limit = limit if args.jobs is None else args.jobs
  if limit < 1:
    raise UserError(f"--jobs must be at least 1, not {limit}")
  going = scheduler.Sweep(
    cells,
    cluster=args.cluster,
    options=slurm_options(args) if args.cluster == "slurm" else {},
    jobs=1 if args.cluster == "debug" else limit,
    devices=devices,
    cores=own,
    retries=args.retries,
    progress=progress,
  )
  progress.line(f"runs: {len(cells)}, finished before: {len(going.finished)}")
  if own and going.waiting:
    progress.line(cores.plan(limit, own))
  for cell in going.waiting:
    if error := plan.last_error(cell.log):
      progress.line(f"{cell.folder.name}: failed before, tried again: {error}")
  stop = StopRequest()
  outcome = going.run(stop)
  progress.line(
    f"{len(outcome.finished)} of {len(cells)} runs finished, {len(outcome.failed)} failed"
  )
  for cell, reason in outcome.failed.items():
    progress.line(f"failed: {cell.folder.name}: {reason}\n  (all it said: {cell.log})")
  if outcome.left:
    progress.line("stopped; the same command continues")
  return stop.exit_code or (130 if outcome.left else bool(outcome.failed))


if __name__ == "__main__":
  run_main(main)
