"""Batches: the examples of batch t, length buckets, and padded arrays gathered on the device.

Batch t is a pure function of (seed, t): every epoch reshuffles, examples of similar length share a
batch, and a batch is padded to one of a few static lengths (buckets). What a bucket cannot fill goes
to the next longer one, so an epoch is all examples once, less than one batch left out. Runs of
consecutive batches share a bucket, so that one dispatch can advance several steps.
"""

import functools
import itertools
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int, Shaped, UInt16

from lra.data.tasks import Examples
from lra.system import devices
from lra.system.errors import UserError


class Batch(NamedTuple):
  """One padded batch; a padding example has weight 0."""

  ids: Int[Array, "b s n"]
  lengths: Int[Array, "b s"]
  positions: Int[Array, "b s n"] | None  # of tokens in their input; None: 0, 1, 2 ...
  labels: Int[Array, "b"]
  weights: Float[Array, "b"]
  examples: Int[Array, "b"]  # their numbers in the split; 0 for padding


class Dispatch(NamedTuple):
  """Consecutive batches of one bucket."""

  length: int  # padded to
  examples: Int[np.ndarray, "k b"]  # -1: a padding example


def example_lengths(examples: Examples) -> Int[np.ndarray, "N"]:
  """Length of the longest document of each example."""
  return np.diff(examples.offsets)[examples.documents].max(1)


def without_zeros(examples: Examples) -> tuple[Examples, UInt16[np.ndarray, "total"]]:
  """Examples without the tokens of value 0, and the original position of each remaining token.

  Raises ValueError for a document of more than 65,536 tokens.
  """
  sizes = np.diff(examples.offsets)
  if sizes.max(initial=0) > 2**16:
    raise ValueError(f"positions are 16-bit numbers, and a document has {sizes.max():,} tokens")
  kept = np.asarray(examples.tokens) != 0
  offsets = np.concatenate([[0], np.cumsum(kept, dtype=np.int64)])[examples.offsets]
  tokens, positions = np.empty(offsets[-1], np.uint8), np.empty(offsets[-1], np.uint16)
  for (a, b), (c, d) in zip(itertools.pairwise(examples.offsets), itertools.pairwise(offsets)):
    positions[c:d] = np.flatnonzero(kept[a:b])
    tokens[c:d] = examples.tokens[a:b][kept[a:b]]
  return examples._replace(tokens=tokens, offsets=offsets), positions


def choose_buckets(
  lengths: Int[np.ndarray, "N"], longest: int, count: int, multiple: int
) -> tuple[int, ...]:
  """At most `count` padded lengths, the last `longest`, that minimise padded tokens over `lengths`.

  Exact dynamic programme over multiples of `multiple`.
  """
  edges = np.unique(np.minimum(np.arange(multiple, longest + multiple, multiple), longest))
  covered = np.searchsorted(np.sort(lengths), edges, side="right")  # examples up to each edge
  cost, parents = edges * covered, []  # cost[i]: of all examples up to edge i, edge i a bucket
  earlier = np.tri(len(edges), k=-1, dtype=bool)
  for _ in range(count - 1):
    table = np.where(
      earlier, cost[None, :] + edges[:, None] * (covered[:, None] - covered[None, :]), 2**62
    )
    better = table.min(1) < cost
    parents.append(np.where(better, table.argmin(1), -1))
    cost = np.where(better, table.min(1), cost)
  buckets, i = [], len(edges) - 1
  for parent in reversed(parents):
    if parent[i] >= 0:
      buckets.append(int(edges[i]))
      i = parent[i]
  return (int(edges[i]), *reversed(buckets))


class TrainPlan:
  """The endless sequence of training batches of one split."""

  def __init__(
    self,
    lengths: Int[np.ndarray, "N"],
    buckets: tuple[int, ...],
    *,
    batch_size: int,
    run: int,
    seed: int,
  ) -> None:
    """run: batches of one bucket in a row. Raises UserError when no batch can be filled."""
    self.steps_per_epoch = len(lengths) // batch_size
    if not self.steps_per_epoch:
      raise UserError(
        f"config.train.batch_size {batch_size} exceeds the {len(lengths)} training examples"
      )
    self._members = np.searchsorted(buckets, lengths)
    self._buckets, self._batch_size, self._run, self._seed = buckets, batch_size, run, seed

  @property
  def longest(self) -> int:
    """The padded length of the longest batches."""
    return self._buckets[self._members.max()]

  def dispatch(self, step: int, limit: int) -> Dispatch:
    """Batches `step`, `step` + 1, ...: at most `limit`, until the run of that bucket ends."""
    epoch, i = divmod(step, self.steps_per_epoch)
    batches, bucket, left = self._epoch(epoch)
    count = min(limit, left[i])
    return Dispatch(self._buckets[bucket[i]], batches[i : i + count])

  @functools.lru_cache(maxsize=2)
  def _epoch(self, epoch: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Batches [steps, b], bucket [steps] and batches left in the run [steps] of an epoch."""
    rng = np.random.default_rng([self._seed, epoch])
    runs, carried = [], np.zeros(0, np.int64)
    for bucket in range(len(self._buckets)):
      members = np.concatenate([carried, np.flatnonzero(self._members == bucket)])
      members = rng.permutation(members)
      full = len(members) // self._batch_size * self._batch_size
      batches, carried = members[:full].reshape(-1, self._batch_size), members[full:]
      runs += [(bucket, batches[i : i + self._run]) for i in range(0, len(batches), self._run)]
    runs = [runs[i] for i in rng.permutation(len(runs))]
    return (
      np.concatenate([batches for _, batches in runs]).astype(np.int32),
      np.concatenate([np.full(len(batches), bucket) for bucket, batches in runs]),
      np.concatenate([np.arange(len(batches), 0, -1) for _, batches in runs]),
    )


def evaluation_plan(
  lengths: Int[np.ndarray, "N"], buckets: tuple[int, ...], batch_size: int
) -> list[Dispatch]:
  """Every example once, by bucket, the last batch of a bucket filled up with -1."""
  plan, members = [], np.searchsorted(buckets, lengths)
  for bucket, length in enumerate(buckets):
    index = np.flatnonzero(members == bucket)
    index = np.concatenate([index, np.full(-len(index) % batch_size, -1)])
    plan += [Dispatch(length, b[None]) for b in index.reshape(-1, batch_size).astype(np.int32)]
  return plan


class Split:
  """One split, held on the device or in host memory, from which batches are gathered.

  `arrays(dispatch)` are the arguments of a jitted function that calls `batch(arrays, i, length)`.
  """

  def __init__(
    self,
    examples: Examples,
    id_offset: int,
    longest: int,
    mesh: Mesh,
    *,
    on_device: bool,
    positions: UInt16[np.ndarray, "total"] | None = None,
  ) -> None:
    """longest: the largest bucket. on_device: keep all tokens on every device.

    positions: of each token in its input, where some were left out.
    """
    self._examples, self.mesh, self._id_offset = examples, mesh, id_offset
    self.on_device, self.longest = on_device, longest
    self.lengths = example_lengths(examples)
    self._contents = (examples.tokens,) if positions is None else (examples.tokens, positions)
    if on_device:
      everywhere = devices.replicated(mesh)
      contents = [np.concatenate([x, np.zeros(longest, x.dtype)]) for x in self._contents]
      starts = examples.offsets[:-1].astype(np.int32)[examples.documents]
      sizes = np.diff(examples.offsets).astype(np.int32)[examples.documents]
      labels = examples.labels.astype(np.int32)
      self._resident = devices.put((contents, starts, sizes, labels), everywhere)

  def arrays(self, dispatch: Dispatch, run: int) -> tuple[Array, ...]:
    """Device arrays for up to `run` batches; their shapes depend on `run` and the bucket alone."""
    index = np.full((run, dispatch.examples.shape[1]), -1, np.int32)
    index[: len(dispatch.examples)] = dispatch.examples
    if self.on_device:
      return (*self._resident, devices.put(index, devices.along(self.mesh, 1)))
    return devices.built(lambda index: self._gathered(index, dispatch.length), index, self.mesh)

  def _gathered(self, index: Int[np.ndarray, "k b"], length: int) -> tuple[Any, ...]:
    """Contents [k b s n], sizes [k b s], labels [k b] of examples in host memory, and `index`."""
    examples, safe = self._examples, np.maximum(index, 0)
    starts = examples.offsets[examples.documents[safe]]  # [k b s]
    sizes = examples.offsets[examples.documents[safe] + 1] - starts
    # Example 0 stands for padding, and may be longer than this bucket.
    sizes = np.minimum(sizes, length).astype(np.int32)
    contents = [np.zeros((*starts.shape, length), x.dtype) for x in self._contents]
    for at in np.ndindex(starts.shape):
      for cut, x in zip(contents, self._contents):
        cut[at][: sizes[at]] = x[starts[at] : starts[at] + sizes[at]]
    labels = examples.labels[safe].astype(np.int32)
    return contents, sizes, labels, index

  def batch(self, arrays: tuple[Array, ...], i: Int[Array, ""], length: int) -> Batch:
    """Batch i of `arrays`, padded to `length`; inside jit."""
    index = arrays[-1][i]
    safe = jnp.maximum(index, 0)
    if self.on_device:
      contents, starts, sizes, labels, _ = arrays
      contents = [_cut(x, starts[safe], length) for x in contents]
      sizes, labels = jnp.minimum(sizes[safe], length), labels[safe]
    else:
      contents, sizes, labels = jax.tree.map(lambda x: x[i], arrays[:-1])
    real = jnp.arange(length) < sizes[..., None]
    tokens, *positions = (jnp.where(real, x.astype(jnp.int32), 0) for x in contents)
    return Batch(
      ids=jnp.where(real, tokens + self._id_offset, 0),
      lengths=sizes,
      positions=positions[0] if positions else None,
      labels=labels,
      weights=(index >= 0).astype(jnp.float32),
      examples=safe,
    )


def splits(
  data: Mapping[str, Examples],
  id_offset: int,
  longest: int,
  mesh: Mesh,
  *,
  gigabytes: float,
  drop_zeros: bool,
) -> dict[str, Split]:
  """A `Split` of each set of examples, on the device if it has at most `gigabytes`.

  drop_zeros: leave out tokens of id 0. The largest bucket is then the longest document there is,
  else `longest`.
  """
  if drop_zeros and not id_offset:
    contents = {name: without_zeros(examples) for name, examples in data.items()}
    longest = max(1, *(int(example_lengths(examples).max()) for examples, _ in contents.values()))
  else:
    contents = {name: (examples, None) for name, examples in data.items()}
  made = {}
  for name, (examples, positions) in contents.items():
    size = examples.tokens.nbytes + (0 if positions is None else positions.nbytes)
    fits = size <= gigabytes * 1e9 and len(examples.tokens) <= 2**31 - longest  # int32 addresses
    made[name] = Split(examples, id_offset, longest, mesh, on_device=fits, positions=positions)
  return made


def _cut(
  x: Shaped[Array, "total"], starts: Int[Array, "b s"], length: int
) -> Shaped[Array, "b s n"]:
  return jax.vmap(jax.vmap(lambda start: lax.dynamic_slice(x, (start,), (length,))))(starts)
