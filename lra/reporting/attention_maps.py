"""Attention maps: the dense attention matrices of a trained model for one example.

Queries and keys are caught on their way through the unchanged model and given to the `weights` of
its mechanism, with the mask, the options and the parameters that the mechanism itself got.
"""

import inspect
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from lra.data import batches
from lra.runs.trained_run import TrainedRun
from lra.system.errors import UserError
from models.attention import ATTENTION
from models.encoder import Encoder

CAUGHT = "intermediates"  # flax's name of what it captures
PIXELS = 256  # of a matrix in a picture, at most


class Call(NamedTuple):
  """Inputs of one attention layer."""

  encoder: Encoder
  q: Float[Array, "b n h d"]
  k: Float[Array, "b n h d"]
  given: Mapping[str, Any]  # to the mechanism beside them

  @property
  def mask(self) -> Bool[Array, "b n"]:
    """True: a real token."""
    return self.given["mask"]


class Layer(NamedTuple):
  """Attention maps of one layer; weights are in multiples of uniform attention."""

  index: int
  length: int  # real tokens, CLS included
  matrices: list[np.ndarray]  # [p p] a head: query down, key across, averaged in blocks
  distances: np.ndarray  # i - j
  profiles: list[np.ndarray]  # mean weight at each distance, a head
  plain: np.ndarray | None  # the same without re-weighting, over all heads; None without such


def example(
  trained: TrainedRun, split: str, number: int
) -> tuple[Int[Array, "1 s n"], Int[Array, "1 s"], int]:
  """Ids, lengths and label of an example, padded as in training. Raises UserError if there is none."""
  examples, config = trained.data.splits[split], trained.config
  if not 0 <= number < len(examples.labels):
    raise UserError(f"--example {number}: {split} has {len(examples.labels):,}, from 0")
  buckets = batches.choose_buckets(
    batches.example_lengths(trained.data.splits["train"]),
    trained.parts.longest,
    count=config.data.buckets if config.data.bucketing else 1,
    multiple=config.data.bucket_multiple,
  )
  documents = [
    examples.tokens[examples.offsets[d] : examples.offsets[d + 1]].astype(np.int32)
    for d in examples.documents[number]
  ]
  lengths = np.array([[len(d) for d in documents]], np.int32)
  width = min(b for b in buckets if b >= lengths.max())
  ids = [np.pad(d + trained.parts.task.id_offset, (0, width - len(d))) for d in documents]
  return jnp.asarray(np.array([ids]), jnp.int32), jnp.asarray(lengths), int(examples.labels[number])


def calls(model: Any, params: Any, ids: Array, lengths: Array) -> tuple[list[Call], Array]:
  """Inputs of every attention layer, first layer first, and the logits."""
  inputs = lambda module, method: module.name in ("query", "key") or method == "arguments"
  logits, caught = model.apply(
    {"params": params}, ids, lengths, train=False, capture_intermediates=inputs, mutable=CAUGHT
  )
  encoder, found = model.encoder, []
  for i in range(encoder.num_layers):
    layer = caught[CAUGHT]["encoder"][f"block{i}"]["attention"]
    given = dict(layer["arguments"][0])
    shape = *given["mask"].shape, encoder.num_heads, -1
    q, k = (layer[name]["__call__"][0].reshape(shape) for name in ("query", "key"))
    found.append(Call(encoder, q, k, given))
  return found, logits


def matrix(call: Call, document: int, head: int, **changes: Any) -> Float[np.ndarray, "n n"]:
  """The weights of one head for one of the sequences; `changes` of the mechanism's options."""
  mechanism = ATTENTION[call.encoder.attention]
  known = inspect.signature(mechanism.weights).parameters  # fewer than those of attend
  given = {name: value for name, value in call.given.items() if name in known} | changes
  for name in ("mask", "positions"):
    if given.get(name) is not None:
      given[name] = given[name][document : document + 1]
  if "parameters" in given:
    given["parameters"] = {name: x[head : head + 1] for name, x in given["parameters"].items()}
  q, k = (x[document : document + 1, :, head : head + 1] for x in (call.q, call.k))
  return np.asarray(mechanism.weights(q, k, **given)[0, 0])


def layer(call: Call, index: int, document: int, length: int) -> Layer:
  """A layer on the first `length` positions of a sequence: the real ones, CLS included."""
  real = np.asarray(call.mask[document, :length])
  reweighted = "reweight" in inspect.signature(ATTENTION[call.encoder.attention].weights).parameters
  reweighted &= call.encoder.attention_options.get("reweight", "cos") != "none"
  matrices, profiles, plain = [], [], []
  for head in range(call.encoder.num_heads):
    dense = matrix(call, document, head)[:length, :length] * real.sum()
    matrices.append(block_average(dense, PIXELS))
    profiles.append(distance_profile(dense, real))
    if reweighted:
      dense = matrix(call, document, head, reweight="none", frequencies="geometric")
      dense = dense[:length, :length] * real.sum()
      plain.append(distance_profile(dense, real))
  distances, *profiles = _binned(np.arange(1 - length, length), *profiles)
  plain = _binned(np.mean(plain, axis=0))[0] if plain else None
  return Layer(index, length, matrices, distances, profiles, plain)


def block_average(dense: Float[np.ndarray, "n m"], most: int) -> Float[np.ndarray, "p r"]:
  """Means over blocks as small as leave at most `most` of them on each axis."""
  for axis in (0, 1):
    size = -(-dense.shape[axis] // most)
    starts = np.arange(0, dense.shape[axis], size)
    counts = np.diff([*starts, dense.shape[axis]])
    dense = np.add.reduceat(dense, starts, axis) / np.expand_dims(counts, 1 - axis)
  return dense


def distance_profile(
  dense: Float[np.ndarray, "n n"], real: Bool[np.ndarray, "n"]
) -> Float[np.ndarray, "k"]:
  """Mean weight at i - j = 1 - n, ..., n - 1 over pairs of real tokens; nan where there is none."""
  n = len(dense)
  total = np.zeros(2 * n - 1)
  for i in np.flatnonzero(real):
    total[i : i + n] += np.where(real, dense[i], 0)[::-1]  # j = n - 1, ..., 0
  pairs = np.round(np.correlate(real.astype(float), real.astype(float), "full"))
  return _mean(total, pairs)


def _binned(*values: np.ndarray) -> list[np.ndarray]:
  """Means over so many neighbours as leave at most 2 PIXELS points; nan counts for nothing."""
  size = -(-len(values[0]) // (2 * PIXELS))
  cut = [np.append(v, [np.nan] * (-len(v) % size)).reshape(-1, size) for v in values]
  return [_mean(np.nansum(v, 1), (~np.isnan(v)).sum(1)) for v in cut]


def _mean(total: np.ndarray, count: np.ndarray) -> np.ndarray:
  """total / count, nan where nothing was counted."""
  return np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0)
