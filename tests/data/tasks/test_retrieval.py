"""Citation pairs: LRA's files, pairs rebuilt from a corpus without leaks, and the real data."""

import collections
import io
import json
import lzma
import os
import tarfile

import numpy as np
import pytest

from lra.data import archives
from lra.data.tasks import retrieval
from lra.data.tasks.task import SPLITS, duplicates, pack
from lra.system.errors import UserError

RAW = os.environ.get("LRA_RAW_DIR")


def prepare(raw_dir, max_length=100, seed=0):
  return retrieval.TASK.prepare(
    raw_dir=raw_dir,
    cache_dir=raw_dir / "cache",
    report=lambda text: None,
    max_length=max_length,
    seed=seed,
  )


def pairs(examples):
  """[(text, text, label)] as stored."""
  tokens, offsets, documents, labels = examples
  texts = [tokens[a:b].tobytes() for a, b in zip(offsets[:-1], offsets[1:])]
  return [(texts[a], texts[b], int(label)) for (a, b), label in zip(documents, labels)]


# LRA's files

ROWS = {
  "new_aan_pairs.train.tsv": [
    b'1.0\tA1\tB1\t"odd, \xff\x00 quotes\r and\x0b space\tsecond text',
    b'0.0\tA1\tB2\t"odd, \xff\x00 quotes\r and\x0b space\tthird',
    b"1.0\tB1\tB2\tsecond text\tthird",
  ],
  "new_aan_pairs.eval.tsv": [b"0.0\tC1\tB1\tnew\tsecond text"],
  "new_aan_pairs.test.tsv": [b"1.0\tB2\tB1\tthird\tsecond text", b"0.0\tC1\tB2\tnew\tthird"],
}


@pytest.fixture
def released(monkeypatch):
  monkeypatch.setattr(retrieval, "PAIRS", {"train": 3, "validation": 1, "test": 2})
  return {name: b"\n".join(rows) + b"\n" for name, rows in ROWS.items()}


def write_release(path, files):
  with tarfile.open(path, "w:gz") as tar:
    for name, data in {"listops.tsv": b"Source\r\n", **files}.items():
      member = tarfile.TarInfo(f"lra_release/lra_release/tsv_data/{name}")
      member.size = len(data)
      tar.addfile(member, io.BytesIO(data))


def unpack(folder, files):
  folder.mkdir(parents=True)
  for name, data in files.items():
    (folder / name).write_bytes(data)


@pytest.mark.parametrize("folder", retrieval.FOLDERS)
def test_loose_files_are_found_where_people_unpack_them(tmp_path, released, folder):
  unpack(tmp_path / "raw" / folder, released)
  prepared = prepare(tmp_path / "raw", max_length=8)
  assert pairs(prepared.splits["train"]) == [
    (b'"odd, \xff\x00', b"second t", 1),
    (b'"odd, \xff\x00', b"third", 0),
    (b"second t", b"third", 1),
  ]
  assert len(prepared.splits["train"].offsets) == 4  # three documents, each once
  assert pairs(prepared.splits["validation"]) == [(b"new", b"second t", 0)]
  assert pairs(prepared.splits["test"]) == [(b"third", b"second t", 1), (b"new", b"third", 0)]
  assert prepared.source["origin"] == "LRA release"
  assert duplicates(prepared.splits)["test in train"] == 1


@pytest.mark.parametrize("name", ["lra_release.gz", "lra_release.tar.gz"])
def test_release_archive_gives_what_the_loose_files_give(tmp_path, released, name):
  unpack(tmp_path / "loose", released)
  (tmp_path / "packed").mkdir()
  write_release(tmp_path / "packed" / name, released)
  expected, got = prepare(tmp_path / "loose"), prepare(tmp_path / "packed")
  for split in SPLITS:
    assert pairs(got.splits[split]) == pairs(expected.splits[split])
  assert got.source["file"] == name


@pytest.mark.parametrize(
  "row, message",
  [
    (b"0.0\ta\tb\ttext one\ttext\ttwo", "line 2 of new_aan_pairs.test.tsv"),
    (b"0.0\ta\tb\ttext one", "line 2 of new_aan_pairs.test.tsv"),
    (b"0.5\ta\tb\ttext one\ttext two", "line 2 of new_aan_pairs.test.tsv"),
    (b"label\ta\tb\ttext one\ttext two", "line 2 of new_aan_pairs.test.tsv"),
    (b"0.0\ta\tb\tone\ttwo\n1.0\ta\tb\tone\ttwo", "has 3 pairs, not 2"),
  ],
)
def test_rows_that_are_not_pairs_are_user_errors(tmp_path, released, row, message):
  released["new_aan_pairs.test.tsv"] = ROWS["new_aan_pairs.test.tsv"][0] + b"\n" + row
  unpack(tmp_path / "raw", released)
  with pytest.raises(UserError, match=message):
    prepare(tmp_path / "raw")


def test_incomplete_release_is_a_user_error(tmp_path, released):
  del released["new_aan_pairs.eval.tsv"]
  unpack(tmp_path / "raw", released)
  with pytest.raises(UserError, match="has no new_aan_pairs.eval.tsv"):
    prepare(tmp_path / "raw")
  (tmp_path / "other").mkdir()
  (tmp_path / "other/lra_release.gz").write_bytes(b"\x1f\x8b\x08 no gzip")
  with pytest.raises(UserError, match="lra_release.gz is truncated or corrupt"):
    prepare(tmp_path / "other")


def test_archive_of_other_tasks_gives_way_to_a_corpus(tmp_path, links):
  raw = corpus(tmp_path, links).parent.parent
  expected = prepare(raw).source
  write_release(raw / "lra_release.gz", {})
  assert prepare(raw).source == expected
  assert prepare(raw / "aan").source == expected
  (raw / "aan").rename(raw / "elsewhere")
  with pytest.raises(UserError, match="get lra_release.gz from"):
    prepare(raw)


def test_user_with_nothing_is_told_what_to_get(tmp_path):
  with pytest.raises(UserError, match="get lra_release.gz from .*aan/documents.jsonl.xz"):
    prepare(tmp_path)


# A citation corpus


def corpus(tmp_path, links, count=200, packed=True, alike=1):
  folder = tmp_path / "aan"
  folder.mkdir(exist_ok=True)
  lines = [
    json.dumps({"id": f"P{i}", "year": 2000, "title": "t", "text": f"text {i // alike} é"}) + "\n"
    for i in range(count)
  ]
  name, open_ = ("documents.jsonl.xz", lzma.open) if packed else ("documents.jsonl", open)
  with open_(folder / name, "wt", encoding="utf-8") as file:
    file.writelines(lines)
  rows = ["citing\tcited", *(f"P{a}\tP{b}" for a, b in links)]
  (folder / "links.tsv").write_text("\n".join(rows) + "\n")
  return folder / name


@pytest.fixture
def links():
  """Links of 200 documents, from the smaller number to the larger; some are cited far more."""
  rng = np.random.default_rng(0)
  citing, cited = rng.integers(0, 200, 600), 199 - rng.zipf(1.4, 600) % 200
  return sorted({(a, b) for a, b in zip(citing.tolist(), cited.tolist()) if a < b and b < 195})


def names(examples):
  """[(document number, document number, label)]."""
  number = lambda text: int(text.decode().split()[1])
  return [(number(a), number(b), label) for a, b, label in pairs(examples)]


def test_positives_are_the_links_and_negatives_are_not(tmp_path, links):
  corpus(tmp_path, [*links, links[0][::-1], links[1], (5, 5)])  # mutual, repeated, to itself
  prepared = prepare(tmp_path)
  rows = [row for split in SPLITS for row in names(prepared.splits[split])]
  positives = collections.Counter(frozenset(row[:2]) for row in rows if row[2])
  negatives = collections.Counter(frozenset(row[:2]) for row in rows if not row[2])
  assert positives == collections.Counter(map(frozenset, links))
  assert len(negatives) == negatives.total() == len(links) and not negatives & positives
  assert all(len(pair) == 2 for pair in negatives)
  assert prepared.source["origin"] == "rebuilt from a citation corpus"
  assert set(duplicates(prepared.splits).values()) == {0}


def test_splits_are_balanced_and_in_the_proportions_of_lra(tmp_path, links):
  corpus(tmp_path, links)
  splits = prepare(tmp_path).splits
  sizes = {name: np.bincount(split.labels).tolist() for name, split in splits.items()}
  share = len(links) / sum(retrieval.PAIRS.values())
  for name, (negative, positive) in sizes.items():
    assert negative == positive == pytest.approx(retrieval.PAIRS[name] * share, abs=1)
  used = splits["test"].documents
  assert len(splits["test"].offsets) - 1 == len(np.unique(used)) == used.max() + 1


def test_popularity_tells_nothing_in_any_split(tmp_path, links):
  corpus(tmp_path, links)
  splits = prepare(tmp_path).splits
  for split in splits.values():
    count = {label: collections.Counter() for label in (0, 1)}
    for a, b, label in names(split):
      count[label].update((a, b))
    assert count[0] == count[1]
  assert retrieval.baselines(splits["train"], splits["test"])["document popularity"] == 0.5


def test_order_within_a_pair_tells_nothing(tmp_path, links):
  corpus(tmp_path, links)  # every link goes from the smaller number to the larger one
  rows = names(prepare(tmp_path).splits["train"])
  ahead = [np.mean([a < b for a, b, label in rows if label == wanted]) for wanted in (0, 1)]
  assert all(0.4 < share < 0.6 for share in ahead)
  labels = np.array([label for _, _, label in rows])
  assert 0.4 < labels[: len(labels) // 2].mean() < 0.6


def test_pairs_depend_on_the_seed_and_on_nothing_else(tmp_path, links):
  for name in ("a", "b"):
    (tmp_path / name).mkdir()
  corpus(tmp_path / "a", links)
  corpus(tmp_path / "b", links[::-1], packed=False)
  first, again = prepare(tmp_path / "a").splits, prepare(tmp_path / "b").splits
  other = prepare(tmp_path / "a", seed=1).splits
  for split in SPLITS:
    assert pairs(first[split]) == pairs(again[split]) != pairs(other[split])


def test_documents_with_the_same_stored_bytes_are_one(tmp_path, links):
  corpus(tmp_path, [(0, 1), *links[::5]], alike=2)  # 0 and 1 have one text
  rows = [row[:2] for split in prepare(tmp_path).splits.values() for row in names(split)]
  assert all(a != b for a, b in rows) and len(rows) == len({frozenset(row) for row in rows})
  linked = {frozenset((a // 2, b // 2)) for a, b in links[::5]}
  assert len(rows) == 2 * sum(len(pair) == 2 for pair in linked)


def test_corpus_without_room_for_negatives_is_a_user_error(tmp_path):
  corpus(tmp_path, [(a, b) for a in range(8) for b in range(a)], count=8)
  with pytest.raises(UserError, match="too few documents that are not linked"):
    prepare(tmp_path)


@pytest.mark.parametrize(
  "line",
  [
    '{"id": "P0", "text": "again"}',
    '{"id": "P999", "text": ""}',
    '{"id": "P999", "text": 3}',
    '{"id": "P999"}',
    '{"id": "P9',
    "[1]",
  ],
)
def test_lines_that_are_not_documents_are_user_errors(tmp_path, links, line):
  with corpus(tmp_path, links, packed=False).open("a") as file:
    file.write(line + "\n")
  with pytest.raises(UserError, match="line 201 of .*documents.jsonl"):
    prepare(tmp_path)


def test_damaged_corpus_is_a_user_error(tmp_path, links):
  path = corpus(tmp_path, [*links, (1, 200)])
  with pytest.raises(UserError, match=f"line {len(links) + 2} of .*links.tsv is not a link"):
    prepare(tmp_path)
  corpus(tmp_path, links)
  (tmp_path / "aan/links.tsv").write_text("P1\tP2\n")
  with pytest.raises(UserError, match="line 1 of .*links.tsv"):
    prepare(tmp_path)
  path.write_bytes(path.read_bytes()[:-20])
  with pytest.raises(UserError, match="documents.jsonl.xz is truncated or corrupt"):
    prepare(tmp_path)


def test_popularity_baseline_follows_documents_by_their_bytes():
  documents = np.array([[0, 2], [0, 3], [1, 2], [1, 3]], np.int32)
  train = pack([b"hit", b"miss", b"x", b"y"], [0] * 4)
  train = train._replace(documents=documents, labels=np.array([1, 1, 0, 0], np.uint8))
  unseen = pack([b"new", b"miss", b"hit"], [0] * 3)
  unseen = unseen._replace(
    documents=np.array([[0, 2], [1, 0]], np.int32), labels=np.array([1, 0], np.uint8)
  )
  assert retrieval.baselines(train, unseen)["document popularity"] == 1.0


@pytest.mark.skipif(
  not archives.find(RAW, "aan/documents.jsonl.xz"), reason="no citation corpus in $LRA_RAW_DIR"
)
def test_real_corpus(tmp_path):
  prepared = retrieval.TASK.prepare(
    raw_dir=RAW, cache_dir=tmp_path, report=print, max_length=4000, seed=0
  )
  sizes = [len(prepared.splits[split].labels) for split in SPLITS]
  assert sum(sizes) == 2 * 73_978 and all(
    size == pytest.approx(147_956 * share / 182_613, abs=2)
    for size, share in zip(sizes, retrieval.PAIRS.values())
  )
  assert all(split.labels.mean() == 0.5 for split in prepared.splits.values())
  assert set(duplicates(prepared.splits).values()) == {0}
  scores = retrieval.TASK.baselines(prepared.splits["train"], prepared.splits["test"])
  assert abs(scores["document popularity"] - 0.5) < 0.01
