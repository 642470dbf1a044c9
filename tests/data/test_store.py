"""The data store: prepared once, whole or not at all, and every damage noticed."""

import errno
import json
import multiprocessing
import time

import numpy as np
import pytest

from lra.data import archives, store
from lra.data.tasks import SPLITS, Prepared, Task
from lra.data.tasks.task import pack
from lra.system.errors import UserError

OPTIONS = {"size": 3}


def toy(prepare=None, log=None):
  """A task of `size` documents a split; `log` collects a line for each preparation."""

  def default(*, raw_dir, cache_dir, report, size):
    if log is not None:
      with open(log, "a") as file:
        file.write("prepared\n")
      time.sleep(0.3)  # long enough for another process to arrive
    documents = [bytes(range(1, i + 2)) for i in range(size)]
    return Prepared(dict.fromkeys(SPLITS, pack(documents, range(size))), {"origin": "toy"})

  return Task("toy", 10, 3, 0, 1, lambda options: 9, prepare or default, lambda train, test: {})


def open_toy(data_dir, task=None, report=lambda text: None, **options):
  return store.open_store(
    task or toy(), OPTIONS | options, data_dir=data_dir, raw_dir=None, report=report
  )


def leftovers(data_dir):
  """Everything in the folder but lock files."""
  return [path.name for path in data_dir.iterdir()]


def test_prepared_once_and_mapped(tmp_path):
  log = tmp_path / "log"
  first = open_toy(tmp_path / "data", toy(log=log))
  again = open_toy(tmp_path / "data", toy(log=log))
  assert log.read_text() == "prepared\n"
  assert first.path == again.path and first.digest == again.digest
  for split in SPLITS:
    for a, b in zip(first.splits[split], again.splits[split], strict=True):
      assert isinstance(b, np.memmap) and a.dtype == b.dtype
      np.testing.assert_array_equal(a, b)
  assert again.splits["train"].tokens.tolist() == [1, 1, 2, 1, 2, 3]
  assert again.splits["test"].offsets.tolist() == [0, 1, 3, 6]
  shared = dict.fromkeys(("test in train", "validation in train", "validation in test"), 3)
  assert again.manifest["source"] == {"origin": "toy", "duplicates": shared}
  assert again.manifest["splits"]["validation"] == {
    "examples": 3,
    "documents": 3,
    "tokens": 6,
    "labels": [1, 1, 1],
  }


def test_other_options_and_formats_have_other_folders(tmp_path, monkeypatch):
  paths = [open_toy(tmp_path).path, open_toy(tmp_path, size=2).path]
  monkeypatch.setattr(store, "FORMAT", store.FORMAT + 1)
  paths.append(open_toy(tmp_path).path)
  assert len(set(paths)) == 3
  assert len(store.open_store(toy(), {"size": 2}, **_where(tmp_path)).splits["train"].labels) == 2


def _where(data_dir):
  return {"data_dir": data_dir, "raw_dir": None, "report": lambda text: None}


def _flip(file):
  data = bytearray(file.read_bytes())
  data[-1] ^= 1
  file.write_bytes(data)


def _without_hash(file):
  manifest = json.loads(file.read_text())
  del manifest["files"]["train.tokens.npy"]["sha256"]
  file.write_text(json.dumps(manifest))


DAMAGE = {
  "no manifest": ("manifest.json", lambda f: f.unlink()),
  "broken manifest": ("manifest.json", lambda f: f.write_text(f.read_text()[:99])),
  "binary manifest": ("manifest.json", lambda f: f.write_bytes(b"\xff\xfe\x00")),
  "empty manifest": ("manifest.json", lambda f: f.write_text("{}")),
  "manifest without a file": ("manifest.json", lambda f: f.write_text('{"files": {}}')),
  "manifest without a hash": ("manifest.json", _without_hash),
  "manifest of another shape": ("manifest.json", lambda f: f.write_text('{"files": []}')),
  "no file": ("train.tokens.npy", lambda f: f.unlink()),
  "cut file": ("test.labels.npy", lambda f: f.write_bytes(f.read_bytes()[:-1])),
  "flipped bit": ("validation.offsets.npy", _flip),
}


@pytest.mark.parametrize("how", DAMAGE)
def test_damage_is_a_user_error_that_names_file_and_remedy(tmp_path, how):
  name, damage = DAMAGE[how]
  path = open_toy(tmp_path).path
  damage(path / name)
  with pytest.raises(UserError, match="is damaged.*delete it and run again") as raised:
    open_toy(tmp_path)
  assert name in str(raised.value) and str(path) in str(raised.value)
  assert "\n" not in str(raised.value)


def test_manifest_is_part_of_the_digest(tmp_path):
  before = open_toy(tmp_path)
  digest = before.digest
  (before.path / store.SEAL).unlink()  # as earlier revisions left a store
  (before.path / "manifest.json").write_text((before.path / "manifest.json").read_text() + " ")
  assert open_toy(tmp_path).digest != digest


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, UserError])
def test_interrupted_preparation_leaves_nothing(tmp_path, error):
  def prepare(**_):
    raise error("stop")

  with pytest.raises(error, match="stop"):
    open_toy(tmp_path, toy(prepare))
  assert leftovers(tmp_path) == []
  assert len(open_toy(tmp_path).splits["train"].labels) == 3


def test_full_disk_leaves_nothing_and_is_one_line(tmp_path, monkeypatch):
  calls, save = [], np.save

  def full(file, array):
    calls.append(file)
    if len(calls) == 6:
      raise OSError(errno.ENOSPC, "No space left on device")
    save(file, array)

  monkeypatch.setattr(np, "save", full)
  with pytest.raises(UserError, match="No space left on device; free some space.*--data_dir"):
    open_toy(tmp_path)
  assert leftovers(tmp_path) == []


def test_what_killed_processes_left_is_removed(tmp_path):
  name = open_toy(tmp_path / "other").path.name
  left = tmp_path / f".{name}.tmp12345"
  left.mkdir()
  (left / "train.tokens.npy").write_bytes(b"half")
  unrelated = tmp_path / ".toy-0123456789.tmp1"
  unrelated.mkdir()
  open_toy(tmp_path)
  assert not left.exists() and unrelated.exists()


def test_raw_folder_that_is_not_there_is_named(tmp_path):
  typo = tmp_path / "rwa"
  arguments = {"data_dir": tmp_path, "raw_dir": typo, "report": print}
  with pytest.raises(UserError, match="rwa .--raw_dir or .LRA_RAW_DIR. is not there"):
    store.open_store(toy(), OPTIONS, **arguments)
  open_toy(tmp_path)
  store.open_store(toy(), OPTIONS, **arguments)  # what is prepared needs no raw files


def test_generator_that_repeats_itself_is_refused(tmp_path):
  def prepare(**_):
    splits = dict.fromkeys(SPLITS, pack([b"x"], [0]))
    return Prepared(splits, {"origin": "generated"})

  with pytest.raises(UserError, match="splits share examples .*take another task.seed"):
    open_toy(tmp_path, toy(prepare))


def test_file_that_cannot_be_read_is_named(tmp_path):
  def prepare(**_):
    raise PermissionError(errno.EACCES, "Permission denied", "/elsewhere/aclImdb_v1.tar.gz")

  with pytest.raises(
    UserError, match="cannot read /elsewhere/aclImdb_v1.tar.gz: Permission denied"
  ):
    open_toy(tmp_path, toy(prepare))


def _open_and_tell(data_dir, log, results):
  said = []
  digest = open_toy(data_dir, toy(log=log), said.append).digest
  results.put((digest, any("waiting" in text for text in said)))


def test_two_processes_prepare_once(tmp_path):
  context = multiprocessing.get_context("spawn")
  results, log = context.Queue(), tmp_path / "log"
  processes = [
    context.Process(target=_open_and_tell, args=(tmp_path / "data", log, results)) for _ in range(2)
  ]
  for process in processes:
    process.start()
  answers = [results.get(timeout=60) for _ in processes]
  for process in processes:
    process.join()
  assert log.read_text() == "prepared\n"
  assert answers[0][0] == answers[1][0]


def test_second_opener_waits_and_says_so(tmp_path):
  """The one that holds the lock finishes while the other one waits for it."""
  said, path = [], open_toy(tmp_path / "other").path
  with archives.locked(tmp_path / f".{path.name}.lock", said.append):
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    log = tmp_path / "log"
    process = context.Process(target=_open_and_tell, args=(tmp_path, log, results))
    process.start()
    while process.is_alive() and results.empty() and not _waited(process.pid):
      time.sleep(0.02)
    path.rename(tmp_path / path.name)
  digest, waited = results.get(timeout=60)
  process.join()
  assert waited and not log.exists() and said == []
  assert digest == open_toy(tmp_path).digest


def _waited(pid):
  """Whether process `pid` sleeps in flock, by the list of the kernel."""
  with open("/proc/locks") as file:
    return any("->" in line and f" {pid} " in line for line in file)


def test_data_dir_that_is_a_file(tmp_path):
  (tmp_path / "data").write_text("")
  with pytest.raises(UserError, match="cannot prepare data in .*--data_dir"):
    open_toy(tmp_path / "data")
