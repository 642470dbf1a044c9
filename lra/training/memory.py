"""The memory that a training step takes, known from its compiled program before it runs."""

from typing import Any, NamedTuple

import jax

from lra.system.errors import UserError


class Need(NamedTuple):
  """Bytes on each device."""

  state: int  # parameters, moments and the best parameters so far
  data: int  # splits that live there, and the batches of a dispatch
  work: int  # activations, gradients and whatever else the step makes and drops

  @property
  def total(self) -> int:
    return self.state + self.data + self.work


def needed(program: Any, state: Any) -> Need:
  """Of a compiled step whose arguments are `state`, which has `params`, and data."""
  found = program.memory_analysis()
  size = lambda tree: sum(x.nbytes for x in jax.tree.leaves(tree))
  output = found.output_size_in_bytes - found.alias_size_in_bytes
  return Need(
    state=size(state) + size(state.params),
    data=max(0, found.argument_size_in_bytes - size(state)),
    work=found.temp_size_in_bytes + max(0, output),
  )


def check(need: Need, limit: int | None, length: int, parts: int) -> str:
  """What a step takes, in words; `limit` is what a device has, None if it does not say.

  length: of the longest batch. parts: `train.accumulate`. Raises UserError, with the key to change,
  for more than there is.
  """
  text = (
    f"{_size(need.total)} on each device for batches padded to {length:,} (state {_size(need.state)}, "
    f"data {_size(need.data)}, step {_size(need.work)})"
  )
  if limit is None or need.total <= limit:
    return f"memory: {text}" + (f", which has {_size(limit)}" if limit else "")
  largest = max(need._fields, key=lambda name: getattr(need, name))
  fix = {
    "state": "lower config.model.num_layers, emb_dim or mlp_dim",
    "data": "lower config.data.device_gigabytes",
    "work": f"raise config.train.accumulate, now {parts}, or lower config.train.batch_size",
  }[largest]
  raise UserError(f"this run takes {text}, which has {_size(limit)}: {fix}")


def _size(count: int) -> str:
  return f"{count / 1e9:.2f} GB" if count >= 1e8 else f"{count / 1e6:.1f} MB"
