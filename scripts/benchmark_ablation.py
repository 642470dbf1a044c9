"""Training speed of the rows of an ablation (configs/lra/ablations.py), with the models of a preset.

    scripts/run scripts/benchmark_ablation.py locality --preset quick --tasks listops image

Steps of whole batches of random tokens at full length. Compilation and warm-up are apart; the rows of a
task alternate, and times are medians: on a busy machine trust the ratios to the first row.
"""

import argparse
import statistics
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))

from configs.lra.ablations import ABLATIONS
from lra.data import batches
from lra.data.tasks.task import Examples
from lra.reporting.grouping import label
from lra.runs import command
from lra.sweeps import plan
from lra.system import devices
from lra.system.progress import Clock
from lra.training import setup, step
from models.attention import ATTENTION
from scripts.benchmark import seconds


def recipe_step(arguments: Sequence[str]) -> tuple[Callable[[], None], int]:
  """A function that makes one training step of `train.py <arguments>`, and the examples in it."""
  config = command.read(arguments).config
  parts = setup.build(config)
  size, streams, n = config.train.batch_size, parts.task.streams, parts.longest
  examples = Examples(
    tokens=np.random.default_rng(0).integers(1, 10, size * streams * n).astype(np.uint8),
    offsets=np.arange(size * streams + 1) * n,
    documents=np.arange(size * streams).reshape(size, streams),
    labels=np.zeros(size, np.uint8),
  )
  split = batches.Split(examples, parts.task.id_offset, n, parts.mesh, on_device=True)
  place, key = devices.replicated(parts.mesh), jax.random.key(0)
  trainer = step.Trainer(
    parts.model, parts.optimizer, split, key=key, run=1, sharding=place, clock=Clock()
  )
  state = step.init(parts.model, parts.optimizer, key, streams, place)
  whole = batches.Dispatch(n, np.arange(size)[None])

  def run() -> None:
    nonlocal state
    state, done = trainer(state, whole)
    done.block_until_ready()

  return run, size


def ablation(name: str, task: str, preset: str, repeats: int) -> None:
  """Prints examples a second of each row, and the ratio to the first."""
  cells = plan.cells([task], tuple(ATTENTION), [0], preset=preset, ablation=name)
  runs = [recipe_step(cell.arguments) for cell in cells]
  for run, _ in runs:
    run()  # warm-up
  taken = [[seconds(run) for run, _ in runs] for _ in range(repeats)]
  print(f"{'examples/s':>10} {'ratio':>6}  {task}")
  for i, (cell, (_, size)) in enumerate(zip(cells, runs)):
    speed = size / statistics.median(times[i] for times in taken)
    ratio = statistics.median(times[0] / times[i] for times in taken)
    changes = label(command.overrides(command.read(cell.arguments)))
    print(f"{speed:10.0f} {ratio:6.2f}  {cell.attention} {changes}", flush=True)


def main() -> None:
  """Runs what the command line names."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("name", choices=tuple(ABLATIONS))
  parser.add_argument("--tasks", nargs="+", default=["listops"])
  parser.add_argument("--preset", default="quick")
  parser.add_argument("--repeats", type=int, default=20, help="of which the median is taken")
  args = parser.parse_args()
  for task in args.tasks:
    ablation(args.name, task, args.preset, args.repeats)


if __name__ == "__main__":
  main()
