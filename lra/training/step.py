"""The training step: state, metrics, and one jitted function that advances several steps."""

import functools
from collections.abc import Callable
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
from lra.training import memory


@flax.struct.dataclass
class Metrics(metrics.Collection):
  """Means over real examples."""

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


def report(window: Window, learning_rate: jax.Array, seconds: float) -> dict[str, float]:
  """Means over a window by their names in metrics.jsonl; `seconds` of training it took."""
  window = jax.device_get(window)
  means = {f"train/{name}": float(value) for name, value in window.metrics.compute().items()}
  examples = float(window.metrics.loss.count)
  return means | {
    "train/learning_rate": float(learning_rate),
    "train/real_token_share": float(window.real_tokens / window.all_tokens),
    "time/seconds": seconds,
    "time/examples_per_second": examples / seconds,
    "time/tokens_per_second": float(window.real_tokens) / seconds,
  }


def cross_entropy(logits: jax.Array, batch: Batch) -> tuple[jax.Array, jax.Array]:
  """Loss and correctness of every example, float32 [b]."""
  loss = optax.softmax_cross_entropy_with_integer_labels(logits, batch.labels)
  return loss, (logits.argmax(-1) == batch.labels).astype(jnp.float32)


@flax.struct.dataclass
class Best:
  """The parameters to test: those of the best validation accuracy so far."""

  params: Any
  accuracy: jax.Array  # float32, -1 before the first evaluation
  step: jax.Array  # int32

  @classmethod
  def of(cls, state: State, accuracy: float) -> "Best":
    """A copy, since `state` is donated to the next step."""
    return cls(jax.tree.map(jnp.copy, state.params), jnp.float32(accuracy), jnp.copy(state.step))


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
  ) -> None:
    """run: batches a dispatch at most. key: of dropout, folded with the number of each step.

    accumulate: parts that a batch is worked through in, one after the other; 0: `cache_parts`.
    """
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
    return memory.needed(self._compiled[length], state)

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
    grads, loss, correct = self._gradients(state.params, batch, key)
    updates, opt_state = self._optimizer.update(grads, state.opt_state, state.params)
    window = state.window
    bad = (window.first_bad < 0) & ~jnp.isfinite(loss.sum())
    window = Window(
      metrics=window.metrics.merge(Metrics.single_from_model_output(loss=loss, correct=correct)),
      real_tokens=window.real_tokens + batch.lengths.sum().astype(jnp.float32),
      all_tokens=window.all_tokens + batch.ids.size,
      first_bad=jnp.where(bad, state.step, window.first_bad),
    )
    params = optax.apply_updates(state.params, updates)
    return State(state.step + 1, params, opt_state, window)

  def _gradients(
    self, params: Any, batch: Batch, key: jax.Array
  ) -> tuple[Any, jax.Array, jax.Array]:
    """Gradient of the mean loss, loss [b], correctness [b]: sums over parts of the batch."""

    def loss_fn(params: Any, part: Batch, key: jax.Array) -> tuple[jax.Array, Any]:
      logits = self._model.apply(
        {"params": params},
        *(part.ids, part.lengths, part.positions),
        train=True,
        rngs={"dropout": key},
      )
      loss, correct = cross_entropy(logits, part)
      return loss.sum() / len(batch.labels), (loss, correct)

    def add(grads: Any, i_part: tuple[jax.Array, Batch]) -> tuple[Any, Any]:
      i, part = i_part
      more, measured = jax.grad(loss_fn, has_aux=True)(params, part, jax.random.fold_in(key, i))
      return jax.tree.map(jnp.add, grads, more), measured

    count = self._parts or cache_parts(*batch.ids.shape, self._mesh_size)
    if count == 1:
      grads, (loss, correct) = jax.grad(loss_fn, has_aux=True)(params, batch, key)
      return grads, loss, correct
    parts = jax.tree.map(lambda x: split_parts(x, count), batch)
    zero = jax.tree.map(jnp.zeros_like, params)
    grads, measured = lax.scan(add, zero, (jnp.arange(count), parts))
    loss, correct = (x.swapaxes(0, 1).ravel() for x in measured)
    return grads, loss, correct


CACHE_TOKENS = 1024  # activations of so many, a few hundred wide, stay in the cache of a CPU core


def cache_parts(b: int, s: int, n: int, devices_count: int) -> int:
  """Into how many parts to cut a batch [b s n]: on a CPU about CACHE_TOKENS each, elsewhere 1.

  A step of two layers of width 64 takes 0.55 of the time at b = 32, n = 1024 (one core).
  """
  if jax.default_backend() != "cpu":
    return 1
  each = b // devices_count  # a device's share
  return next(
    a
    for a in range(1, each + 1)
    if each % a == 0 and (a == each or each // a * s * n <= CACHE_TOKENS)
  )


def split_parts(x: jax.Array, count: int) -> jax.Array:
  """[b ...] -> [count b/count ...], every part spread over the devices as the batch is."""
  return jnp.moveaxis(x.reshape(-1, count, *x.shape[1:]), 1, 0)


def make_eval(model: Any, split: Split, length: int) -> Callable[..., Metrics]:
  """evaluate(params, arrays): metrics of the first batch of `arrays`, padding examples left out."""

  def evaluate(params: Any, arrays: Any) -> Metrics:
    batch = split.batch(arrays, jnp.int32(0), length)
    logits = model.apply({"params": params}, batch.ids, batch.lengths, batch.positions, train=False)
    loss, correct = cross_entropy(logits, batch)
    return Metrics.single_from_model_output(loss=loss, correct=correct, mask=batch.weights > 0)

  return devices.jit(evaluate)
