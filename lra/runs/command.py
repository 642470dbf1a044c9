"""Command lines: flags of train.py, their parsing, default folders, overrides; parsers of scripts."""

import argparse
import contextlib
import hashlib
import os
import re
import sys
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import flags
from flax.traverse_util import flatten_dict
from ml_collections import ConfigDict, config_flags

from configs.lra.base import TASKS, load, recipe_path
from lra.system.errors import UserError
from models.attention import ATTENTION, options

TEXTS = {  # flags of train.py that are texts: default, help
  "workdir": (
    None,
    "Folder of the run. Default: runs/ and a name made of recipe, preset, overrides and seed, so "
    "that the same command resumes.",
  ),
  "data_dir": (
    os.environ.get("LRA_DATA_DIR"),
    "Folder of prepared data. Default: $LRA_DATA_DIR, or lra in the user's cache folder.",
  ),
  "raw_dir": (
    os.environ.get("LRA_RAW_DIR"),
    "Folder of your own raw data (archives as published, or unpacked). Default: $LRA_RAW_DIR.",
  ),
  "init_from": (
    None,
    "Folder of a finished run whose encoder this one starts from, with a fresh head: masked or next "
    "(--config.train.objective) first, then the task.",
  ),
}


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
  for name, (default, about) in TEXTS.items():
    flags.DEFINE_string(name, default, about, flag_values=values)
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
    cause = textwrap.shorten(_cause(error, argv), 500)
    raise UserError(f"{cause} (--help lists the flags, configs/lra/base.py the keys)") from error
  if config is None:
    raise UserError("no --config; try --config configs/lra/listops_cosformer.py:quick")
  if len(rest) > 1:
    raise UserError(f"unexpected argument {rest[1]!r}; options start with --")
  given = config_flags.get_override_values(values["config"])
  if "model.attention" in given and config.model.attention in ATTENTION:
    _follow(values, given)


def _follow(values: flags.FlagValues, given: Mapping[str, Any]) -> None:
  """Gives another mechanism than the file's the options that its own file would set for it."""
  config = values.config
  if (own := _own(values, config.model.attention)) is None:
    return
  known = options(config.model.attention)
  for key, value in own.model.attention_options.items():
    if f"model.attention_options.{key}" not in given:
      config.model.attention_options[key] = value if key in known else None


def _own(values: flags.FlagValues, attention: str) -> ConfigDict | None:
  """The config of the recipe named, for a mechanism; None for a file of the user's."""
  (name, preset), files = recipe(values), {Path(recipe_path(task)).name: task for task in TASKS}
  file = files.get(name.rpartition("_")[0])
  return load(file, attention, preset or "default") if file and attention in ATTENTION else None


def read(arguments: Sequence[str]) -> flags.FlagValues:
  """The flags of `train.py <arguments>`, as that command reads them in the repository."""
  values = define_flags(flags.FlagValues())
  before, sys.argv = sys.argv, ["train.py", *arguments]  # where config_flags looks for overrides
  try:
    with contextlib.chdir(Path(__file__).parents[2]):
      parse(values, sys.argv)
  finally:
    sys.argv = before
  return values


def overrides(values: flags.FlagValues) -> dict[str, Any]:
  """The config keys set on the command line to other values than the recipe's, but for the seed."""
  given = config_flags.get_override_values(values["config"])
  attention = recipe(values)[0].rpartition("_")[2]
  own = {} if (file := _own(values, attention)) is None else flatten_dict(file.to_dict(), sep=".")
  return {k: v for k, v in sorted(given.items()) if k != "seed" and own.get(k, ...) != v}


def recipe(values: flags.FlagValues) -> tuple[str, str]:
  """Name of the config file and of its preset, which is "" where none was typed."""
  config: Any = values["config"]  # a flag of ml_collections
  name, _, preset = config.config_filename.partition(":")
  return Path(name).stem, preset


def _cause(error: Exception, argv: Sequence[str]) -> str:
  """The cause of an error of absl or ml_collections in parsing argv, in one line."""
  text = str(error)
  if near := re.search(r'Did you mean "(\w+)" instead of "(\w+)"', text):
    return f"no config key {near[2]!r}; did you mean {near[1]!r}?"
  if "Traceback" in text:  # of a config file that raised
    return f"{text.partition(': ')[0]}: {text.splitlines()[-1].partition(': ')[2]}"
  if isinstance(error, (KeyError, AttributeError)) and (key := re.fullmatch(r"\W*(\w+)\W*", text)):
    typed = re.search(rf"--config\.([\w.]*\b{key[1]})(?![\w.])", " ".join(argv))
    return f"no config key {(typed or key)[1]!r}"
  if isinstance(error, OSError):
    text = text.splitlines()[-1]
    text += f" in {Path.cwd()}" if "No such file" in text else ""
  return " ".join(text.split())


def default_workdir(values: flags.FlagValues) -> Path:
  """runs/<recipe>[-<preset>][-<key>=<value> ...][-init_from=<run>]-seed<seed>."""
  name, preset = recipe(values)
  parts = [name, *([preset] if preset else [])]
  parts += [f"{key}={value}" for key, value in overrides(values).items()]
  if values.init_from:
    parts.append(f"init_from={Path(values.init_from).resolve().name}")
  text = re.sub(r"[^\w.=+-]+", "_", "-".join(parts))
  if len(text) > 160:  # file names have 255 bytes at most
    text = f"{text[:140]}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"
  return Path("runs") / f"{text}-seed{values.config.seed}"


def parser(doc: str, **options: Any) -> argparse.ArgumentParser:
  """The parser of a script, whose docstring is its help."""
  form = argparse.RawDescriptionHelpFormatter
  return argparse.ArgumentParser(description=doc, formatter_class=form, **options)


def add_folders(made: argparse.ArgumentParser) -> None:
  """Adds the options that `folders` reads, as train.py has them."""
  for name in ("data_dir", "raw_dir"):
    made.add_argument(f"--{name}", default=TEXTS[name][0], help=TEXTS[name][1])


def folders(given: Any) -> dict[str, Path | None]:
  """data_dir, by default lra in the user's cache folder, and raw_dir, None where none is given."""
  return {"data_dir": folder(given.data_dir) or _cache(), "raw_dir": folder(given.raw_dir)}


def folder(given: str | None) -> Path | None:
  """A folder as it was typed, or None. Raises UserError where its ~ is nobody's home."""
  try:
    return Path(given).expanduser() if given else None
  except RuntimeError:
    raise UserError(f"{given}: there is no such home folder; write the path in full") from None


def _cache() -> Path:
  try:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lra"
  except RuntimeError:
    raise UserError(
      "this user has no home folder to keep data in; choose one with --data_dir or $LRA_DATA_DIR"
    ) from None
