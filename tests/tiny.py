"""A run that takes seconds, in this process or in one of its own."""

import contextlib
import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import jax
import pytest
from jax.experimental.compilation_cache import compilation_cache

import train
from configs.lra import listops
from lra.runs import run_directory
from lra.system import devices

ROOT = Path(__file__).parent.parent
RECIPE = "configs/lra/listops_cosformer.py:quick"
SMALL = {
  "task.max_length": 16,
  "task.train": 200,
  "task.validation": 40,
  "task.test": 40,
  "model.num_layers": 1,
  "model.num_heads": 2,
  "model.emb_dim": 16,
  "model.qkv_dim": 16,
  "model.mlp_dim": 16,
  "model.dropout": 0.1,
  "train.steps": 24,
  "train.batch_size": 16,
  "train.eval_batch_size": 16,
  "train.eval_every": 8,
  "train.log_every": 4,
  "train.steps_per_dispatch": 3,
  "data.buckets": 1,
}
CACHE = {  # every run compiles the same programs
  "jax_persistent_cache_min_compile_time_secs": 0,
  "jax_persistent_cache_min_entry_size_bytes": -1,
}
WHOLE = pytest.StashKey()  # where pytest keeps what the fixture of that name has made


class Never:
  """A request to stop that does not come."""

  reason = None

  def listen(self) -> None:
    pass


class After(Never):
  """A request to stop that comes when it is asked for the n-th time: at a step of our choice."""

  def __init__(self, n: int) -> None:
    self.asked, self.n = 0, n

  @property
  def reason(self) -> str | None:
    self.asked += 1
    return "a test" if self.asked > self.n else None


@pytest.fixture(scope="module")
def space(tmp_path_factory):
  """A folder for data and a compilation cache, the latter in use by this process, too."""
  base = tmp_path_factory.getbasetemp()
  folder = base / "tiny"  # the same for every module
  if not folder.exists():
    folder.mkdir()
    common = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    for name in ("data", "cache"):  # of all workers
      (common / "tiny" / name).mkdir(parents=True, exist_ok=True)
      if common != base:
        (folder / name).symlink_to(common / "tiny" / name)
  before = {name: getattr(jax.config, name) for name in (*CACHE, "jax_compilation_cache_dir")}
  for name, value in (CACHE | {"jax_compilation_cache_dir": str(folder / "cache")}).items():
    jax.config.update(name, value)
  compilation_cache.reset_cache()
  yield folder
  for name, value in before.items():
    jax.config.update(name, value)
  compilation_cache.reset_cache()


@pytest.fixture
def whole(space, one_device, request):
  """(folder, result, output) of an uninterrupted run on one device, made once."""
  if WHOLE not in request.config.stash:
    request.config.stash[WHOLE] = run(space, space / "whole")
  return space / "whole", *request.config.stash[WHOLE]


@pytest.fixture
def one_device(monkeypatch):
  """Runs of this process use the first device alone."""
  mesh = jax.make_mesh((1,), ("data",), (jax.sharding.AxisType.Auto,), devices=jax.devices()[:1])
  monkeypatch.setattr(devices, "data_mesh", lambda: mesh)


def config(**changes):
  """The tiny config; `train__steps=5` is train.steps."""
  made = listops.make("cosformer", "quick")
  changes = {name.replace("__", "."): value for name, value in changes.items()}
  made.update_from_flattened_dict(SMALL | changes)
  return made


def run(space, workdir, stop=None, init_from=None, **changes):
  """(result, what was printed) of a run in this process."""
  folders = {"data_dir": space / "data", "raw_dir": None, "init_from": init_from}
  with contextlib.redirect_stdout(io.StringIO()) as out:
    result = train.train(config(**changes), workdir, stop=stop or Never(), **folders)
  return result, out.getvalue()


def flags(devices):
  """XLA's flags of a process like this one."""
  return re.sub(r"device_count=\d+", f"device_count={devices}", os.environ["XLA_FLAGS"])


def said(errors):
  """The lines of a process's standard error that are not of XLA's log."""
  return [x for x in errors.splitlines() if not re.match(r"\[Gloo\]|WARNING|[IWE]\d{4} ", x)]


def start(space, *arguments, devices=1, recipe=RECIPE, small=True, through=(), **options):
  """A process of train.py, its output in pipes; later arguments win.

  through: another script and its arguments that come before train.py. options: of Popen.
  """
  sizes = [f"--config.{key}={value}" for key, value in SMALL.items()] if small else []
  environment = {name.upper(): str(value) for name, value in CACHE.items()}
  return subprocess.Popen(
    [sys.executable, *through, "train.py", "--config", recipe, *sizes, *arguments],
    cwd=ROOT,
    env=os.environ
    | environment
    | {
      "JAX_COMPILATION_CACHE_DIR": str(space / "cache"),
      "JAX_PLATFORMS": "cpu",
      "XLA_FLAGS": flags(devices),
      "LRA_DATA_DIR": str(space / "data"),
    },
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
    **options,
  )


def metrics(workdir, timeless=True, name="metrics.jsonl"):
  """The lines of a metrics file, by default without measurements of the machine."""
  lines = [json.loads(line) for line in (workdir / name).read_text().splitlines()]
  drop = "time/" if timeless else "\0"
  return [
    {name: value for name, value in line.items() if not name.startswith(drop)} for line in lines
  ]


def comparable(result):
  """A result without measurements of the machine."""
  return {k: v for k, v in result.items() if k not in ("time", "peak_memory_gigabytes")}


def read_result(workdir):
  return run_directory.read_result(workdir)


def same_as(whole, folder):
  """Asserts that the run in `folder` is `whole` bit for bit."""
  assert metrics(folder) == metrics(whole[0])
  assert comparable(read_result(folder)) == comparable(whole[1])
