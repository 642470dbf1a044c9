"""The memory that training and evaluation take, known from compiled programs before they run."""

from typing import Any, NamedTuple

import jax

from lra.system.errors import UserError


class Need(NamedTuple):
  """Bytes on each device."""

  state: int  # parameters, moments and the best parameters so far
  data: int  # splits that live there, and the batches of a dispatch and of an evaluation
  work: int  # activations, gradients and whatever else the step makes and drops
  evaluation: int = 0  # what an evaluation makes and drops, at another time

  @property
  def total(self) -> int:
    return self.state + self.data + max(self.work, self.evaluation)


def size(tree: Any) -> int:
  """Bytes of all arrays of a tree."""
  return sum(x.nbytes for x in jax.tree.leaves(tree))


def taken(program: Any, kept: Any) -> tuple[int, int]:
  """Bytes of data and of work of a compiled program whose arguments are `kept` and data."""
  found = program.memory_analysis()
  output = found.output_size_in_bytes - found.alias_size_in_bytes
  data = max(0, found.argument_size_in_bytes - size(kept))
  return data, found.temp_size_in_bytes + max(0, output)


def check(need: Need, limit: int | None, length: int, parts: int) -> str:
  """What a run takes, in words; `limit` is what a device has, None if it does not say.

  length: of the longest batch. parts: `train.accumulate`. Raises UserError, with the key to change,
  for more than there is.
  """
  text = (
    f"{_size(need.total)} on each device for batches padded to {length:,} (state {_size(need.state)}, "
    f"data {_size(need.data)}, step {_size(need.work)}, evaluation {_size(need.evaluation)})"
  )
  if limit is None or need.total <= limit:
    return f"memory: {text}" + (f", which has {_size(limit)}" if limit else "")
  largest = max(need._fields, key=lambda name: getattr(need, name))
  fix = {
    "state": "lower config.model.num_layers, emb_dim or mlp_dim",
    "data": "lower config.data.device_gigabytes",
    "evaluation": "lower config.train.eval_batch_size",
    "work": f"raise config.train.accumulate, now {parts}, or lower config.train.batch_size",
  }[largest]
  raise UserError(f"this run takes {text}, which has {_size(limit)}: {fix}")


def _size(count: int) -> str:
  return f"{count / 1e9:.2f} GB" if count >= 1e8 else f"{count / 1e6:.1f} MB"
