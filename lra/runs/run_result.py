"""The result of a finished run: the content of result.json."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import jax
from ml_collections import ConfigDict

from lra.data.store import Store
from lra.runs import environment
from lra.system.progress import Clock
from lra.training.step import Best, State


def make(
  config: ConfigDict,
  state: State,
  data: Store,
  *,
  test: Mapping[str, float],
  best: Best,
  restarts: int,
  baselines: Mapping[str, float],
  metrics: Sequence[Mapping[str, float]],
  clock: Clock,
) -> dict[str, Any]:
  """The content of result.json; accuracies in [0, 1], times in seconds (pauses: the last session's)."""
  return {
    "task": config.task.name,
    "attention": config.model.attention,
    "seed": config.seed,
    "test": dict(test),
    "validation": {"accuracy": float(best.accuracy), "step": int(best.step)},
    "plateau": plateau(best, data),
    "restarts": restarts,
    "baselines": dict(baselines),
    "steps": int(state.step),
    "parameters": parameter_count(state),
    "data": {"origin": data.manifest["source"]["origin"], "digest": data.digest},
    "time": {"seconds": clock.run, **rates(metrics), **clock.pauses},
    "peak_memory_gigabytes": environment.peak_memory_gigabytes(metrics),
  }


def plateau(best: Best, data: Store) -> bool:
  """Whether the validation accuracy is within three standard errors of the commonest label's share."""
  labels = data.manifest["splits"]["validation"]["labels"]
  share = max(labels) / sum(labels)
  return float(best.accuracy) <= share + 3 * (share * (1 - share) / sum(labels)) ** 0.5


def parameter_count(state: State) -> int:
  """How many parameters the model has."""
  return sum(p.size for p in jax.tree.leaves(state.params))


def rates(metrics: Sequence[Mapping[str, float]]) -> dict[str, float]:
  """Median rates over log lines."""
  lines = [line for line in metrics if "time/examples_per_second" in line]
  return {
    name: statistics.median(line[f"time/{name}"] for line in lines)
    for name in ("examples_per_second", "tokens_per_second")
    if lines
  }
