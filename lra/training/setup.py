"""The set-up of a run: task, mesh, model and optimizer of a config, checked, and its data."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from configs.lra import ranges
from lra.data import batches, store, tasks
from lra.data.token_baselines import token_baselines
from lra.system import devices
from lra.system.errors import UserError
from lra.training import objectives, optim
from models import heads
from models.attention import ATTENTION
from models.attention import options as attention_options


class Parts(NamedTuple):
  """The parts of a run that depend on its config alone, not on seed or data."""

  task: tasks.Task
  task_options: dict[str, Any]
  longest: int  # tokens of an input at most
  mesh: Mesh
  model: Any
  objective: objectives.Objective
  optimizer: optax.GradientTransformation
  schedule: optim.Schedule


def build(config: ConfigDict) -> Parts:
  """The parts of a run of `config`. Raises UserError for anything in it that cannot work."""
  task = tasks.get(config.task.name)
  check_training(config)
  options = {key: value for key, value in config.task.items() if key != "name"}
  longest = task.longest(options)
  mesh = devices.data_mesh()
  check_devices(config, mesh.size)
  check_objective(config, task)
  model = build_model(config, task, longest)
  objective = objectives.make(config.train.objective, model, config.train.mask_share)
  optimizer, schedule = optim.make(config.optim, config.train.steps)
  return Parts(task, options, longest, mesh, model, objective, optimizer, schedule)


class Data(NamedTuple):
  """A task's data, ready to be made batches of."""

  store: store.Store
  splits: dict[str, batches.Split]
  buckets: tuple[int, ...]  # padded lengths


def open_data(
  config: ConfigDict,
  parts: Parts,
  data_dir: Path,
  raw_dir: Path | None,
  report: Callable[[str], None],
) -> Data:
  """The data of a run, prepared first if they are not there yet. Raises UserError."""
  task = parts.task
  stored = store.open_store(
    task, parts.task_options, data_dir=data_dir, raw_dir=raw_dir, report=report
  )
  splits = batches.splits(
    stored.splits,
    task.id_offset,
    parts.longest,
    parts.mesh,
    gigabytes=config.data.device_gigabytes,
    drop_zeros=parts.model.ignores_zeros,
  )
  buckets = batches.choose_buckets(
    splits["train"].lengths,
    splits["train"].longest,
    count=config.data.buckets if config.data.bucketing else 1,
    multiple=config.data.bucket_multiple,
  )
  return Data(stored, splits, buckets)


def baselines(
  config: ConfigDict, parts: Parts, data: store.Store
) -> tuple[dict[str, float], dict[str, float]]:
  """Accuracy of each trivial predictor on the test split, and over tokens its bits a token."""
  train, test = data.splits["train"], data.splits["test"]
  if not parts.objective.over_tokens:
    return parts.task.baselines(train, test), {}
  return token_baselines(
    train,
    test,
    following=config.train.objective == "next",
    zero_is_padding=config.model.zero_is_padding and not parts.task.id_offset,
  )


def build_model(config: ConfigDict, task: tasks.Task, longest: int) -> Any:
  """The model of `config.model`. Raises UserError for an impossible one."""
  model = config.model.to_dict()
  dtype = devices.activation_dtype(model.pop("dtype"))
  fixed = model["attention_options"]["length"]
  if fixed is not None and fixed < longest + model["cls"]:
    raise UserError(
      f"config.model.attention_options.length {fixed} is less than the {longest + model['cls']} "
      "positions of the longest input"
    )
  objective, known = config.train.objective, config.model.attention in ATTENTION
  if objective == "next" and known and "length" in attention_options(config.model.attention):
    model["attention_options"]["length"] = fixed or longest  # the true length would tell the end
  try:
    built = heads.build(
      model,
      vocab_size=task.vocab_size,
      num_classes=task.num_classes,
      max_length=longest,
      side=config.task.get("resolution"),  # of the tasks whose tokens are pixels
      dtype=dtype,
      objective=objective,
    )
    inputs = (
      jnp.zeros((1, task.streams, longest), jnp.int32),
      jnp.ones((1, task.streams), jnp.int32),
    )
    jax.eval_shape(lambda key: built.init(key, *inputs, train=False), jax.random.key(0))
  except (KeyError, TypeError, ValueError) as error:
    raise UserError(f"config.model: {error.args[0]}") from error
  return built


def check_training(config: ConfigDict) -> None:
  """Raises UserError for numbers out of their ranges and unknown choices."""
  try:
    ranges.check(config.to_dict())
  except ValueError as error:
    raise UserError(str(error)) from None
  if config.train.select not in ("best", "last"):
    raise UserError(f"config.train.select is 'best' or 'last', not {config.train.select!r}")


def check_devices(config: ConfigDict, count: int) -> None:
  """Raises UserError for batches that `count` devices cannot share."""
  for key in ("batch_size", "eval_batch_size"):
    if config.train[key] % count:
      raise UserError(
        f"config.train.{key} {config.train[key]} is not a multiple of the {count} devices"
      )
  if config.train.batch_size // count % max(1, config.train.accumulate):
    raise UserError(
      f"config.train.accumulate {config.train.accumulate} does not divide the "
      f"{config.train.batch_size // count} examples of a device"
    )


def check_objective(config: ConfigDict, task: tasks.Task) -> None:
  """Raises UserError for an objective that is none, or does not fit the task or the model."""
  objective = config.train.objective
  if objective not in heads.OBJECTIVES:
    raise UserError(
      f"config.train.objective is one of {', '.join(heads.OBJECTIVES)}, not {objective!r}"
    )
  if objective == "classify" and not task.num_classes:
    raise UserError(
      f"the texts of task {task.name} have no classes: set config.train.objective to masked or next"
    )
  if objective == "next" and config.model.cls:
    raise UserError(
      "config.train.objective=next has no use for a CLS vector: set config.model.cls=False (and "
      "config.model.pooling=masked_mean for the classifier that starts from it)"
    )
