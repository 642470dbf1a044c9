"""The result of a finished run: the content of result.json."""

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from lra.data.store import Store
from lra.runs import environment
from lra.system.errors import UserError
from lra.system.progress import Clock
from lra.training.step import Best, State


def make(
  config: ConfigDict,
  state: State,
  data: Store,
  best: Best,
  *,
  test: Mapping[str, float],
  restarts: int,
  baselines: Mapping[str, float],
  baseline_bits: Mapping[str, float],
  metrics: Sequence[Mapping[str, float]],
  clock: Clock,
  parent: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
  """The content of result.json; accuracies in [0, 1], times in seconds (pauses: the last session's).

  baseline_bits: of objectives over tokens, bits a token of each baseline.
  parent: the run that this one started from, as lra.runs.parent_run has it.
  """
  return {
    "task": config.task.name,
    "objective": config.train.objective,
    "attention": config.model.attention,
    "seed": config.seed,
    "test": dict(test),
    "validation": {**_selected(best, metrics), "step": int(best.step)},
    "plateau": config.train.objective == "classify" and plateau(best, data),
    "restarts": restarts,
    "baselines": dict(baselines),
    **({"baseline_bits": dict(baseline_bits)} if baseline_bits else {}),
    **({"parent": dict(parent)} if parent else {}),
    "steps": int(state.step),
    "parameters": parameter_count(state),
    "data": {"origin": data.manifest["source"]["origin"], "digest": data.digest},
    "time": {"seconds": clock.run, **rates(metrics), **clock.pauses},
    "peak_memory_gigabytes": environment.peak_memory_gigabytes(metrics),
  }


def _selected(best: Best, metrics: Sequence[Mapping[str, float]]) -> dict[str, float]:
  """The validation figures of the parameters that were tested."""
  at = int(best.step)
  line = next(m for m in reversed(metrics) if m["step"] == at and "validation/accuracy" in m)
  names = ("accuracy", "loss", "bits_per_token", "perplexity")
  names = names if "validation/bits_per_token" in line else names[:1]
  return {name: line[f"validation/{name}"] for name in names}


def plateau(best: Best, data: Store) -> bool:
  """Whether the validation accuracy is within three standard errors of the commonest label's share."""
  labels = data.manifest["splits"]["validation"]["labels"]
  share = max(labels) / sum(labels)
  return float(best.score) <= share + 3 * (share * (1 - share) / sum(labels)) ** 0.5


def parameter_count(state: State) -> int:
  """How many parameters the model has."""
  return sum(p.size for p in jax.tree.leaves(state.params))


def check_parent(result: Mapping[str, Any], init_from: Path | None, folder: Path) -> None:
  """Raises UserError if the finished run in `folder` started from another run than `init_from`."""
  there, here = result.get("parent", {}).get("run"), init_from and init_from.resolve().name
  if there != here:
    raise UserError(
      f"{folder} holds a run that started from {there or 'fresh parameters'}, not from "
      f"{here or 'fresh parameters'}; choose another --workdir"
    )


def rates(metrics: Sequence[Mapping[str, float]]) -> dict[str, float]:
  """Median rates over log lines."""
  lines = [line for line in metrics if "time/examples_per_second" in line]
  return {
    name: statistics.median(line[f"time/{name}"] for line in lines)
    for name in ("examples_per_second", "tokens_per_second")
    if lines
  }
