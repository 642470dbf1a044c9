"""The cells of a sweep: their command lines, folders, state, and the time that is left.

A cell is one command line of train.py and the folder that command would choose by itself, so that
runs typed by hand and runs of a sweep are the same runs. It may start from another cell's parameters.
"""

import dataclasses
import itertools
import json
import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from configs.lra.ablations import ABLATIONS, Row
from configs.lra.base import complete, recipe_path
from lra.data import tasks
from lra.runs import command, run_directory, sealed_json
from lra.system.errors import UserError
from lra.system.progress import duration
from models.attention import ATTENTION, options
from models.heads import OBJECTIVES

ROOT = Path(__file__).parents[2]
TASKS = ("listops", "text", "retrieval", "image", "pathfinder")  # the five of the average


@dataclasses.dataclass(frozen=True)
class Cell:
  """One run."""

  task: str
  attention: str
  seed: int
  arguments: tuple[str, ...]  # of train.py
  folder: Path
  config: Mapping[str, Any] = dataclasses.field(compare=False, repr=False)
  parent: "Cell | None" = dataclasses.field(default=None, compare=False, repr=False)  # runs first

  @property
  def command(self) -> str:
    """The command line to type in the repository."""
    return shlex.join(["python", "train.py", *self.arguments])

  @property
  def log(self) -> Path:
    """The file of its output."""
    return self.folder.parent / ".sweep" / f"{self.folder.name}.log"


def cells(
  task_names: Sequence[str],
  attentions: Sequence[str],
  seeds: Iterable[int],
  *,
  preset: str = "default",
  arguments: Sequence[str] = (),
  grid: Mapping[str, Sequence[str]] | None = None,
  ablation: str | None = None,
  runs_dir: Path | None = None,
  pretrain: str | None = None,
  pretrain_steps: int | None = None,
) -> list[Cell]:
  """All combinations, seeds outermost, then mechanisms: whole tables first, in them whole rows.

  ablation: a key of `configs.lra.ablations.ABLATIONS`, whose rows of these mechanisms are run, each
    on those of the tasks that it fits.
  arguments: more of train.py's. grid: config keys and their values; where it varies an option that a
    mechanism does not have, that mechanism runs once.
  pretrain: an objective over tokens; each combination is then two runs, that one for
    `pretrain_steps` (None: half of the steps) and the task itself, from its encoder, for the rest.
  Raises UserError for flags and keys that train.py would refuse, before anything runs.
  """
  grid = {key.removeprefix("config."): values for key, values in (grid or {}).items()}
  given = {a.partition("=")[0].lstrip("-") for a in arguments}
  for key, option in (("seed", "--seeds"), ("model.attention", "--attentions")):
    if key in grid or f"config.{key}" in given:
      raise UserError(f"config.{key} is what a sweep varies; use {option}")
  if given & {"config", "workdir"}:
    raise UserError("a sweep chooses --config and --workdir; use --preset and --runs_dir")
  if both := [key for key in grid if f"config.{key}" in given]:
    raise UserError(
      f"--grid varies {both[0]}, and --config.{both[0]} sets it: leave one of them out"
    )
  if pretrain:
    if pretrain not in OBJECTIVES[1:]:
      raise UserError(f"--pretrain is {' or '.join(OBJECTIVES[1:])}, not {pretrain!r}")
    if given & {"init_from", "config.train.objective"} or "train.objective" in grid:
      raise UserError("--pretrain chooses --init_from and config.train.objective; leave them out")
  elif pretrain_steps is not None:
    raise UserError("--pretrain_steps goes with --pretrain")
  for attention in attentions:
    if attention not in ATTENTION:
      raise UserError(f"unknown attention {attention!r}; there are {', '.join(sorted(ATTENTION))}")
  rows = [Row(attention, tasks=tuple(task_names)) for attention in attentions]
  if ablation is not None:
    rows = [row for row in _rows(ablation) if row.attention in attentions]
  chosen = [dict(zip(grid, values)) for values in itertools.product(*grid.values())]
  made = []
  for seed, row, name, more in itertools.product(seeds, rows, task_names, chosen):
    tasks.get(name)
    if name not in row.tasks:
      continue
    attention, more = row.attention, {**row.changes, **more}
    own = [f"--config.{key}={value}" for key, value in more.items() if _has(attention, key)]
    given = (*_recipe(name, attention, preset), f"--config.seed={seed}", *own, *arguments)
    whole = _cell(name, attention, seed, given, runs_dir)
    if pretrain:
      made += _in_two(whole, given, runs_dir, pretrain, pretrain_steps)
    else:
      made.append(whole)
  return list({cell.folder: cell for cell in made}.values())


def _rows(ablation: str) -> tuple[Row, ...]:
  if ablation not in ABLATIONS:
    raise UserError(f"unknown ablation {ablation!r}; there are {', '.join(ABLATIONS)}")
  return ABLATIONS[ablation]


def _cell(
  task: str,
  attention: str,
  seed: int,
  given: tuple[str, ...],
  runs_dir: Path | None,
  parent: Cell | None = None,
) -> Cell:
  """The run of the arguments `given`, in the folder that they would choose."""
  values = command.read(given)
  folder = command.default_workdir(values)
  if runs_dir is None:
    folder = ROOT / folder
  else:
    folder = runs_dir.absolute() / folder.name
    given += (f"--workdir={folder}",)
  config = json.loads(json.dumps(values.config.to_dict()))
  return Cell(task, attention, seed, given, folder, config, parent)


def _in_two(
  whole: Cell, given: tuple[str, ...], runs_dir: Path | None, objective: str, steps: int | None
) -> tuple[Cell, Cell]:
  """Pretraining, then the task from its encoder, together of as many steps as `whole`."""
  total = whole.config["train"]["steps"]
  first = total // 2 if steps is None else steps
  if not tasks.get(whole.task).num_classes:
    raise UserError(
      f"--pretrain: the texts of task {whole.task} have no classes to learn afterwards"
    )
  if not 0 < first < total:
    raise UserError(
      f"--pretrain_steps {first}: {whole.folder.name} has {total} steps, of which some have to be left"
    )
  head = whole.task, whole.attention, whole.seed
  own = (f"--config.train.objective={objective}", f"--config.train.steps={first}")
  parent = _cell(*head, given + own, runs_dir)
  path = parent.folder if runs_dir else parent.folder.relative_to(ROOT)
  own = (f"--config.train.steps={total - first}", f"--init_from={path}")
  return parent, _cell(*head, given + own, runs_dir, parent)


def _has(attention: str, key: str) -> bool:
  """False for an option of some mechanism that this one does not have."""
  section, _, option = key.rpartition(".")
  known = section != "model.attention_options" or option in options(attention)
  return known or not any(option in options(other) for other in ATTENTION)


def _recipe(task: str, attention: str, preset: str) -> tuple[str, ...]:
  """The arguments that choose a recipe; a mechanism without a file of its own takes cosFormer's."""
  suffix = "" if preset == "default" else f":{preset}"
  path = recipe_path(task)
  if (ROOT / f"{path}_{attention}.py").exists():
    return "--config", f"{path}_{attention}.py{suffix}"
  other = f"--config.model.attention={attention}"
  return "--config", f"{path}_cosformer.py{suffix}", other


def result(cell: Cell) -> dict[str, Any] | None:
  """result.json of the finished run of this very config, else None."""
  try:
    config = sealed_json.read(cell.folder / "config.json")
    return run_directory.read_result(cell.folder) if complete(config) == cell.config else None
  except (OSError, UserError, LookupError, TypeError, AttributeError):
    return None  # the same train.py says what is wrong


def fraction(cell: Cell) -> float:
  """Share of the steps that are done, by the last log line."""
  try:
    with open(cell.folder / "metrics.jsonl", "rb") as file:
      file.seek(max(0, file.seek(0, 2) - 4096))
      lines = file.read().splitlines(keepends=True)
    steps = [json.loads(line)["step"] for line in lines[-2:] if line.endswith(b"\n")]
    return min(1.0, max(steps, default=0) / cell.config["train"]["steps"])
  except (OSError, ValueError, KeyError):
    return 0.0


def last_error(log: Path) -> str | None:
  """The last `error:` line of a run's output, or the last line of a traceback."""
  try:
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
  except OSError:
    return None
  for line in reversed(lines):
    if line.startswith("error: "):
      return line.removeprefix("error: ")
  trace = any(line.startswith("Traceback") for line in lines)
  return lines[-1] if trace else None


@dataclasses.dataclass(frozen=True)
class Running:
  """Progress of a run that this sweep has started."""

  task: str
  seconds: float  # since it was started
  begin: float  # how much was done when it was started
  fraction: float


def seconds_left(
  known: Mapping[str, Sequence[float]],
  running: Sequence[Running],
  waiting: Sequence[str],
  jobs: int,
) -> float | None:
  """Estimate of the time left, from the seconds of finished runs and the pace of running ones."""
  known = {task: list(seconds) for task, seconds in known.items() if seconds}
  left = []
  for run in running:
    if run.fraction > run.begin:
      left.append(run.seconds / (run.fraction - run.begin) * (1 - run.fraction))
      if run.task not in known:
        known[run.task] = [run.seconds / (run.fraction - run.begin)]
  mean = {task: sum(seconds) / len(seconds) for task, seconds in known.items()}
  if not mean:
    return None
  anywhere = sum(mean.values()) / len(mean)
  left += [
    mean.get(run.task, anywhere) * (1 - run.fraction)
    for run in running
    if run.fraction <= run.begin
  ]
  left += [mean.get(task, anywhere) for task in waiting]
  return max(max(left, default=0.0), sum(left) / max(1, jobs))


def overview(
  results: Mapping[Cell, Mapping[str, Any]],
  running: Sequence[Running],
  failed: int,
  waiting: int,
  left: float | None,
) -> str:
  """One line: counts, time left, the best test accuracy of each task, how far the runs are."""
  best: dict[str, tuple[float, str]] = {}
  for cell, found in results.items():
    if "bits_per_token" in found["test"]:  # of tokens, not of the task
      continue
    here = (found["test"]["accuracy"], cell.attention)
    best[cell.task] = max(best.get(cell.task, here), here)
  parts = [
    f"{len(results)} done, {len(running)} running, {failed} failed, {waiting} waiting",
    "time left unknown" if left is None else f"{duration(left)} left",
    *([f"best: {', '.join(f'{t} {a:.4f} {m}' for t, (a, m) in best.items())}"] if best else []),
    *([f"at {', '.join(f'{run.fraction:.0%}' for run in running)}"] if running else []),
  ]
  return "; ".join(parts)
