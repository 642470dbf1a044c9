"""The command line: every mistake is one line that names the cause and the remedy."""

import argparse
import os
import pwd
import sys

import pytest
from absl import flags

import documented
import tiny
from lra.data import tasks
from lra.runs import command
from lra.system import process
from lra.system.errors import UserError
from lra.training import setup


@pytest.fixture
def parse(monkeypatch):
  """parse(*arguments) -> flags, of a command line of its own."""
  monkeypatch.chdir(tiny.ROOT)

  def parse(*arguments):
    values = command.define_flags(flags.FlagValues())
    monkeypatch.setattr(sys, "argv", ["train.py", *arguments])
    command.parse(values, sys.argv)
    return values

  return parse


KEYS = "--help lists the flags, configs/lra/base.py the keys"


@pytest.mark.parametrize(
  "arguments, answer",
  [
    ([], "no --config; try --config configs/lra/listops_cosformer.py:quick"),
    (["--config", "none.py"], f"No such file or directory: 'none.py' in {tiny.ROOT} ({KEYS})"),
    (["--config", "none.py", "--config.seed=1"], "none.py"),
    (
      ["--config", "configs/lra/listops_cosformer.py:none"],
      "unknown preset 'none'; there are default, official, small, quick",
    ),
    (["--config.train.stepz=3"], "no config key 'stepz'; did you mean 'steps'?"),
    (["--config.modle.dropout=0.5"], "no config key 'modle'; did you mean 'model'?"),
    (["--config.train.steps=3", "--config.data.train=3"], "no config key 'data.train'"),
    (["--config.xyz=3"], f"no config key 'xyz' ({KEYS})"),
    (["--config.train.steps=many"], "--config.train.steps=many: invalid literal for int()"),
    (["--config.train.steps=1.5"], "--config.train.steps=1.5: invalid literal for int()"),
    (["--config.model.cls=maybe"], "--config.model.cls=maybe: "),
    (["--config.model=8"], "--config.model=8: "),
    (["--config.train.steps"], "Missing value for flag --config.train.steps"),
    (["--workdri=x"], "Unknown command line flag 'workdri'. Did you mean: workdir"),
    (["--max_seconds=-1"], "--max_seconds=-1: -1.0 is not a non-negative number"),
    (["--max_seconds=soon"], "--max_seconds=soon: could not convert string to float"),
    (["train.steps=3"], "unexpected argument 'train.steps=3'; options start with --"),
  ],
)
def test_mistakes_are_one_line(parse, arguments, answer):
  given = arguments if not arguments or "--config" in arguments else ["--config", tiny.RECIPE]
  with pytest.raises(UserError) as raised:
    parse(*given, *(arguments if given is not arguments else []))
  assert answer in str(raised.value) and "Traceback" not in str(raised.value)
  assert "\n" not in str(raised.value) and len(str(raised.value)) < 200


def attention_options(values):
  given = values.config.model.attention_options.to_dict()
  return {key: value for key, value in given.items() if value is not None}


@pytest.mark.parametrize(
  "recipe, attention, expected",
  [
    ("listops_softmax.py:small", "cosformer", {}),
    ("listops_cosformer.py:small", "softmax", {"dropout": 0.1}),
    ("listops_softmax.py:official", "linear", {"lra_padding": True}),
    ("image_cosformer.py:official", "softmax", {"lra_padding": True, "dropout": 0.2}),
    ("listops_cosformer.py:official", "relu", {}),
  ],
)
def test_another_mechanism_has_the_options_of_its_own_recipe(
  parse, monkeypatch, recipe, attention, expected
):
  monkeypatch.setitem(command.ATTENTION, "relu", documented.attention())
  values = parse("--config", f"configs/lra/{recipe}", f"--config.model.attention={attention}")
  assert attention_options(values) == expected
  setup.build_model(values.config, tasks.get(values.config.task.name), 2000)
  if expected:
    set_ = "--config.model.attention_options.lra_padding=false"
    same = parse("--config", f"configs/lra/{recipe}", f"--config.model.attention={attention}", set_)
    assert attention_options(same) == expected | {"lra_padding": False}


def test_config_file_that_raises_is_one_line(parse, tmp_path):
  for name, text in (("syntax", "def f(:"), ("value", "1 / 0"), ("missing", "import no_such_one")):
    (tmp_path / f"{name}.py").write_text(text)
    with pytest.raises(UserError) as raised:
      parse("--config", str(tmp_path / f"{name}.py"))
    assert "\n" not in str(raised.value) and "Traceback" not in str(raised.value)


def test_values_reach_the_config(parse):
  values = parse(
    *("--config", tiny.RECIPE, "--config.model.attention=linear", "--config.optim.eps=1e-3"),
    *("--config.model.attention_options.length=64", "--config.model.cls=true"),
    *("--max_seconds=2.5", "--workdir", "w", "--raw_dir=r"),
  )
  config = values.config
  assert config.model.attention == "linear" and config.optim.eps == 1e-3
  assert config.model.attention_options.length == 64 and config.model.cls is True
  assert config.train.steps == 3000  # of the preset
  assert (values.max_seconds, values.workdir, values.raw_dir) == (2.5, "w", "r")


@pytest.mark.parametrize(
  "arguments, name",
  [
    ([], "listops_cosformer-quick-seed0"),
    (["--config.seed=3"], "listops_cosformer-quick-seed3"),
    (
      ["--config.train.steps=5", "--config.model.attention=linear"],
      "listops_cosformer-quick-model.attention=linear-train.steps=5-seed0",
    ),
    (["--config.model.dtype=a b/c"], "listops_cosformer-quick-model.dtype=a_b_c-seed0"),
  ],
)
def test_default_workdir_names_recipe_preset_overrides_and_seed(parse, arguments, name):
  values = parse("--config", tiny.RECIPE, *arguments)
  assert command.default_workdir(values).as_posix() == f"runs/{name}"
  whole = parse("--config", str(tiny.ROOT / tiny.RECIPE), *arguments)
  assert command.default_workdir(whole).as_posix() == f"runs/{name}"


def test_default_workdir_knows_values_but_not_their_order(parse):
  name = lambda *arguments: command.default_workdir(parse("--config", tiny.RECIPE, *arguments))
  a, b = "--config.train.steps=5", "--config.optim.eps=1e-3"
  assert name(a, b) == name(b, a) != name(a)
  assert name(a) != name("--config.train.steps=6")


def test_data_folder_is_in_the_cache_folder_unless_one_is_typed(monkeypatch, tmp_path):
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
  folders = lambda **given: command.folders(
    argparse.Namespace(**{"data_dir": None, "raw_dir": ""} | given)
  )
  assert folders() == {"data_dir": tmp_path / "lra", "raw_dir": None}
  monkeypatch.delenv("XDG_CACHE_HOME")
  monkeypatch.setenv("HOME", str(tmp_path))
  assert folders()["data_dir"] == tmp_path / ".cache/lra"
  typed = folders(data_dir="~/a", raw_dir=f"{tmp_path}/a")
  assert typed == {"data_dir": tmp_path / "a", "raw_dir": tmp_path / "a"}


def test_user_without_a_name_and_a_home_is_asked_for_folders(monkeypatch):
  monkeypatch.delenv("HOME", raising=False)
  monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
  monkeypatch.setattr(pwd, "getpwuid", lambda number: {}[number])
  with pytest.raises(UserError, match="no home folder .* choose one with --data_dir"):
    command.folders(argparse.Namespace(data_dir=None, raw_dir=None))
  for given in ("~/a", "~nobody-of-that-name/a"):
    with pytest.raises(UserError, match=f"{given}: there is no such home folder"):
      command.folder(given)


@pytest.mark.parametrize(
  "changes, answer",
  [
    ({"task__name": "nope"}, "unknown task 'nope'; config.task.name is one of image, listops"),
    ({"train__batch_size": 0}, "config.train.batch_size must be at least 1, not 0"),
    ({"data__buckets": 0}, "config.data.buckets must be at least 1, not 0"),
    ({"seed": -1}, "config.seed must be at least 0, not -1"),
    ({"task__seed": -2}, "config.task.seed must be at least 0, not -2"),
    ({"model__dropout": 1.5}, "config.model.dropout must be less than 1, not 1.5"),
    ({"model__emb_dim": 0}, "config.model.emb_dim must be at least 1, not 0"),
    ({"data__device_gigabytes": -1.0}, "config.data.device_gigabytes must be at least 0, not -1.0"),
    ({"data__bucket_multiple": 100_000}, "bucket_multiple must be at most 65,536, not 100000"),
    ({"optim__learning_rate": float("nan")}, "learning_rate must be a finite number, not nan"),
    ({"optim__eps": 0.0}, "config.optim.eps must be more than 0, not 0.0"),
    ({"train__select": "first"}, "config.train.select is 'best' or 'last', not 'first'"),
    ({"optim__schedule": "none"}, "unknown schedule 'none'; config.optim.schedule is one of"),
    ({"model__dtype": "int8"}, "unknown dtype 'int8'; config.model.dtype is auto,"),
    ({"model__attention": "none"}, "unknown attention 'none'; there are cosformer, linear"),
    ({"model__positions": "none at all"}, "unknown positions 'none at all'; there are"),
    ({"model__positions": "row_column", "task__max_length": 15}, "need a square image, not 15"),
    ({"model__pooling": "max"}, "unknown pooling 'max'; there are first, mean"),
    ({"model__num_heads": 3}, "qkv_dim 16 is not a multiple of num_heads 3"),
    ({"model__attention_options__length": 9}, "attention_options.length 9 is less than the 16"),
    (
      {"model__attention": "softmax", "model__attention_options__feature_map": "exp"},
      "softmax attention has no option feature_map; it has",
    ),
    (
      {"model__attention_options__feature_map": "tanh"},
      "unknown feature_map 'tanh'; there are",
    ),
    (
      {"model__attention_options__reweight": "sin"},
      "unknown reweight 'sin'; there are none, cos",
    ),
  ],
)
def test_impossible_config_is_one_line_before_anything_is_written(tmp_path, changes, answer):
  with pytest.raises(UserError) as raised:
    tiny.run(tmp_path, tmp_path / "run", **changes)
  assert answer in str(raised.value) and "\n" not in str(raised.value)
  assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
  "outcome, code, said",
  [
    (UserError("a; b"), 1, "error: a; b\n"),
    (OSError(28, "No space left on device"), 1, "error: [Errno 28] No space left on device; free"),
    (KeyboardInterrupt(), 130, "interrupted\n"),
    (0, 0, ""),
    (143, 143, ""),
  ],
)
def test_process_ends_with_one_line_and_a_code(capsys, outcome, code, said):
  def main():
    if isinstance(outcome, BaseException):
      raise outcome
    return outcome

  with pytest.raises(SystemExit) as raised:
    process.run_main(main)
  assert raised.value.code == code
  out, errors = capsys.readouterr()
  assert out == "" and errors.startswith(said) and errors.count("\n") == bool(said)


def fails(process):
  """The one line of a process that fails."""
  _, errors = process.communicate(timeout=120)
  assert process.returncode == 1
  lines = tiny.said(errors)
  assert len(lines) == 1 and lines[0].startswith("error: "), errors
  return lines[0]


@pytest.mark.slow
def test_processes_end_with_one_line(space, tmp_path):
  """All at once: each spends its time importing."""
  (tmp_path / "file").write_text("")
  raw = tmp_path / "raw"
  raw.mkdir()
  for name in ("train", "val", "test"):
    (raw / f"basic_{name}.tsv").write_text("Source\tTarget\n( [MAX 1 2 ] )\tx\n")
  lra = {"min_length": 500, "max_length": 2000, "max_depth": 10, "max_args": 10}
  lra = [f"--config.task.{key}={value}" for key, value in lra.items()]
  where = lambda i: ("--workdir", str(tmp_path / f"run{i}"))
  started = [
    tiny.start(space, recipe="none.py", small=False),
    tiny.start(space, *where(1), "--data_dir", str(tmp_path / "file")),
    tiny.start(space, *where(2), "--data_dir", str(tmp_path), "--raw_dir", str(raw), *lra),
    tiny.start(space, "--help", small=False),
  ]
  missing, data_dir, malformed = (fails(process) for process in started[:3])
  assert "none.py" in missing
  assert str(tmp_path / "file") in data_dir and "--data_dir" in data_dir
  assert "basic_train.tsv:2: the target is 'x', not one of 0 to 9" in malformed
  out, _ = started[3].communicate(timeout=120)
  assert started[3].returncode == 0
  for name in ("--config", "--workdir", "--data_dir", "--raw_dir", "--max_seconds", "python train"):
    assert name in out


@pytest.mark.skipif(os.getuid() == 0, reason="root writes everywhere")
def test_read_only_data_dir_is_one_line(space, tmp_path):
  tmp_path.chmod(0o500)
  with pytest.raises(UserError, match="cannot prepare data in .*Permission denied.*--data_dir"):
    tiny.run(tmp_path, space / "read-only")
