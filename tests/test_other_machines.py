"""Every command where there is no home folder, LANG is C and all paths have spaces and other letters.

The commands are typed in another folder than the project's. Sessions before and after a change of the
clock: test_train.py; versions of Python and of packages: noxfile.py.
"""

import argparse
import json
import os
import shlex
import shutil
import subprocess
import sys

import pytest

import tiny
import train
from lra.data import store
from lra.runs import command
from lra.sweeps import plan
from lra.system.errors import UserError
from lra.training import setup

pytestmark = pytest.mark.slow
COPIED = ("train.py", "configs", "lra", "models", "scripts")
TINY = [f"--config.{key}={value}" for key, value in tiny.SMALL.items()]
TEXT = "Zwölf Boxkämpfer jagen Viktor quer über den großen Sylter Deich. " * 400


class Place:
  """A copy of the project, its data and runs, and how commands end there."""

  def __init__(self, folder, space):
    self.space = space
    self.project, self.elsewhere = folder / "ein Projekt λ", folder / "anderswo é"
    self.data, self.raw = folder / "Daten ö x", folder / "roh ß"
    self.runs, self.out = folder / "Läufe ж", folder / "Bilder и"
    for path in (self.project, self.elsewhere, self.raw):
      path.mkdir(parents=True)
    for name in COPIED:
      copy = shutil.copytree if (tiny.ROOT / name).is_dir() else shutil.copy
      copy(tiny.ROOT / name, self.project / name)
    for name in ("requirements.txt", "requirements-dev.txt", "requirements.lock"):
      shutil.copy(tiny.ROOT / name, self.project)
    (self.raw / "größer.txt").write_text(TEXT, encoding="utf-8")
    self.no_folder = folder / "file"  # nothing can be made below it, not even by root
    self.no_folder.write_text("")
    self.install(self.project / ".venv")

  def install(self, venv):
    """What scripts/run finds when it has set up .venv before."""
    (venv / "bin").mkdir(parents=True)
    (venv / "bin/python").write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} "$@"\n')
    (venv / "bin/python").chmod(0o755)
    lock = (self.project / "requirements.lock").read_text()
    for name in ("requirements.txt", "requirements-dev.txt"):
      (venv / name).write_text((self.project / name).read_text() + lock)

  def run(self, *arguments, **changes):
    """`scripts/run arguments`, a finished process."""
    environment = {
      "PATH": os.environ["PATH"],
      "LANG": "C",
      "HOME": str(self.no_folder / "home"),
      "JAX_PLATFORMS": "cpu",
      "JAX_COMPILATION_CACHE_DIR": str(self.space / "cache"),
      **{name.upper(): str(value) for name, value in tiny.CACHE.items()},
    }
    given = [str(self.project / "scripts/run"), *map(str, arguments)]
    options = {"cwd": self.elsewhere, "capture_output": True, "text": True, "encoding": "utf-8"}
    return subprocess.run(given, env=environment, timeout=1200, **options, **changes)


@pytest.fixture(scope="module")
def place(space, tmp_path_factory):
  """A place whose data folder has the data of the tiny config."""
  made = Place(tmp_path_factory.mktemp("other machines"), space)
  config = tiny.config()
  parts = setup.build(config)
  quiet = {"raw_dir": None, "report": lambda text: None}
  prepared = store.open_store(parts.task, parts.task_options, data_dir=space / "data", **quiet)
  shutil.copytree(prepared.path, made.data / prepared.path.name)
  return made


@pytest.fixture(scope="module")
def cell(place):
  """The run of the sweep below."""
  (made,) = plan.cells(
    ["listops"], ["cosformer"], [0], preset="quick", arguments=TINY, runs_dir=place.runs
  )
  return made


@pytest.fixture(scope="module")
def commands(place, cell):
  """Name of a script -> its exit code and what it printed, all run in one process."""
  results, data = place.out / "results", ["--data_dir", place.data]
  chosen = "--tasks listops --attentions cosformer --preset quick --seeds 0 --jobs 1".split()
  given = {
    "prepare_data": ["lm", "--preset", "quick", *data, "--raw_dir", place.raw],
    "sweep": [*chosen, "--runs_dir", place.runs, *TINY, "--", *data],
    "export_run": [cell.folder, "--results", results],
    "make_table": [results],
    "plot": [results, "--out", place.out],
    "report": [results, "--out", place.out / "Bericht.html"],
    "verify": [cell.folder, "--steps", 8, *data],
  }
  scripts = place.project / "scripts"
  lists = [[str(scripts / f"{name}.py"), *map(str, more)] for name, more in given.items()]
  process = place.run(tiny.ROOT / "tests/in_one_process.py", input=json.dumps(lists))
  assert process.returncode == 0, process.stderr
  return dict(zip(given, json.loads(process.stdout), strict=True))


@pytest.mark.parametrize(
  ("name", "said"),
  [
    ("prepare_data", "examples, user's files, in "),
    ("sweep", "1 of 1 runs finished, 0 failed"),
    ("export_run", " -> "),
    ("make_table", "| cosFormer ("),
    ("plot", ".svg"),
    ("report", "Bericht.html: 1 runs"),
    ("verify", "figures equal"),
  ],
)
def test_script(place, commands, name, said):
  code, out = commands[name]
  assert code == 0 and said in out and "Traceback" not in out, out


def test_train_finds_the_run_of_the_sweep(place, cell, commands):
  config = ["--config", place.project / tiny.RECIPE, *TINY]
  folders = ["--data_dir", place.data, "--workdir", cell.folder]
  process = place.run(place.project / "train.py", *config, *folders)
  assert process.returncode == 0, process.stderr
  assert "finished before: nothing was run" in process.stdout
  assert f"everything in   {cell.folder}" in process.stdout


def test_commands_write_where_they_were_told_to(place, commands):
  (record,) = (place.out / "results").glob("*.json")
  assert {path.suffix for path in place.out.iterdir()} >= {".png", ".svg", ".html"}
  assert "±" in (place.out / "Bericht.html").read_text(encoding="utf-8")
  assert json.loads(record.read_text())["name"] == record.stem
  assert not any(place.elsewhere.iterdir())


def test_config_of_another_folder_is_named_in_one_line(place):
  process = place.run(place.project / "train.py", "--config", tiny.RECIPE)
  assert process.returncode == 1
  assert process.stderr.startswith("error: ") and process.stderr.count("\n") == 1
  assert f"'{tiny.RECIPE.partition(':')[0]}' in {place.elsewhere}" in process.stderr


def test_home_that_cannot_be_written_asks_for_a_data_folder(tmp_path, monkeypatch):
  (tmp_path / "file").write_text("")
  monkeypatch.setenv("HOME", str(tmp_path / "file/home"))
  monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
  nothing = argparse.Namespace(data_dir=None, raw_dir=None)
  with pytest.raises(UserError, match="cannot prepare data in .*Not a directory.*--data_dir"):
    train.train(tiny.config(), tmp_path / "run", stop=tiny.Never(), **command.folders(nothing))
  assert not (tmp_path / "run").exists()
