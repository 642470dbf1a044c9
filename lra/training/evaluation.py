"""Exact evaluation: every example of a split once, whatever the batch size or device count."""

from typing import Any

import jax
import numpy as np

from lra.data.batches import Split, evaluation_plan
from lra.training import objectives
from lra.training.objectives import Objective
from lra.training.step import Metrics, make_eval


class Evaluator:
  """Evaluates one split: its plan of batches, and a compiled function for each bucket."""

  def __init__(
    self,
    model: Any,
    split: Split,
    buckets: tuple[int, ...],
    batch_size: int,
    objective: Objective = objectives.CLASSIFY,
  ) -> None:
    self._plan = evaluation_plan(split.lengths, buckets, batch_size)
    self._split, self._over_tokens = split, objective.over_tokens
    self._functions = {length: make_eval(model, split, length, objective) for length in buckets}

  def __call__(self, params: Any) -> dict[str, float]:
    """{"loss", "accuracy"}: means over all examples of the split.

    Over tokens, means over all that are predicted, with "bits_per_token", "perplexity" and how many
    "tokens" they are.
    """
    found = (
      self._functions[dispatch.length](params, self._split.arrays(dispatch, 1))
      for dispatch in self._plan
    )
    if not self._over_tokens:
      total = Metrics.empty()
      for metrics in found:
        total = total.merge(metrics)
      return {name: float(value) for name, value in jax.device_get(total.compute()).items()}
    found = jax.device_get(list(found))  # float32 does not count beyond 2**24
    tokens = sum(int(part.loss.count) for part in found)
    loss, accuracy = (
      sum(np.float64(getattr(part, name).total) for part in found) / max(tokens, 1)
      for name in ("loss", "accuracy")
    )
    measured = {"loss": float(loss), "accuracy": float(accuracy)}
    return measured | objectives.in_bits(measured["loss"]) | {"tokens": tokens}
