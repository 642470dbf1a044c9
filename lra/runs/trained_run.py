"""The best parameters of a run, restored from its directory, with its model and its data."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
from ml_collections import ConfigDict

from configs.lra.base import complete
from lra.data import store
from lra.runs import sealed_json
from lra.system import devices
from lra.system.errors import UserError
from lra.training import checkpoint, setup, step


class TrainedRun(NamedTuple):
  """The best parameters of a run so far, and its data where they were asked for."""

  config: ConfigDict
  parts: setup.Parts
  best: step.Best
  data: store.Store | None = None


def load_best(run: Path) -> TrainedRun:
  """What the newest checkpoint of a run has. Raises UserError without a checkpoint."""
  try:
    config = ConfigDict(complete(sealed_json.read(run / "config.json")))
  except OSError:
    raise UserError(f"{run} is not a run: it has no config.json that can be read") from None
  if not (run / "checkpoints").is_dir():
    raise UserError(f"{run} has no checkpoint; the same train.py makes one")
  parts = setup.build(config)
  everywhere = devices.replicated(parts.mesh)
  state = step.init(parts.model, parts.optimizer, jax.random.key(0), parts.task.streams, everywhere)
  checkpoints = checkpoint.Checkpoints(run / "checkpoints")
  try:
    if checkpoints.latest is None:
      raise UserError(f"{run} has no checkpoint; the same train.py makes one")
    like = step.saved(state, step.Best.of(state), 0.0)
    tree = checkpoints.load(like, "was it written by another revision? check that out")
  finally:
    checkpoints.close()
  return TrainedRun(config, parts, step.restored(tree)[1])


def load(
  run: Path, data_dir: Path, raw_dir: Path | None, report: Callable[[str], None]
) -> TrainedRun:
  """The best parameters of a run so far, and its data. Raises UserError without a checkpoint."""
  trained = load_best(run)
  folders, parts = {"data_dir": data_dir, "raw_dir": raw_dir}, trained.parts
  data = store.open_store(parts.task, parts.task_options, **folders, report=report)
  known = sealed_json.read(run / "environment.json").get("data", data.digest)
  if known != data.digest:
    raise UserError(
      f"{run} was trained on other data ({known[:12]}) than is there now ({data.digest[:12]}): set "
      "--data_dir and --raw_dir as they were"
    )
  return trained._replace(data=data)
