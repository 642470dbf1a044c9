"""Exact evaluation: every example of a split once, whatever the batch size or device count."""

from typing import Any

import jax

from lra.data.batches import Split, evaluation_plan
from lra.training.step import Metrics, make_eval


class Evaluator:
  """Evaluates one split: its plan of batches, and a compiled function for each bucket."""

  def __init__(self, model: Any, split: Split, buckets: tuple[int, ...], batch_size: int) -> None:
    self._plan = evaluation_plan(split.lengths, buckets, batch_size)
    self._split = split
    self._functions = {length: make_eval(model, split, length) for length in buckets}

  def __call__(self, params: Any) -> dict[str, float]:
    """{"loss", "accuracy"}: means over all examples of the split."""
    total = Metrics.empty()
    for dispatch in self._plan:
      metrics = self._functions[dispatch.length](params, self._split.arrays(dispatch, 1))
      total = total.merge(metrics)
    return {name: float(value) for name, value in jax.device_get(total.compute()).items()}
