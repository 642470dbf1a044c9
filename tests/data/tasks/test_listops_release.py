"""Reading the files of the LRA release."""

import csv
import hashlib
import tarfile

import numpy as np
import pytest

from expressions import NESTED, SMALL, documents, parse, prepare
from lra.data.tasks import listops
from lra.data.tasks.task import SPLITS
from lra.system.errors import UserError

HEADER = "Source\tTarget\r\n"


CHECK_SIZES = listops._check_sizes


@pytest.fixture(autouse=True)
def of_any_size(monkeypatch):
  """Releases of a few examples are accepted."""
  monkeypatch.setattr(listops, "_check_sizes", lambda *_: None)


def binary(tree):
  """The left-nested binary form of the released files."""
  if isinstance(tree, int):
    return str(tree)
  text = tree[0]
  for part in [*map(binary, tree[1:]), "]"]:
    text = f"( {text} {part} )"
  return text


@pytest.fixture(scope="module")
def small():
  return prepare(**SMALL)


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
