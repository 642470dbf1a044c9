"""The run that another one starts from: its best encoder, under a fresh head."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import traverse_util
from ml_collections import ConfigDict

from lra.runs import run_directory, trained_run
from lra.system import devices
from lra.system.errors import UserError

# Keys of config.model that may differ: they change no function of the encoder's parameters, or only
# how an input is read and how the encoder is trained.
FREE = (
  *("pooling", "interaction", "dropout", "embedding_std", "dtype"),
  *(f"attention_options.{name}" for name in ("length", "dropout", "lra_padding")),
)
ONLY_HERE = ("mask_token",)  # arrays of an encoder that depend on the objective


class Parent(NamedTuple):
  """Parameters to start from, and what a record says of them."""

  params: Mapping[str, Any]
  # run, digest (of all its best parameters), task, data (values of config.task that differ there),
  # objective, step, steps; and, if it started from another run itself, the same of that one as parent
  record: dict[str, Any]


class Start(NamedTuple):
  """Parameters of a new run, and the names of arrays, by where they came from."""

  params: Mapping[str, Any]
  taken: list[str]
  fresh: list[str]
  left: list[str]  # of the parent's


def load(folder: Path, config: ConfigDict) -> Parent:
  """The best parameters of a finished run, for a run of `config`.

  Raises UserError if it is not there or unfinished, or if its encoder is another one.
  """
  if not (folder / "config.json").exists():
    raise UserError(
      f"--init_from {folder} is not a run: it has no config.json; train it there first"
    )
  result = run_directory.read_result(folder)
  if result is None:
    raise UserError(f"--init_from {folder}: it is not finished; the same train.py continues it")
  there, _, best, _ = trained_run.load_best(folder)
  old, new = (traverse_util.flatten_dict(c.model.to_dict(), sep=".") for c in (there, config))
  if different := [
    f"config.model.{key}: there {old.get(key)!r}, here {new[key]!r}"
    for key in new
    if key not in FREE and old.get(key) != new[key]
  ]:
    raise UserError(
      f"--init_from {folder}: its encoder is another one ({'; '.join(different)}); set these keys as "
      "they are there"
    )
  record = {
    "run": folder.resolve().name,
    "digest": digest(best.params),
    "task": there.task.name,
    "data": {
      key: value
      for key, value in there.task.items()
      if there.task.name == config.task.name and value != config.task.get(key)
    },
    "objective": there.train.objective,
    "step": result["validation"]["step"],
    "steps": result["steps"],
    **({"parent": result["parent"]} if "parent" in result else {}),
  }
  return Parent(jax.device_get(best.params), record)


def start(parent: Parent, params: Mapping[str, Any]) -> Start:
  """The fresh `params` with the parent's encoder. Raises UserError where the shapes differ."""
  old, new = (traverse_util.flatten_dict(tree, sep="/") for tree in (parent.params, params))
  encoder = [name for name in new if name.startswith("encoder/")]
  taken = [name for name in encoder if name in old]
  wrong = [
    f"{name}: there {_shape(old.get(name))}, here {_shape(new[name])}"
    for name in encoder
    if _shape(old.get(name)) != _shape(new[name]) and not name.endswith(ONLY_HERE)
  ]
  if wrong:
    more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
    raise UserError(
      f"--init_from {parent.record['run']}: its encoder does not fit ({'; '.join(wrong[:3])}{more}); "
      "vocabulary, sizes and learned positions have to be the same"
    )
  put = lambda name: devices.put(old[name], new[name].sharding)
  merged = {name: put(name) if name in taken else new[name] for name in new}
  fresh, left = ([n for n in names if n not in taken] for names in (new, old))
  return Start(traverse_util.unflatten_dict(merged, sep="/"), taken, fresh, left)


def describe(parent: Parent, made: Start) -> str:
  """What was taken and what was not, in one line."""
  record = parent.record
  short = lambda names: ", ".join(dict.fromkeys(n.rpartition("/")[0] or n for n in names)) or "none"
  return (
    f"start: {len(made.taken)} arrays of the encoder of {record['run']} ({record['objective']} on "
    f"{record['task']}, step {record['step']:,}, {record['digest'][:12]}); fresh here: "
    f"{short(made.fresh)}; not taken: {short(made.left)}"
  )


def digest(params: Mapping[str, Any]) -> str:
  """SHA-256 of all arrays with their names and shapes."""
  whole = hashlib.sha256()
  for name, value in sorted(traverse_util.flatten_dict(params, sep="/").items()):
    array = np.asarray(value)
    whole.update(f"{name} {array.dtype} {array.shape}\n".encode())
    whole.update(np.ascontiguousarray(array).tobytes())
  return whole.hexdigest()


def _shape(x: Any) -> str:
  return "nothing" if x is None else " x ".join(map(str, x.shape))
