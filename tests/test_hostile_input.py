"""Every parser of what comes from outside: a right parse or one clear UserError, never anything else.

A few inputs a parser in every run; `pytest -m fuzz` tries 10,000 each, and every byte of a record and
a manifest.
"""

import json
import random
import re

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lra.data import store
from lra.data.tasks import image, retrieval, text
from lra.reporting import run_record
from lra.runs import run_directory, sealed_json
from lra.runs.run_directory import RunDirectory
from lra.system.errors import UserError
from parsers import PARSERS, finished, prepared, read_record

# ml_collections loads config files so; numpy says so of a damaged header
pytestmark = [
  pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning"),
  pytest.mark.filterwarnings("ignore:Reading `.npy`:UserWarning"),
]
FEW, MANY = 15, 10_000
PIECES = (
  b"",
  b"\0",
  b"\xff" * 9,
  b"\n",
  b"\t",
  b'"',
  b"9" * 5000,
  b"[" * 3000,
  b"../",
  b"-1",
  b"nan",
)


@st.composite
def damaged(draw, samples):
  """A few changes to one of the samples: bytes set, cut out, repeated or put in; or any bytes."""
  data = bytearray(draw(st.sampled_from(samples)))
  for _ in range(draw(st.integers(0, 4))):
    at = draw(st.integers(0, max(0, len(data) - 1)))
    end = at + draw(st.integers(0, 40))
    kind = draw(st.integers(0, 4))
    if kind == 0 and data:
      data[at] = draw(st.integers(0, 255))
    elif kind == 1:
      del data[at:end]
    elif kind == 2:
      data[at:at] = data[at:end] * draw(st.integers(1, 50))
    elif kind == 3:
      data[at:at] = draw(st.sampled_from(PIECES) | st.binary(max_size=20))
    else:
      del data[at:]
  return bytes(data)


@pytest.fixture
def small(monkeypatch):
  """Data sets of a few examples."""
  monkeypatch.setattr(text, "PER_CLASS", 2)
  monkeypatch.setattr(image, "BATCH", 3)
  monkeypatch.setattr(retrieval, "PAIRS", {"train": 2})


@pytest.mark.parametrize("examples", [FEW, pytest.param(MANY, marks=pytest.mark.fuzz)])
@pytest.mark.parametrize("name", PARSERS)
def test_input_is_parsed_or_refused_in_one_line(name, examples, small, tmp_path):
  samples, parse = PARSERS[name]
  samples = samples(tmp_path)
  for sample in samples[:1]:
    if name != "cifar binary":
      parse(sample, tmp_path)  # what is whole is read

  @settings(
    max_examples=examples,
    derandomize=examples == FEW,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
  )
  @given(damaged(samples))
  def run(data):
    try:
      parse(data, tmp_path)
    except UserError as error:
      assert "\n" not in str(error) and len(str(error)) < 2000

  run()


@pytest.mark.parametrize("step", [97, pytest.param(1, marks=pytest.mark.fuzz)])
def test_a_flipped_byte_of_a_store_is_named(step, tmp_path):
  path = prepared(tmp_path)
  for file in sorted(path.iterdir()):
    whole = bytearray(file.read_bytes())
    for at in range(0, len(whole), step):
      whole[at] ^= 1
      file.write_bytes(whole)
      with pytest.raises(UserError, match=file.name):
        store._load(path)
      whole[at] ^= 1
    file.write_bytes(whole)
  store._load(path)


@pytest.mark.parametrize("step", [97, pytest.param(1, marks=pytest.mark.fuzz)])
def test_a_changed_byte_of_a_record_is_named(step, tmp_path):
  whole = finished(tmp_path)[1]
  for data in changed(whole, step):
    with pytest.raises(UserError, match="a.json is not "):
      read_record(data, tmp_path)
  read_record(whole, tmp_path)


@pytest.mark.parametrize("step", [97, pytest.param(1, marks=pytest.mark.fuzz)])
def test_a_changed_byte_of_a_run_is_named(step, tmp_path):
  """Not in files of earlier revisions, which have no digests: they are read as they are."""
  run, record = finished(tmp_path)
  config, environment, result = (
    json.loads((run / f"{name}.json").read_text()) for name in ("config", "environment", "result")
  )
  sealed_json.write(run / "config.json", config)
  sealed_json.write(run / "environment.json", environment)
  RunDirectory(run, config).finish(result)
  assert run_record.text(run_record.make(run)).encode() == record
  for name in ("config.json", "environment.json", "result.json", "metrics.jsonl"):
    whole = (run / name).read_bytes()
    for data in changed(whole, step):
      (run / name).write_bytes(data)
      with pytest.raises(UserError, match=f"{re.escape(name)} is damaged"):
        if name == "metrics.jsonl":
          run_directory.read_result(run)
        else:
          sealed_json.read(run / name)
    with pytest.raises(UserError, match=f"{re.escape(name)} is damaged"):
      run_record.make(run)
    (run / name).write_bytes(whole)
  run_record.make(run)


def changed(whole, step):
  """`whole` with one byte changed, every so many bytes, to any other value."""
  rng = random.Random(0)
  for at in range(0, len(whole), step):
    yield whole[:at] + bytes([whole[at] ^ rng.randrange(1, 256)]) + whole[at + 1 :]
