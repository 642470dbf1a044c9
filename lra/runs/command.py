"""The command line of train.py: flags, folders, checks of a config."""

import contextlib
import hashlib
import importlib
import os
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from absl import flags
from ml_collections import ConfigDict, config_flags

from configs.lra.base import TASKS as RECIPES
from lra.system import devices
from lra.system.errors import UserError
from lra.data.tasks import Task
from models import heads
from models.attention import ATTENTION, options


def define_flags(values: flags.FlagValues = flags.FLAGS) -> flags.FlagValues:
  """Adds the flags of train.py to `values`."""
  config_flags.DEFINE_config_file(
    "config",
    None,
    "Recipe, optionally with a preset: configs/lra/listops_cosformer.py:quick. Any key of it can be "
    "set, too: --config.model.attention=linear (configs/lra/base.py has them all).",
    lock_config=True,
    flag_values=values,
  )
  flags.DEFINE_string(
    "workdir",
    None,
    "Folder of the run. Default: runs/ and a name made of recipe, preset, overrides and seed, so "
    "that the same command resumes.",
    flag_values=values,
  )
  flags.DEFINE_string(
    "data_dir",
    os.environ.get("LRA_DATA_DIR"),
    "Folder of prepared data. Default: $LRA_DATA_DIR, or lra in the user's cache folder.",
    flag_values=values,
  )
  flags.DEFINE_string(
    "raw_dir",
    os.environ.get("LRA_RAW_DIR"),
    "Folder of your own raw data (archives as published, or unpacked). Default: $LRA_RAW_DIR.",
    flag_values=values,
  )
  flags.DEFINE_float(
    "max_seconds",
    None,
    "Stop cleanly after so many seconds, with a checkpoint to continue from.",
    lower_bound=0,
    flag_values=values,
  )
  return values


def parse(values: flags.FlagValues, argv: list[str]) -> None:
  """Parses argv; --help prints the flags and exits. Raises UserError for any mistake in it."""
  if {"--help", "-h"} & set(argv[1:]):
    print(sys.modules["__main__"].__doc__, values.module_help(__name__), sep="\n")
    sys.exit(0)
  try:
    rest = values(argv)
    config = values["config"].value
    if config is not None:
      config.keys()  # raises whatever kept the file from loading
  except Exception as error:  # a config file is code
    raise UserError(
      f"{_cause(error)} (--help lists the flags, configs/lra/base.py the keys)"
    ) from error
  if config is None:
    raise UserError("no --config; try --config configs/lra/listops_cosformer.py:quick")
  if len(rest) > 1:
    raise UserError(f"unexpected argument {rest[1]!r}; options start with --")
  if "model.attention" in (given := overrides(values)) and config.model.attention in ATTENTION:
    _follow(values, given)


def _follow(values: flags.FlagValues, given: Mapping[str, Any]) -> None:
  """Another mechanism than its file's has the options that its own file would set for it."""
  name, preset = recipe(values)
  config, task = values.config, name.rpartition("_")[0]
  if task not in RECIPES:  # a file of the user's
    return
  own = importlib.import_module(f"configs.lra.{task}").make(
    config.model.attention, preset or "default"
  )
  known = options(config.model.attention)
  for key, value in own.model.attention_options.items():
    if f"model.attention_options.{key}" not in given:
      config.model.attention_options[key] = value if key in known else None


def read(arguments: Sequence[str]) -> flags.FlagValues:
  """The flags of `train.py <arguments>` as that command would read them, typed in the repository."""
  values = define_flags(flags.FlagValues())
  before, sys.argv = sys.argv, ["train.py", *arguments]  # where config_flags looks for overrides
  try:
    with contextlib.chdir(Path(__file__).parents[2]):
      parse(values, sys.argv)
  finally:
    sys.argv = before
  return values


def overrides(values: flags.FlagValues) -> dict[str, Any]:
  """The config keys set on the command line, but for the seed, by name."""
  given = config_flags.get_override_values(values["config"])
  return {key: value for key, value in sorted(given.items()) if key != "seed"}


def recipe(values: flags.FlagValues) -> tuple[str, str]:
  """Name of the config file and of its preset, which is "" where none was typed."""
  name, _, preset = values["config"].config_filename.partition(":")
  return Path(name).stem, preset


def _cause(error: Exception) -> str:
  """What absl and ml_collections mean, in one line."""
  text = str(error)
  if near := re.search(r'Did you mean "(\w+)" instead of "(\w+)"', text):
    return f"no config key {near[2]!r}; did you mean {near[1]!r}?"
  if "Traceback" in text:  # of a config file that raised
    return f"{text.partition(': ')[0]}: {text.splitlines()[-1].partition(': ')[2]}"
  if isinstance(error, (KeyError, AttributeError)) and (key := re.fullmatch(r"\W*(\w+)\W*", text)):
    return f"no config key {key[1]!r}"
  if isinstance(error, OSError):
    text = text.splitlines()[-1]
  return " ".join(text.split())


def default_workdir(values: flags.FlagValues) -> Path:
  """runs/<recipe>[-<preset>][-<key>=<value> ...]-seed<seed>."""
  name, preset = recipe(values)
  parts = [name, *([preset] if preset else [])]
  parts += [f"{key}={value}" for key, value in overrides(values).items()]
  text = re.sub(r"[^\w.=+-]+", "_", "-".join(parts))
  if len(text) > 160:  # file names have 255 bytes at most
    text = f"{text[:140]}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"
  return Path("runs") / f"{text}-seed{values.config.seed}"


def default_data_dir() -> Path:
  """lra in the user's cache folder."""
  return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lra"


def build_model(config: ConfigDict, task: Task, longest: int) -> Any:
  """The model of `config.model`. Raises UserError for an impossible one."""
  model = config.model.to_dict()
  dtype = devices.activation_dtype(model.pop("dtype"))
  fixed = model["attention_options"]["length"]
  if fixed is not None and fixed < longest + model["cls"]:
    raise UserError(
      f"config.model.attention_options.length {fixed} is less than the {longest + model['cls']} "
      "positions of the longest input"
    )
  try:
    built = heads.build(
      model,
      vocab_size=task.vocab_size,
      num_classes=task.num_classes,
      max_length=longest,
      dtype=dtype,
    )
    inputs = (
      jnp.zeros((1, task.streams, longest), jnp.int32),
      jnp.ones((1, task.streams), jnp.int32),
    )
    jax.eval_shape(lambda key: built.init(key, *inputs, train=False), jax.random.key(0))
  except (KeyError, TypeError, ValueError) as error:
    raise UserError(f"config.model: {error.args[0]}") from error
  return built


def check_training(config: ConfigDict, devices_count: int) -> None:
  """Raises UserError for numbers that cannot work."""
  for section, key in (
    ("train", "steps"),
    ("train", "batch_size"),
    ("train", "eval_batch_size"),
    ("train", "eval_every"),
    ("train", "log_every"),
    ("train", "steps_per_dispatch"),
    ("train", "plateau_steps"),
    ("data", "buckets"),
    ("data", "bucket_multiple"),
  ):
    if config[section][key] < 1:
      raise UserError(f"config.{section}.{key} must be at least 1, not {config[section][key]}")
  for name, seed in (("seed", config.seed), ("task.seed", config.task.get("seed", 0))):
    if seed < 0:
      raise UserError(f"config.{name} must be at least 0, not {seed}")
  for key in ("batch_size", "eval_batch_size"):
    if config.train[key] % devices_count:
      raise UserError(
        f"config.train.{key} {config.train[key]} is not a multiple of the {devices_count} devices"
      )
  if config.train.select not in ("best", "last"):
    raise UserError(f"config.train.select is 'best' or 'last', not {config.train.select!r}")
