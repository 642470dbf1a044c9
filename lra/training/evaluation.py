"""Exact evaluation: every example of a split once, whatever the batch size or device count."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from lra.data.batches import Batch, Split, evaluation_plan
from lra.system import devices
from lra.training import memory, objectives, parts
from lra.training.objectives import Objective, Scores
from lra.training.step import Metrics, metrics_of


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
    self._compiled: dict[int, Any] = {}

  def __call__(self, params: Any) -> dict[str, float]:
    """{"loss", "accuracy"}: means over all examples of the split.

    Over tokens, means over all that are predicted, with "bits_per_token", "perplexity" and how many
    "tokens" they are.
    """
    found = (
      self._program(dispatch.length, params, arrays)(params, arrays)
      for dispatch in self._plan
      for arrays in [self._split.arrays(dispatch, 1)]
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

  def memory(self, params: Any) -> tuple[int, int]:
    """Bytes on each device, for data and for work, that the longest batch takes beside `params`."""
    longest = max(self._plan, key=lambda dispatch: dispatch.length)
    program = self._program(longest.length, params, self._split.arrays(longest, 1))
    return memory.taken(program, params)

  def _program(self, length: int, params: Any, arrays: Any) -> Any:
    if length not in self._compiled:
      function: Any = self._functions[length]
      self._compiled[length] = function.lower(params, arrays).compile()
    return self._compiled[length]


def make_eval(
  model: Any, split: Split, length: int, objective: Objective = objectives.CLASSIFY
) -> Callable[..., Metrics]:
  """evaluate(params, arrays): metrics of the first batch of `arrays`, padding examples left out."""

  def evaluate(params: Any, arrays: Any) -> Metrics:
    apply = functools.partial(model.apply, {"params": params}, train=False)

    def scores_of(part: Batch) -> Scores:
      return objective.scores(apply, part, objectives.evaluation_key())

    batch = split.batch(arrays, jnp.int32(0), length)
    b, s, n = batch.ids.shape
    count = parts.cache_parts(b, s, n, split.mesh.size)
    if count == 1:
      scores = scores_of(batch)
    else:
      scores = parts.join(lax.map(scores_of, parts.split(batch, count)))
    real = batch.weights > 0
    if scores.counted is not None:
      real = scores.counted & real.reshape(-1, *[1] * (scores.loss.ndim - 1))
    return metrics_of(scores, real)

  return devices.jit(evaluate)
