"""The plan of a sweep: the runs a person would type, their names, what is left of them."""

import json
import shlex

import pytest

import documented
import handmade
import tiny
from lra.data import tasks
from lra.runs import command
from lra.sweeps import plan
from lra.sweeps.plan import Running
from lra.system.errors import UserError
from lra.training import setup


def test_runs_are_those_a_person_would_type():
  cells = plan.cells(plan.TASKS, ["softmax", "linear", "cosformer"], [0, 1, 2])
  assert len(cells) == len({cell.folder for cell in cells}) == 45
  assert [c.seed for c in cells] == sorted(c.seed for c in cells)  # a whole table first
  assert [c.attention for c in cells[:6]] == ["softmax"] * 5 + ["linear"]  # in it a whole row
  assert cells[0].folder == plan.ROOT / "runs/listops_softmax-seed0"
  typed = shlex.split(cells[-1].command)
  assert typed[:2] == ["python", "train.py"]
  values = command.read(typed[2:])
  assert plan.ROOT / command.default_workdir(values) == cells[-1].folder
  assert values.config.model.attention == "cosformer" and values.config.seed == 2


def test_presets_overrides_and_grids():
  cells = plan.cells(
    ["image"],
    ["cosformer"],
    [3],
    preset="quick",
    arguments=["--config.train.steps=5"],
    grid={"model.attention_options.feature_map": ["relu", "exp"], "config.model.cls": ["true"]},
  )
  assert [c.config["model"]["attention_options"]["feature_map"] for c in cells] == ["relu", "exp"]
  assert all(c.config["train"]["steps"] == 5 and c.config["model"]["cls"] is True for c in cells)
  assert cells[0].folder.name == (
    "image_cosformer-quick-model.attention_options.feature_map=relu-model.cls=True-train.steps=5-seed3"
  )


def test_pretraining_is_a_run_before_and_both_have_the_steps_of_one():
  make = lambda **more: plan.cells(
    ["listops"], ["linear"], [4], preset="quick", pretrain="masked", **more
  )
  parent, child = make()
  assert child.parent is parent and parent.parent is None
  assert [c.config["train"]["objective"] for c in (parent, child)] == ["masked", "classify"]
  assert [c.config["train"]["steps"] for c in (parent, child)] == [1500, 1500]
  values = command.read(child.arguments)
  assert plan.ROOT / values.init_from == parent.folder
  assert plan.ROOT / command.default_workdir(values) == child.folder
  parent, child = make(arguments=["--config.train.steps=100"], pretrain_steps=30)
  assert [c.config["train"]["steps"] for c in (parent, child)] == [30, 70]
  whole = plan.cells(["listops"], ["linear"], [4], preset="quick")[0].config
  assert {**child.config, "train": whole["train"]} == whole


def test_option_that_a_mechanism_lacks_is_not_varied_for_it():
  grid = {"model.attention_options.feature_map": ["relu", "exp"], "train.steps": ["5", "6"]}
  cells = plan.cells(["image"], ["softmax", "cosformer"], [0], preset="quick", grid=grid)
  of = lambda cell: (
    cell.config["model"]["attention_options"]["feature_map"],
    cell.config["train"]["steps"],
  )
  assert [of(c) for c in cells if c.attention == "softmax"] == [(None, 5), (None, 6)]
  every = [("relu", 5), ("relu", 6), ("exp", 5), ("exp", 6)]
  assert [of(c) for c in cells if c.attention == "cosformer"] == every
  with pytest.raises(UserError, match="did you mean"):
    plan.cells(["image"], ["softmax"], [0], grid={"model.attention_options.feature_mop": ["relu"]})


def test_rows_of_an_ablation():
  """Each row on the tasks that it fits, none of them twice, every key one that train.py takes."""
  names = ["listops", "image"]
  cells = plan.cells(names, list(plan.ATTENTION), [0], preset="quick", ablation="locality")
  assert len({json.dumps(cell.config, sort_keys=True) for cell in cells}) == len(cells) > 30
  square = [c for c in cells if c.config["model"]["attention_options"]["reweight"] == "cos2d"]
  assert [cell.task for cell in square] == ["image"]
  for cell in cells:
    task, config = tasks.get(cell.task), command.read(cell.arguments).config
    options = {key: value for key, value in config.task.items() if key != "name"}
    if cell.task == "image":  # which all rows fit
      setup.build_model(config, task, task.longest(options))
  linear = plan.cells(names, ["linear"], [0], preset="quick", ablation="locality")
  assert {cell.attention for cell in linear} == {"linear"} and linear[0] in cells
  with pytest.raises(UserError, match="unknown ablation 'nope'; there are paper, locality"):
    plan.cells(names, ["linear"], [0], ablation="nope")


def test_long_names_are_cut_but_stay_apart():
  given = [f"--config.{key}={value}" for key, value in tiny.SMALL.items()]
  make = lambda *more: plan.cells(
    ["listops"], ["linear"], [0], preset="quick", arguments=[*given, *more]
  )
  (one,), (other,) = make("--config.optim.eps=1e-3"), make("--config.optim.eps=1e-4")
  assert len(one.folder.name) < 200 and one.folder != other.folder
  assert one.folder.name.endswith("-seed0")


def test_mechanism_without_a_recipe_of_its_own(monkeypatch):
  monkeypatch.setitem(plan.ATTENTION, "mine", documented.attention())
  (cell,) = plan.cells(["text"], ["mine"], [0])
  assert "--config.model.attention=mine" in cell.arguments
  assert cell.config["model"]["attention"] == "mine"


@pytest.mark.parametrize(
  "changes, answer",
  [
    ({"task_names": ["nope"]}, "unknown task 'nope'"),
    ({"attentions": ["nope"]}, "unknown attention 'nope'; there are cosformer, linear, softmax"),
    ({"preset": "nope"}, "unknown preset 'nope'"),
    ({"arguments": ["--config.train.stepz=3"]}, "did you mean 'steps'"),
    ({"arguments": ["--config.seed=3"]}, "use --seeds"),
    ({"arguments": ["-config.seed=3"]}, "use --seeds"),
    (
      {"grid": {"config.train.steps": ["1", "2"]}, "arguments": ["--config.train.steps=3"]},
      "--grid varies train.steps, and --config.train.steps sets it",
    ),
    ({"arguments": ["--workdir=x"]}, "use --preset and --runs_dir"),
    ({"grid": {"model.attention": ["linear"]}}, "use --attentions"),
    ({"grid": {"train.steps": ["many"]}}, "invalid literal"),
    ({"pretrain": "classify"}, "--pretrain is masked or next, not 'classify'"),
    ({"pretrain_steps": 5}, "--pretrain_steps goes with --pretrain"),
    ({"pretrain": "next", "pretrain_steps": 9999}, "some have to be left"),
    ({"pretrain": "next", "arguments": ["--init_from=x"]}, "--pretrain chooses --init_from"),
    ({"pretrain": "next", "task_names": ["lm"]}, "task lm have no classes"),
  ],
)
def test_mistakes_show_before_anything_runs(changes, answer):
  given = {"task_names": ["text"], "attentions": ["linear"], "seeds": [0]} | changes
  with pytest.raises(UserError, match=answer):
    plan.cells(**given)


def test_time_left():
  left = plan.seconds_left
  assert left({}, [], ["text"], 1) is None
  assert left({"text": [10, 20]}, [], ["text", "text"], 1) == 30
  assert left({"text": [10, 20]}, [], ["text", "text"], 2) == 15
  assert left({"text": [10], "image": [30]}, [], ["listops"], 1) == 20
  assert left({}, [Running("text", 10, 0.0, 0.25)], [], 1) == pytest.approx(30)
  assert left({}, [Running("text", 10, 0.5, 0.75)], ["text"], 1) == pytest.approx(10 + 40)
  assert left({"text": [10]}, [Running("text", 1, 0.0, 0.0)], [], 4) == 10


def test_overview_counts_and_names_the_best():
  cells = plan.cells(["text", "image"], ["linear", "softmax"], [0], preset="quick")
  results = {c: {"test": {"accuracy": 0.5 + i / 10}} for i, c in enumerate(cells)}
  line = plan.overview(results, [Running("text", 1, 0, 0.5)], 2, 7, 90)
  assert line == (
    "4 done, 1 running, 2 failed, 7 waiting; 1m30s left; "
    "best: text 0.7000 softmax, image 0.8000 softmax; at 50%"
  )


def test_fraction_of_a_run(tmp_path):
  folder = handmade.run_folder(tmp_path / "listops_linear-quick-seed0", *handmade.arguments())
  (cell,) = plan.cells(["listops"], ["linear"], [0], preset="quick", runs_dir=tmp_path)
  assert cell.folder == folder and plan.fraction(cell) == 1
  (folder / "metrics.jsonl").write_text('{"step": 1500}\n{"step": 30')
  assert plan.fraction(cell) == 0.5
  (folder / "metrics.jsonl").unlink()
  assert plan.fraction(cell) == 0
