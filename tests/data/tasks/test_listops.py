import csv
import hashlib
import json
import math
import statistics
import tarfile

import numpy as np
import pytest

from lra.data.tasks import listops, listops_tokens
from lra.data.tasks import listops_generator as generator
from lra.data.tasks.task import SPLITS
from lra.system.errors import UserError

LRA = dict(min_length=500, max_length=2000, max_depth=10, max_args=10)
SMALL = dict(min_length=8, max_length=64, max_depth=4, max_args=5)
SIZES = dict(train=2000, validation=200, test=300)
TOKENS = "[MIN [MAX [MED [SM ] 0 1 2 3 4 5 6 7 8 9".split()
HEADER = "Source\tTarget\r\n"
NESTED = "( ( ( [MIN 2 ) ( ( ( [MAX 3 ) 4 ) ] ) ) ] )"  # MIN(2, MAX(3, 4))


CHECK_SIZES = listops._check_sizes


@pytest.fixture(autouse=True)
def of_any_size(monkeypatch):
  """Releases of a few examples are accepted."""
  monkeypatch.setattr(listops, "_check_sizes", lambda *_: None)


def prepare(raw_dir=None, report=lambda text: None, **options):
  options = LRA | SIZES | dict(seed=0) | options
  cache = raw_dir / "cache" if raw_dir else None
  return listops.prepare(raw_dir=raw_dir, cache_dir=cache, report=report, **options)


def documents(examples):
  return np.split(examples.tokens, examples.offsets[1:-1])


def parse(ids):
  """The tree of a sequence: a digit, or a list of the operator and its arguments."""
  root = []
  stack = [root]
  for token in (TOKENS[i - 1] for i in ids):
    if token == "]":
      stack.pop()
    elif token.isdigit():
      stack[-1].append(int(token))
    else:
      stack[-1].append([token])
      stack.append(stack[-1][-1])
  assert stack == [root] and len(root) == 1, "brackets do not match"
  return root[0]


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


def binary(tree):
  """The left-nested binary form of the released files."""
  if isinstance(tree, int):
    return str(tree)
  text = tree[0]
  for part in [*map(binary, tree[1:]), "]"]:
    text = f"( {text} {part} )"
  return text


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


# Released files.


def release(folder, **files):
  """Writes the three files, each holding the nested example unless `files` says otherwise."""
  folder.mkdir(parents=True, exist_ok=True)
  for name in ("train", "val", "test"):
    text = files.get(name, f"{HEADER}{NESTED}\t2\r\n")
    (folder / f"basic_{name}.tsv").write_bytes(text.encode() if isinstance(text, str) else text)
  return folder


def test_release_round_trip(small, tmp_path):
  for split, name in zip(SPLITS, ("train", "val", "test"), strict=True):
    examples = small.splits[split]
    with open(tmp_path / f"basic_{name}.tsv", "w", newline="") as file:
      writer = csv.writer(file, delimiter="\t")
      writer.writerow(["Source", "Target"])
      for ids, label in zip(documents(examples), examples.labels, strict=True):
        writer.writerow([binary(parse(ids.tolist())), label])
  assert (tmp_path / "basic_val.tsv").read_bytes().endswith(b"\r\n")
  prepared = prepare(tmp_path, train=1, validation=1, test=1)
  for split in SPLITS:
    for read, written in zip(prepared.splits[split], small.splits[split], strict=True):
      assert np.array_equal(read, written) and read.dtype == written.dtype
  assert prepared.source["origin"] == "released files"
  digest = hashlib.sha256((tmp_path / "basic_test.tsv").read_bytes()).hexdigest()
  assert prepared.source["sha256"]["basic_test.tsv"] == digest
  assert len(set(prepared.source["sha256"].values())) == len(SPLITS)


@pytest.mark.parametrize(
  "row", [f"{NESTED}\t2\r\n", f"{NESTED}\t2\n", f'"{NESTED}"\t"2"\r\n', "[MIN 2 [MAX 3 4 ] ]\t2"]
)
def test_line_ends_and_quoting(row, tmp_path):
  val = prepare(release(tmp_path, val=HEADER + row)).splits["validation"]
  assert val.tokens.tolist() == [1, 8, 2, 9, 10, 5, 5] and val.labels.tolist() == [2]


@pytest.mark.parametrize(
  "folder",
  ["listops-1000", "lra_release/listops-1000", "lra_release/lra_release/listops-1000", "listops"],
)
def test_release_is_found_in_its_folders(folder, tmp_path):
  release(tmp_path / folder)
  assert prepare(tmp_path).source["origin"] == "released files"


def test_release_is_read_from_its_archive(tmp_path):
  release(tmp_path / "unpacked/listops-1000")
  (tmp_path / "packed").mkdir()
  with tarfile.open(tmp_path / "packed/lra_release.gz", "w:gz") as tar:
    tar.add(tmp_path / "unpacked", "lra_release")
  packed, before = prepare(tmp_path / "packed"), prepare(tmp_path / "unpacked")
  assert packed.source == before.source | {"file": "lra_release.gz"}
  for split in SPLITS:
    for a, b in zip(packed.splits[split], before.splits[split], strict=True):
      np.testing.assert_array_equal(a, b)


def test_archive_of_other_tasks_is_not_used_and_one_with_a_part_is_refused(tmp_path, monkeypatch):
  monkeypatch.setattr(listops, "_generate", lambda *args: "generated")
  archive, lines = tmp_path / "lra_release", []  # a plain tar
  with tarfile.open(archive, "w") as tar:
    tar.add(__file__, "lra_release/README")
  assert prepare(tmp_path, lines.append) == "generated"
  assert f"listops: {archive} has no basic_train.tsv: generating\n" in lines
  with tarfile.open(archive, "w") as tar:
    tar.add(__file__, "lra_release/listops-1000/basic_val.tsv")
  with pytest.raises(UserError, match=f"{archive}/basic_train.tsv is missing"):
    prepare(tmp_path)


@pytest.mark.parametrize(
  ("text", "line", "what"),
  [
    ("", 1, "header"),
    (f"{NESTED}\t2\r\n", 1, "header"),
    (HEADER, 2, "no examples"),
    (f"{HEADER}{NESTED}\t2\r\n{NESTED} 2\r\n", 3, "1 tab-separated fields"),
    (f"{HEADER}{NESTED}\t2\t2\r\n", 2, "3 tab-separated fields"),
    (f"{HEADER}{NESTED}\t2\r\n{NESTED}\t10\r\n", 3, "target is '10'"),
    (f"{HEADER}{NESTED}\t\r\n", 2, "target is ''"),
    (f"{HEADER}{NESTED}\tX\r\n", 2, "target is 'X'"),
    (f"{HEADER}[MIN 2 [AVG 3 4 ] ]\t2\r\n", 2, "unknown token '[AVG'"),
    (f"{HEADER}[MIN 2 34 ]\t2\r\n", 2, "unknown token '34'"),
    (f"{HEADER}( )\t2\r\n", 2, "0 tokens"),
    (f"{HEADER}[MAX {'1 ' * 1998}]\t1\r\n", 2, "2000 tokens"),
    (f'{HEADER}{NESTED}\t2\r\n"[MIN 1\n2 ]\t1\r\n', 3, "unexpected end of data"),
    (f"{HEADER}{NESTED}\t2\r\n".encode() + b"[MIN \xff 1 ]\t1\r\n", 3, "unknown token"),
  ],
)
def test_damaged_file_is_named_with_its_line(text, line, what, tmp_path):
  release(tmp_path, val=text)
  with pytest.raises(UserError) as caught:
    prepare(tmp_path)
  assert str(caught.value).startswith(f"{tmp_path / 'basic_val.tsv'}:{line}: ")
  assert what in str(caught.value) and "\n" not in str(caught.value)


def test_longest_released_example_is_read(tmp_path):
  release(tmp_path, val=f"{HEADER}[MAX {'1 ' * 1997}]\t1\r\n")
  assert len(prepare(tmp_path).splits["validation"].tokens) == 1999


def test_missing_file_is_named(tmp_path):
  (release(tmp_path / "listops") / "basic_val.tsv").unlink()
  with pytest.raises(UserError, match="basic_val.tsv is missing"):
    prepare(tmp_path)


def test_release_is_left_alone_for_other_limits(tmp_path):
  lines = []
  prepared = prepare(release(tmp_path), lines.append, **SMALL)
  assert prepared.source["origin"] == "generated"
  assert any(str(tmp_path) in line and "not used" in line for line in lines)


def test_release_of_another_size_is_refused(tmp_path):
  CHECK_SIZES(tmp_path, {"train": 96_000, "validation": 2_000, "test": 2_000})
  with pytest.raises(UserError, match="95999.*unpack the release again"):
    CHECK_SIZES(tmp_path, {"train": 95_999, "validation": 2_000, "test": 2_000})


def test_empty_raw_folder_means_generating(tmp_path):
  lines = []
  assert prepare(tmp_path, lines.append, **SMALL).source["origin"] == "generated"
  assert any(str(tmp_path) in line for line in lines)


# Options nothing can be made of, and progress.


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
