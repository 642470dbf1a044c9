"""The range of every numeric key, whatever the other keys are. A key without one fails the tests."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

_COUNT = "[1, 2_000_000_000]"  # steps and examples are int32 on the device
_SEED = "[0, 4_294_967_295]"
_WIDTH = "[1, 65_536]"
_SECONDS = "[0, 1e9]"
RANGES = {
  "seed": _SEED,
  "task.min_length": "[0, 1_000_000]",
  "task.max_length": "[1, 1_000_000]",
  "task.max_depth": "[1, 100]",
  "task.max_args": "[2, 1000]",
  "task.train": _COUNT,
  "task.validation": _COUNT,
  "task.test": _COUNT,
  "task.seed": _SEED,
  "task.validation_examples": "[0, 2_000_000_000]",
  "task.held_out": "(0, 0.5)",
  "task.resolution": "[1, 1024]",
  "model.attention_options.length": "[1, 2_000_000_000]",
  "model.attention_options.dropout": "[0, 1)",
  "model.convolution": "[0, 9]",
  "model.num_layers": "[1, 1000]",
  "model.num_heads": _WIDTH,
  "model.emb_dim": _WIDTH,
  "model.embedding_std": "[0, 1000]",
  "model.qkv_dim": _WIDTH,
  "model.mlp_dim": _WIDTH,
  "model.dropout": "[0, 1)",
  "optim.learning_rate": "(0, 1000]",
  "optim.warmup_steps": _COUNT,
  "optim.cycle_steps": "[0, 2_000_000_000]",
  "optim.beta1": "[0, 1)",
  "optim.beta2": "[0, 1)",
  "optim.eps": "(0, 1]",
  "optim.weight_decay": "[0, 1000]",
  "optim.clip_norm": "[0, 1e9]",
  "train.mask_share": "(0, 1)",
  "train.steps": _COUNT,
  "train.batch_size": "[1, 1_000_000]",
  "train.accumulate": "[0, 1_000_000]",
  "train.eval_batch_size": "[1, 1_000_000]",
  "train.eval_every": _COUNT,
  "train.log_every": _COUNT,
  "train.steps_per_dispatch": "[1, 10_000]",
  "train.plateau_steps": _COUNT,
  "train.restarts": "[0, 1000]",
  "train.checkpoint_seconds": _SECONDS,
  "data.buckets": "[1, 1000]",
  "data.bucket_multiple": "[1, 65_536]",
  "data.device_gigabytes": "[0, 1e6]",
}


def check(config: Mapping[str, Any]) -> None:
  """Raises ValueError, in one line, for the first number of `config` that is out of its range."""
  for key, value in numbers(config):
    if key in RANGES and (wrong := _wrong(value, RANGES[key])):
      raise ValueError(f"config.{key} must be {wrong}, not {value}")


def numbers(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, int | float]]:
  """(key, value) of every number in `config`; of a section the keys are joined by dots."""
  for key, value in config.items():
    if hasattr(value, "items"):
      yield from numbers(value, f"{prefix}{key}.")
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
      yield prefix + key, value


def _wrong(value: int | float, interval: str) -> str:
  """What `value` would have to be to lie in "[low, high]", or ")" without its end; "" if it does."""
  low, high = interval[1:-1].split(", ")
  if value != value or abs(value) == math.inf:
    return "a finite number"
  if value < float(low) or (value == float(low) and interval[0] == "("):
    return f"{'at least' if interval[0] == '[' else 'more than'} {low}"
  if value > float(high) or (value == float(high) and interval[-1] == ")"):
    return f"{'at most' if interval[-1] == ']' else 'less than'} {high.replace('_', ',')}"
  return ""
