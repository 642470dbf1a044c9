"""The training step: state, metrics, and one jitted function that advances several steps."""

import functools
import math
from collections.abc import Mapping
from typing import Any

import flax
import jax
import jax.numpy as jnp
import numpy as np
import optax
from clu import metrics
from jax import lax

from lra.data.batches import Batch, Dispatch, Split
from lra.system import devices
from lra.system.progress import Clock
from lra.training import memory, objectives, parts
from lra.training.objectives import Objective, Scores, in_bits


@flax.struct.dataclass
class Metrics(metrics.Collection):
  """Means over real examples, or over what is predicted of their tokens."""

  loss: metrics.Average.from_output("loss")
  accuracy: metrics.Average.from_output("correct")


@flax.struct.dataclass
class Window:
  """Running sums since the last log line."""

  metrics: Metrics
  real_tokens: jax.Array  # float32: tokens of real examples ...
  all_tokens: jax.Array  # ... and with padding, for the share of work that is not wasted
  first_bad: jax.Array  # int32: first step whose loss was not finite, or -1

  @classmethod
  def empty(cls) -> "Window":
    zero = jnp.zeros((), jnp.float32)
    return cls(Metrics.empty(), zero, zero, -jnp.ones((), jnp.int32))


@flax.struct.dataclass
class State:
  """Training state: all that changes from step to step."""

  step: jax.Array  # int32: updates made
  params: Any
  opt_state: Any
  window: Window


def init(
  model: Any,
  optimizer: optax.GradientTransformation,
  key: jax.Array,
  streams: int,
  sharding: jax.sharding.Sharding,
) -> State:
  """The initial state, created with `sharding`."""

  def fresh(key: jax.Array) -> State:
    ids = jnp.zeros((1, streams, model.encoder.max_length), jnp.int32)
    params = model.init(key, ids, jnp.ones((1, streams), jnp.int32), train=False)["params"]
    return State(jnp.zeros((), jnp.int32), params, optimizer.init(params), Window.empty())

  return jax.jit(fresh, out_shardings=sharding)(key)


def report(
  window: Window,
  learning_rate: jax.Array,
  seconds: float,
  *,
  examples: int,
  earlier_tokens: float = 0.0,
  over_tokens: bool = False,
) -> dict[str, float]:
  """Means over a window, by their names in metrics.jsonl.

  seconds: of training that `examples` and all real tokens of the window but `earlier_tokens` took.
  over_tokens: the loss is a mean over tokens.
  """
  window = jax.device_get(window)
  means = {name: float(value) for name, value in window.metrics.compute().items()}
  means |= in_bits(means["loss"]) if over_tokens else {}
  return {f"train/{name}": value for name, value in means.items()} | {
    "train/learning_rate": float(learning_rate),
    "train/real_token_share": float(window.real_tokens / window.all_tokens),
    "time/seconds": seconds,
    "time/examples_per_second": examples / seconds,
    "time/tokens_per_second": (float(window.real_tokens) - earlier_tokens) / seconds,
  }


@flax.struct.dataclass
class Best:
  """The parameters to test: those of the best evaluation on validation so far."""

  params: Any
  score: jax.Array  # float32: what the objective selects by, -inf before the first evaluation
  step: jax.Array  # int32

  @classmethod
  def of(cls, state: State, score: float = -math.inf) -> "Best":
    """A copy, since `state` is donated to the next step."""
    return cls(jax.tree.map(jnp.copy, state.params), jnp.float32(score), jnp.copy(state.step))


def saved(state: State, best: Best, seconds: float) -> dict[str, Any]:
  """What a checkpoint holds; `accuracy` is what it calls the score."""
  kept = {"params": best.params, "accuracy": best.score, "step": best.step}
  return {"state": state, "best": kept, "seconds": jnp.float32(seconds)}


def restored(tree: Mapping[str, Any]) -> tuple[State, Best, float]:
  """The arguments of `saved`."""
  kept = tree["best"]
  best = Best(kept["params"], kept["accuracy"], kept["step"])
  return tree["state"], best, float(tree["seconds"])


class Trainer:
  """The training step, compiled once a bucket."""

  def __init__(
    self,
    model: Any,
    optimizer: optax.GradientTransformation,
    split: Split,
    *,
    key: jax.Array,
    run: int,
    sharding: jax.sharding.NamedSharding,
    clock: Clock,
    accumulate: int = 0,
    objective: Objective = objectives.CLASSIFY,
  ) -> None:
    """run: batches a dispatch at most.

    key: of dropout and of hidden tokens, folded with the number of each step.
    accumulate: parts that a batch is worked through in, one after the other; 0: `parts.cache_parts`.
    """
    self._objective = objective
    self._model, self._optimizer, self._split = model, optimizer, split
    self._key, self._run, self._sharding, self._clock = key, run, sharding, clock
    self._parts, self._mesh_size = accumulate, sharding.mesh.size
    self._compiled = {}

  def __call__(self, state: State, dispatch: Dispatch) -> tuple[State, jax.Array]:
    """The state after the batches of `dispatch`, and its step in a buffer that is never donated.

    The number of batches is traced, so one compilation serves a dispatch cut short. Consumes state.
    """
    arrays = self._split.arrays(dispatch, self._run)
    count = devices.put(np.int32(len(dispatch.examples)), self._sharding)
    if dispatch.length not in self._compiled:
      self._compile(state, arrays, count, dispatch.length)
    return self._compiled[dispatch.length](state, arrays, count)

  def memory(self, state: State, length: int, batch_size: int) -> memory.Need:
    """What the steps of batches padded to `length` take on each device."""
    nothing = Dispatch(length, np.full((1, batch_size), -1, np.int32))
    arrays = self._split.arrays(nothing, self._run)
    if length not in self._compiled:
      self._compile(state, arrays, devices.put(np.int32(1), self._sharding), length)
    data, work = memory.taken(self._compiled[length], state)
    return memory.Need(memory.size(state) + memory.size(state.params), data, work)

  def _compile(self, state: State, arrays: Any, count: jax.Array, length: int) -> None:
    jax.block_until_ready(state)
    with self._clock.pause("compilation"):
      function = functools.partial(self._advance, length=length)
      function = devices.jit(function, donate_argnums=0, out_shardings=self._sharding)
      self._compiled[length] = function.lower(state, arrays, count).compile()

  def _advance(
    self, state: State, arrays: Any, count: jax.Array, *, length: int
  ) -> tuple[State, jax.Array]:
    state = lax.fori_loop(
      0, count, lambda i, state: self._one(state, self._split.batch(arrays, i, length)), state
    )
    return state, state.step + 0

  def _one(self, state: State, batch: Batch) -> State:
    key = jax.random.fold_in(self._key, state.step)
    grads, scores = self._gradients(state.params, batch, key)
    updates, opt_state = self._optimizer.update(grads, state.opt_state, state.params)
    window = state.window
    bad = (window.first_bad < 0) & ~jnp.isfinite(scores.loss.sum())
    window = Window(
      metrics=window.metrics.merge(metrics_of(scores, scores.counted)),
      real_tokens=window.real_tokens + batch.lengths.sum().astype(jnp.float32),
      all_tokens=window.all_tokens + batch.ids.size,
      first_bad=jnp.where(bad, state.step, window.first_bad),
    )
    params = optax.apply_updates(state.params, updates)
    return State(state.step + 1, params, opt_state, window)

  def _gradients(self, params: Any, batch: Batch, key: jax.Array) -> tuple[Any, Scores]:
    """Gradient of the mean loss, and the scores: sums over parts of the batch."""
    choice = jax.random.fold_in(key, 1)  # of hidden tokens, which no cut into parts changes

    def loss_fn(params: Any, part: Batch, key: jax.Array) -> tuple[jax.Array, Scores]:
      apply = functools.partial(
        self._model.apply, {"params": params}, train=True, rngs={"dropout": key}
      )
      scores = self._objective.scores(apply, part, choice)
      if scores.counted is None:
        return scores.loss.sum() / len(batch.labels), scores
      return jnp.where(scores.counted, scores.loss, 0).sum(), scores

    def add(grads: Any, i_part: tuple[jax.Array, Batch]) -> tuple[Any, Scores]:
      i, part = i_part
      more, scores = jax.grad(loss_fn, has_aux=True)(params, part, jax.random.fold_in(key, i))
      return jax.tree.map(jnp.add, grads, more), scores

    b, s, n = batch.ids.shape
    count = self._parts or parts.cache_parts(b, s, n, self._mesh_size)
    if count == 1:
      grads, scores = jax.grad(loss_fn, has_aux=True)(params, batch, key)
    else:
      zero = jax.tree.map(jnp.zeros_like, params)
      each = (jnp.arange(count), parts.split(batch, count))
      grads, scores = lax.scan(add, zero, each)
      scores = parts.join(scores)
    if scores.counted is not None:  # how many there are is known when all parts are done
      grads = jax.tree.map(lambda g: g / jnp.maximum(scores.counted.sum(), 1), grads)
    return grads, scores


def metrics_of(scores: Scores, counted: jax.Array | None) -> Metrics:
  """Means over those that `counted` marks, [b] or [b s n]; None: all."""
  flat = {"loss": scores.loss.ravel(), "correct": scores.correct.ravel()}
  mask = None if counted is None else counted.ravel()
  return Metrics.single_from_model_output(**flat, mask=mask)
