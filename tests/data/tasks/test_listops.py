"""The task and its generator: trees, labels, reference statistics, baselines."""

import hashlib
import json
import math
import statistics

import numpy as np
import pytest

from expressions import LRA, NESTED, SIZES, SMALL, TOKENS, documents, parse, prepare
from lra.data.tasks import listops, listops_tokens
from lra.data.tasks import listops_generator as generator
from lra.data.tasks.task import SPLITS
from lra.system.errors import UserError


def value(tree):
  if isinstance(tree, int):
    return tree
  arguments = [value(child) for child in tree[1:]]
  return {
    "[MIN": min,
    "[MAX": max,
    "[MED": lambda a: int(statistics.median(a)),
    "[SM": lambda a: sum(a) % 10,
  }[tree[0]](arguments)


def depth(tree):
  return 1 if isinstance(tree, int) else 1 + max(map(depth, tree[1:]))


def arities(tree):
  if isinstance(tree, list):
    yield len(tree) - 1
    for child in tree[1:]:
      yield from arities(child)


def length_distribution(max_depth, max_args):
  """Exact share of every tree length, by convolution."""
  shares = np.ones(2)
  shares[0] = 0
  for _ in range(max_depth - 1):
    children, mixture = shares, np.zeros(2 + max_args * (len(shares) - 1) + 1)
    for arity in range(2, max_args + 1):
      children = np.convolve(children, shares)
      mixture[2 : 2 + len(children)] += 0.25 / (max_args - 1) * children
    mixture[1] += 0.75
    shares = mixture
  return shares


@pytest.fixture(scope="module")
def lra():
  return prepare(train=20_000, validation=50, test=50)


@pytest.fixture(scope="module")
def small():
  return prepare(**SMALL)


def test_vocabulary_is_pinned():
  assert list(listops_tokens.VOCABULARY) == TOKENS
  assert list(listops_tokens.encode(NESTED)) == [1, 8, 2, 9, 10, 5, 5]
  assert listops_tokens.decode(listops_tokens.encode(NESTED)) == "[MIN 2 [MAX 3 4 ] ]"
  assert listops_tokens.encode(" ".join(TOKENS)) == bytes(range(1, 16))
  with pytest.raises(KeyError):
    listops_tokens.encode("[MIN 2 X")


def test_task():
  task = listops.TASK
  assert (task.name, task.vocab_size, task.num_classes) == ("listops", 17, 10)
  assert (task.id_offset, task.streams) == (0, 1)


@pytest.mark.parametrize(("name", "limits", "sample"), [("lra", LRA, 400), ("small", SMALL, 2000)])
def test_trees_and_labels(name, limits, sample, request):
  train = request.getfixturevalue(name).splits["train"]
  deepest, widest, tightest = 0, 0, 99
  for ids, label in zip(documents(train)[:sample], train.labels, strict=False):
    tree = parse(ids.tolist())
    assert value(tree) == label
    assert limits["min_length"] < len(ids) < limits["max_length"]
    deepest = max(deepest, depth(tree))
    widest = max(widest, *arities(tree))
    tightest = min(tightest, *arities(tree))
  assert (deepest, widest, tightest) == (limits["max_depth"], limits["max_args"], 2)


def test_splits_are_disjoint_and_of_the_sizes_asked(small):
  assert list(small.splits) == list(SPLITS)
  seen = set()
  for split, size in SIZES.items():
    examples = small.splits[split]
    assert examples.documents.tolist() == [[i] for i in range(size)]
    assert len(examples.labels) == len(examples.offsets) - 1 == size
    assert examples.offsets[0] == 0 and examples.offsets[-1] == len(examples.tokens)
    assert [a.dtype for a in examples] == [np.uint8, np.int64, np.int32, np.uint8]
    seen.update(ids.tobytes() for ids in documents(examples))
  assert len(seen) == sum(SIZES.values())
  assert small.source["origin"] == "generated" and small.source["seed"] == 0
  assert small.source["parameters"] == SMALL | SIZES
  json.dumps(small.source)


def test_duplicates_are_dropped_where_they_abound():
  # 4 operators of 2 or 3 digits make 4,400 trees; all are wanted, which takes several rounds.
  limits = dict(min_length=3, max_length=6, max_depth=2, max_args=3)
  prepared = prepare(**limits, train=4000, validation=200, test=200)
  distinct = {ids.tobytes() for split in SPLITS for ids in documents(prepared.splits[split])}
  assert len(distinct) == 4400


def test_same_bytes_for_any_number_of_workers():
  first, *others = [
    generator.generate(
      listops_tokens.Limits(**SMALL), seed=5, count=7000, report=print, workers=workers
    )
    for workers in (1, 2, 7)
  ]
  for other in others:
    assert all(np.array_equal(a, b) for a, b in zip(first, other, strict=True))


def test_same_bytes_on_every_machine(small):
  # A change here is a change of every dataset made so far: raise generator.VERSION with it.
  digest = hashlib.sha256()
  for examples in small.splits.values():
    for array in examples:
      digest.update(array.tobytes())
  assert digest.hexdigest() == "db1e00ee8cc96609ee70a971c92a76777aacccbad53b13dd37d0051a44e3f286"


def test_seeds_differ_and_sizes_only_cut(small):
  train = {ids.tobytes() for ids in documents(small.splits["train"])}
  other = documents(prepare(**SMALL, seed=1).splits["train"])
  assert np.mean([ids.tobytes() in train for ids in other]) < 0.5
  shorter = prepare(**SMALL, train=100).splits
  assert np.array_equal(shorter["train"].labels, small.splits["train"].labels[:100])
  assert np.array_equal(shorter["validation"].labels, small.splits["train"].labels[100:300])


def test_lengths_follow_the_exact_distribution():
  drawn, limit = 400_000, 64
  lengths, _ = generator.survey(np.uint64(3), 0, drawn, listops_tokens.Limits(0, limit, 4, 5))
  counts = np.bincount(lengths, minlength=limit)
  expected = length_distribution(max_depth=4, max_args=5) * drawn
  assert np.isclose(expected.sum(), drawn)
  kept = np.flatnonzero(expected[:limit])
  z = (counts[kept] - expected[kept]) / np.sqrt(expected[kept])
  assert abs((z**2).sum() - len(kept)) < 4 * math.sqrt(2 * len(kept))  # chi-squared
  assert abs(counts[0] - expected[limit:].sum()) < 4 * math.sqrt(expected[limit:].sum())


def test_early_stop_rejects_the_long_trees_and_changes_no_other():
  long = listops_tokens.Limits(0, 5000, 6, 6)
  lengths, prints = generator.survey(np.uint64(1), 0, 20_000, long)
  cut_lengths, cut_prints = generator.survey(np.uint64(1), 0, 20_000, long._replace(max_length=50))
  short = lengths < 50
  assert 0 < short.sum() < 20_000
  assert np.array_equal(cut_lengths, np.where(short, lengths, 0))
  assert np.array_equal(cut_prints[short], prints[short])


def assert_shares(counts, expected):
  """Agreement of two samples of about 20,000, the reference rounded to three digits."""
  for share, p in zip(np.asarray(counts) / np.sum(counts), expected, strict=True):
    assert abs(share - p) < 4 * math.sqrt(2 * p * (1 - p) / 20_000) + 0.0005, (share, p)


def test_reference_acceptance():
  accepted, _ = generator.survey(np.uint64(0), 0, 240_000, listops.LRA)
  share = np.mean(accepted > 0)
  assert abs(share - 0.0831) < 4 * math.sqrt(2 * 0.0831 * 0.917 / 240_000)
  in_length, _ = generator.survey(np.uint64(0), 0, 240_000, listops.LRA._replace(min_length=0))
  assert abs(np.mean(in_length == 0) - 0.0116) < 4 * math.sqrt(2 * 0.0116 * 0.988 / 240_000)


def test_reference_lengths(lra):
  lengths = np.diff(lra.splits["train"].offsets)
  assert (lengths.min(), lengths.max()) == (501, 1999)
  assert abs(lengths.mean() - 1039) < 4 * lengths.std() * math.sqrt(2 / 20_000)
  assert abs(np.median(lengths) - 961) < 25
  assert abs(np.quantile(lengths, 0.9) - 1649) < 25
  long = int(np.sum(lengths > 1024))
  assert_shares([20_000 - long, long], [0.555, 0.445])


def test_reference_trees(lra):
  train = lra.splits["train"]
  operators, digits = np.sum(train.tokens <= 4), np.sum(train.tokens >= 6)
  assert abs(operators / 20_000 - 150) < 4 and abs(digits / operators - 757 / 150) < 0.05
  assert np.sum(train.tokens == 5) == operators
  digit_counts = np.bincount(train.tokens, minlength=16)[6:]
  assert np.all(abs(digit_counts / digit_counts.sum() - 0.1) < 0.001)
  assert_shares(np.bincount(train.tokens[train.offsets[:-1]], minlength=5)[1:5], [0.25] * 4)
  arity = []
  for ids in documents(train)[:4000]:
    level = np.cumsum(np.where(ids <= 4, 1, np.where(ids == 5, -1, 0)))
    # An argument of the root is a digit at level 1 or an operator that opens level 2.
    arity.append(np.sum((level == 1) & (ids >= 6)) + np.sum((level == 2) & (ids <= 4)))
  shares = np.bincount(arity, minlength=11)[2:] / 4000
  expected = np.array([0.046, 0.062, 0.085, 0.103, 0.116, 0.133, 0.144, 0.150, 0.160])
  assert np.all(abs(shares - expected) < 4 * np.sqrt(expected * (1 - expected) / 3300) + 0.0005)


def test_reference_labels_and_baselines(lra):
  train = lra.splits["train"]
  assert_shares(
    np.bincount(train.labels, minlength=10),
    [0.170, 0.090, 0.077, 0.081, 0.091, 0.087, 0.080, 0.075, 0.082, 0.167],
  )
  scores = listops.baselines(train, train)
  assert list(scores) == ["majority class", "mode given the root operator"]
  assert abs(scores["majority class"] - 0.170) < 0.01
  assert abs(scores["mode given the root operator"] - 0.363) < 0.014


def test_baselines_are_fitted_on_train_and_scored_on_the_other():
  def examples(*rows):
    return listops.pack(
      [listops_tokens.encode(f"{root} 1 2 ]") for root, _ in rows], [y for _, y in rows]
    )

  train = examples(("[MIN", 3), ("[MIN", 3), ("[MIN", 4), ("[MAX", 8))
  evaluated = examples(("[MIN", 3), ("[MAX", 8), ("[SM", 3), ("[MAX", 3), ("[MED", 0))
  assert listops.baselines(train, evaluated) == {
    "majority class": 3 / 5,
    "mode given the root operator": 3 / 5,
  }


@pytest.mark.parametrize(
  ("options", "what"),
  [
    (dict(min_length=64), "no length"),
    (dict(min_length=63), "no length"),
    (dict(max_depth=1), "longer than 1 tokens"),
    (dict(min_length=37, max_depth=3), "longer than 37 tokens"),
    (dict(min_length=1, max_length=4), "gave only 0 of 2,500"),  # no tree has 2 or 3 tokens
    (
      dict(min_length=0, max_length=5, max_args=2),
      "gave only 410 of 2,500",
    ),  # 10 digits, 400 trees
  ],
)
def test_impossible_options(options, what):
  with pytest.raises(UserError, match=what) as caught:
    prepare(**SMALL | options)
  assert "\n" not in str(caught.value)


def test_longest_tree_that_passes_the_check_exists():
  # 2 + 3 * 1 tokens is the longest there is at depth 2, so min_length 4 leaves just that.
  train = prepare(min_length=4, max_length=64, max_depth=2, max_args=3).splits["train"]
  assert set(np.diff(train.offsets)) == {5}


def test_progress_is_reported_at_most_once_a_second(monkeypatch):
  clock = iter(np.arange(0, 1000, 0.4))
  monkeypatch.setattr(generator.time, "monotonic", lambda: next(clock))
  lines = []
  generator.generate(listops.LRA, seed=0, count=30_000, report=lines.append)
  assert len(lines) == 1
  done = lines[0].removeprefix("listops: ").removesuffix(" / 30,000 examples").replace(",", "")
  assert 0 < int(done) < 30_000
