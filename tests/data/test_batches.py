"""Buckets against brute force, the plans as functions of (seed, step), batches against a gather."""

import itertools

import jax
import numpy as np
import pytest

from lra.data import batches
from lra.data.tasks import Examples
from lra.data.tasks.task import pack
from lra.system import devices
from lra.system.errors import UserError

LENGTHS = np.random.default_rng(0).integers(1, 33, 101)
BUCKETS = (8, 16, 32)


def waste(lengths, buckets):
  """Padded tokens in all."""
  return int(np.array(buckets)[np.searchsorted(buckets, lengths)].sum())


@pytest.mark.parametrize("seed", range(12))
def test_buckets_are_the_best_of_all_subsets(seed):
  rng = np.random.default_rng(seed)
  multiple, longest = int(rng.integers(1, 6)), int(rng.integers(7, 31))
  lengths = np.minimum(rng.integers(1, longest + 1, 40), rng.integers(1, longest + 1, 40))
  for count in range(1, 6):
    buckets = batches.choose_buckets(lengths, longest, count, multiple)
    edges = sorted({min(i, longest) for i in range(multiple, longest + multiple, multiple)})
    subsets = itertools.chain.from_iterable(
      itertools.combinations(edges[:-1], n) for n in range(min(count, len(edges)))
    )
    assert waste(lengths, buckets) == min(waste(lengths, (*s, longest)) for s in subsets)
    assert len(buckets) <= count and buckets[-1] == longest and set(buckets) <= set(edges)
    assert list(buckets) == sorted(set(buckets))
  assert batches.choose_buckets(lengths, longest, 1, multiple) == (longest,)


def test_buckets_that_would_stay_empty_are_not_chosen():
  assert batches.choose_buckets(np.full(9, 30), 32, count=8, multiple=8) == (32,)
  assert batches.choose_buckets(np.full(9, 5), 32, count=8, multiple=8) == (8, 32)


def plan(seed=0, batch_size=8, run=3, lengths=LENGTHS, buckets=BUCKETS):
  return batches.TrainPlan(lengths, buckets, batch_size=batch_size, run=run, seed=seed)


def steps(plan, first, count):
  """(padded length, examples) of each step, asked for one by one."""
  taken = [plan.dispatch(t, 1) for t in range(first, first + count)]
  assert all(len(dispatch.examples) == 1 for dispatch in taken)
  return [(dispatch.length, dispatch.examples[0].tolist()) for dispatch in taken]


def test_batch_is_a_function_of_seed_and_step():
  in_order = steps(plan(), 0, 40)
  shuffled, order = plan(), np.random.default_rng(1).permutation(40)
  assert [steps(shuffled, int(t), 1)[0] for t in order] == [in_order[t] for t in order]
  together, t = [], 0
  while t < 40:
    dispatch = plan().dispatch(t, 40 - t)
    together += [(dispatch.length, batch.tolist()) for batch in dispatch.examples]
    t += len(dispatch.examples)
  assert together == in_order
  assert steps(plan(seed=1), 0, 12) != in_order[:12]


@pytest.mark.parametrize("batch_size", [1, 8, 10, 101])
def test_epoch_is_every_example_once_less_than_a_batch_left_out(batch_size):
  p = plan(batch_size=batch_size)
  assert p.steps_per_epoch == len(LENGTHS) // batch_size
  epochs = []
  for epoch in range(3):
    taken = steps(p, epoch * p.steps_per_epoch, p.steps_per_epoch)
    used = [i for _, batch in taken for i in batch]
    assert len(set(used)) == len(used) == p.steps_per_epoch * batch_size
    assert len(LENGTHS) - len(used) < batch_size
    for length, batch in taken:
      assert len(batch) == batch_size and LENGTHS[batch].max() <= length
    epochs.append(used)
  assert epochs[0] != epochs[1] != epochs[2] != epochs[0]


def test_what_fills_no_batch_moves_to_the_next_bucket_only():
  """Of bucket 8 less than one batch is padded to more than 8."""
  p = plan()
  padded_up = sum(
    int((LENGTHS[batch] <= 8).sum())
    for length, batch in steps(p, 0, p.steps_per_epoch)
    if length > 8
  )
  assert padded_up < 8


def test_runs_share_a_bucket_and_dispatches_keep_the_limit():
  p, t, sizes = plan(), 0, []
  while t < p.steps_per_epoch:
    whole = p.dispatch(t, 100)
    assert 1 <= len(whole.examples) <= 3
    assert LENGTHS[whole.examples].max() <= whole.length and whole.length in BUCKETS
    for limit in (1, 2):
      cut = p.dispatch(t, limit)
      assert cut.length == whole.length
      np.testing.assert_array_equal(cut.examples, whole.examples[:limit])
    sizes.append(len(whole.examples))
    t += len(whole.examples)
  assert t == p.steps_per_epoch and max(sizes) == 3


def test_batch_larger_than_the_data_is_an_error():
  with pytest.raises(UserError, match="batch_size 102 exceeds the 101 training examples"):
    plan(batch_size=102)


@pytest.mark.parametrize("batch_size", [1, 7, 101, 200])
def test_evaluation_sees_each_example_once(batch_size):
  dispatches = batches.evaluation_plan(LENGTHS, BUCKETS, batch_size)
  used = np.concatenate([dispatch.examples.ravel() for dispatch in dispatches])
  assert sorted(used[used >= 0]) == list(range(len(LENGTHS)))
  for length, examples in dispatches:
    assert examples.shape == (1, batch_size) and (examples >= 0).any()
    assert LENGTHS[examples[examples >= 0]].max() <= length
  assert (used < 0).sum() < batch_size * len(BUCKETS)


def documents(streams):
  """40 documents, 60 examples that share them; example 0 is the longest."""
  rng = np.random.default_rng(streams)
  sizes = [16, *rng.integers(1, 17, 39)]
  packed = pack([rng.integers(0, 256, n, np.uint8) for n in sizes], [0] * 40)
  index = rng.integers(0, 40, (60, streams)).astype(np.int32)
  index[0, 0] = 0
  return packed._replace(documents=index, labels=rng.integers(0, 10, 60).astype(np.uint8))


def split(examples, on_device, id_offset=1, longest=16, positions=None):
  mesh = devices.data_mesh()
  return batches.Split(examples, id_offset, longest, mesh, on_device=on_device, positions=positions)


def naive(examples: Examples, index, length, id_offset, places=None):
  ids = np.zeros((len(index), examples.documents.shape[1], length), np.int32)
  lengths, positions = np.zeros(ids.shape[:2], np.int32), np.zeros_like(ids)
  for row, example in enumerate(index):
    for stream, d in enumerate(examples.documents[example]):
      tokens = examples.tokens[examples.offsets[d] : examples.offsets[d + 1]]
      ids[row, stream, : len(tokens)] = tokens.astype(np.int32) + id_offset
      lengths[row, stream] = len(tokens)
      if places is not None:
        piece = slice(*examples.offsets[d : d + 2])
        positions[row, stream, : len(tokens)] = places[piece]
  made = ids, lengths, positions, examples.labels[index], np.ones(len(index))
  return made if places is not None else (*made[:2], *made[3:])


@pytest.mark.parametrize("on_device", [True, False])
@pytest.mark.parametrize("streams", [1, 2])
@pytest.mark.parametrize("id_offset, sparse", [(0, False), (1, False), (0, True)])
def test_batch_equals_a_naive_gather(on_device, streams, id_offset, sparse):
  examples, places = documents(streams), None
  if sparse:
    examples, places = batches.without_zeros(examples._replace(tokens=examples.tokens // 128))
  s = split(examples, on_device, id_offset, positions=places)
  np.testing.assert_array_equal(
    s.lengths, naive(examples, range(60), 16, 0)[1].max(1)
  )  # the longest document of each example
  short = np.flatnonzero(s.lengths <= 12)
  index = np.full((2, 8), -1, np.int32)  # 2 batches of 8, the last one short of 3
  index.flat[:13] = np.concatenate([short, short])[:13]
  arrays = s.arrays(batches.Dispatch(12, index), 3)
  make = jax.jit(s.batch, static_argnums=2)
  for i, real in ((0, 8), (1, 5), (2, 0)):  # a dispatch cut short is filled up with nothing
    batch = make(arrays, i, 12)
    assert batch.ids.shape == (8, streams, 12) and batch.ids.dtype == np.int32
    np.testing.assert_array_equal(batch.weights, np.arange(8) < real)
    if real:
      got = [x for x in batch if x is not None]
      wanted = (*naive(examples, index[i, :real], 12, id_offset, places), index[i, :real])
      for array, wanted in zip(got, wanted, strict=True):
        np.testing.assert_array_equal(array[:real], wanted)


def test_device_and_host_give_the_same_batches():
  for dispatch in batches.evaluation_plan(split(documents(2), True).lengths, (8, 16), 16):
    made = [
      s.batch(s.arrays(dispatch, 1), 0, dispatch.length)
      for s in (split(documents(2), True), split(documents(2), False))
    ]
    for a, b in zip(*(jax.tree.leaves(batch) for batch in made), strict=True):
      assert a.dtype == b.dtype
      np.testing.assert_array_equal(a, b)


def test_documents_without_zeros_keep_values_and_places():
  tokens = np.random.default_rng(0).integers(0, 3, 50, np.uint8)
  tokens[10:20] = 0  # a document of nothing else
  whole = Examples(tokens, np.arange(0, 60, 10), np.array([[0, 4], [1, 1]]), np.zeros(2, np.uint8))
  short, positions = batches.without_zeros(whole)
  assert short.tokens.all() and short.offsets[2] == short.offsets[1]
  for d in range(5):
    piece, again = slice(*short.offsets[d : d + 2]), np.zeros(10, np.uint8)
    assert (np.diff(positions[piece].astype(int)) > 0).all()
    again[positions[piece]] = short.tokens[piece]
    np.testing.assert_array_equal(again, tokens[10 * d : 10 * d + 10])


@pytest.mark.parametrize("drop_zeros, id_offset, longest", [(1, 0, 9), (1, 1, 16), (0, 0, 16)])
def test_zeros_are_dropped_where_they_are_padding(drop_zeros, id_offset, longest):
  images = np.tile(np.arange(16, dtype=np.uint8) % 16 * (np.arange(16) < 10), (2, 1))
  data = {name: pack(images[:, :n], [0, 1]) for name, n in (("train", 8), ("test", 16))}
  made = batches.splits(
    data, id_offset, 16, devices.data_mesh(), gigabytes=1.0, drop_zeros=bool(drop_zeros)
  )
  assert {s.longest for s in made.values()} == {longest}
  assert made["test"].lengths.tolist() == [min(longest, 16)] * 2
  assert made["train"].lengths.tolist() == [7 if longest == 9 else 8] * 2


def test_positions_are_refused_where_they_do_not_fit():
  with pytest.raises(ValueError, match="65,537 tokens"):
    batches.without_zeros(pack([np.ones(2**16 + 1, np.uint8)], [0]))


def test_batches_are_spread_over_the_devices():
  arrays = split(documents(1), False).arrays(batches.Dispatch(16, np.zeros((1, 16), np.int32)), 1)
  for array in jax.tree.leaves(arrays):
    assert array.sharding.shard_shape(array.shape)[1] == 16 // jax.device_count()


def test_last_document_is_whole_when_resident():
  """The slice of the last document reaches past the end of the tokens."""
  examples = pack([b"abc", b"de"], [0, 1])
  s = split(examples, True, id_offset=0)
  index = np.ones((1, 8), np.int32)
  batch = s.batch(s.arrays(batches.Dispatch(16, index), 1), 0, 16)
  np.testing.assert_array_equal(batch.ids[0, 0], [*b"de", *[0] * 14])
