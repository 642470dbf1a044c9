"""Every recipe with every preset makes a model and an optimizer, and no key goes unread."""

import importlib.util
import inspect
import math
import re

import jax
import pytest
from ml_collections import ConfigDict

import tiny
import train
from configs.lra import ranges
from configs.lra.base import recipe_path
from lra.data import tasks
from lra.system.errors import UserError
from lra.training import optim, setup

RECIPES = sorted(p for p in (tiny.ROOT / "configs").glob("l*/*_*.py") if p.stem[0] != "_")
PRESETS = ("default", "official", "small", "quick")
CASES = [(p, s) for p in RECIPES for s in (PRESETS if p.parent.name == "lra" else PRESETS[::3])]
# Those of linear are cosFormer's, which a test says; softmax has options of its own in two presets.
BUILT = [(p, s) for p, s in CASES if p.stem.endswith("cosformer") or s in ("official", "small")]
BUILT = [(p, s) for p, s in BUILT if not (p.stem.endswith("linear") and s == "small")]


def load(path, preset):
  """The config as the command line would load it."""
  spec = importlib.util.spec_from_file_location(path.stem, path)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module.get_config(preset)


def _options(config):
  return {key: value for key, value in config.task.items() if key != "name"}


def test_every_task_has_a_recipe_for_every_mechanism():
  named = {f"{path.relative_to(tiny.ROOT).with_suffix('')}" for path in RECIPES}
  mechanisms = ("softmax", "linear", "cosformer")
  assert named == {f"{recipe_path(t)}_{a}" for t in tasks.TASKS for a in mechanisms}


@pytest.mark.parametrize("path, preset", BUILT, ids=lambda x: getattr(x, "stem", x))
def test_recipe_builds(path, preset):
  config = load(path, preset)
  assert path.with_suffix("") == (
    tiny.ROOT / f"{recipe_path(config.task.name)}_{config.model.attention}"
  )
  task = tasks.get(config.task.name)
  longest = task.longest(_options(config))
  setup.check_training(config)
  given = {"raw_dir": None, "cache_dir": None, "report": print}
  inspect.signature(task.prepare).bind(**given, **_options(config))
  config.model.num_layers = 1  # they are all alike
  model = setup.build_model(config, task, longest)
  optimizer, schedule = optim.make(config.optim, config.train.steps)
  ids = jax.ShapeDtypeStruct((2, task.streams, longest), "int32")
  lengths = jax.ShapeDtypeStruct((2, task.streams), "int32")
  init = lambda *inputs: model.init_with_output(jax.random.key(0), *inputs, train=False)
  logits, variables = jax.eval_shape(init, ids, lengths)
  jax.eval_shape(optimizer.init, variables["params"])
  tokens = (2, task.streams, longest, task.vocab_size)
  assert logits.shape == ((2, task.num_classes) if task.num_classes else tokens)
  assert logits.dtype == "float32"

  steps, rate = config.train.steps, config.optim.learning_rate
  assert 0 < config.train.log_every <= config.train.eval_every <= steps
  assert config.train.batch_size % 8 == 0
  peak = max(float(schedule(t)) for t in {min(config.optim.warmup_steps, steps - 1), steps - 1})
  if config.optim.schedule == "lra_rsqrt":
    rate /= math.sqrt(config.optim.warmup_steps)
  assert 0 < peak <= rate * 1.0001


@pytest.mark.parametrize(
  "task, preset", sorted({(p.stem.rpartition("_")[0], preset) for p, preset in CASES})
)
def test_mechanism_changes_the_mechanism_and_nothing_else(task, preset):
  """`--config.model.attention` and the name of the recipe come to the same, `official` apart."""
  made = [
    load(next(p for p in RECIPES if p.stem == f"{task}_{attention}"), preset).to_dict()
    for attention in ("linear", "cosformer")
  ]
  assert made[0]["model"].pop("attention") != made[1]["model"].pop("attention")
  assert made[0] == made[1]


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_number_has_a_range_and_is_refused_outside(path):
  config = load(path, "default")
  config.model.attention_options.update(length=20_000, dropout=0.1)
  for key, value in ranges.numbers(config):
    assert key in ranges.RANGES, f"{key} needs a line in configs/lra/ranges.py"
    low, high = (float(end) for end in ranges.RANGES[key][1:-1].split(", "))
    wrong = [low - 1, high + 1] + [low] * (ranges.RANGES[key][0] == "(")
    wrong += [high] * (ranges.RANGES[key][-1] == ")")
    if isinstance(value, float):
      wrong += [math.nan, math.inf, -math.inf]
    for number in map(type(value), wrong):
      config.update_from_flattened_dict({key: number})
      with pytest.raises(UserError, match=rf"^config\.{re.escape(key)} must be .*, not ") as raised:
        setup.check_training(config)
      assert "\n" not in str(raised.value)
    config.update_from_flattened_dict({key: value})
  setup.check_training(config)


def test_every_range_is_of_a_key():
  made = [load(path, "default") for path in RECIPES]
  known = {key for config in made for key, _ in ranges.numbers(config)}
  assert ranges.RANGES.keys() - known == {
    f"model.attention_options.{k}" for k in ("length", "dropout")
  }


def leaves(config, prefix=""):
  """{(id of the section, key): path} of every leaf."""
  found = {}
  for key, value in config.items():
    if isinstance(value, ConfigDict):
      found |= leaves(value, f"{prefix}{key}.")
    else:
      found[id(config), key] = prefix + key
  return found


def unread(config, run, monkeypatch):
  """Paths of the leaves that `run()` does not read; writing the whole config down does not count."""
  wanted, read = leaves(config), set()
  get, to_dict = ConfigDict.__getitem__, ConfigDict.to_dict

  def noting(self, key):
    read.add((id(self), key))
    return get(self, key)

  def written(self, *args, **kwargs):
    before = set(read)
    result = to_dict(self, *args, **kwargs)
    if self is config:
      read.intersection_update(before)
    return result

  with monkeypatch.context() as patch:
    patch.setattr(ConfigDict, "__getitem__", noting)
    patch.setattr(ConfigDict, "to_dict", written)
    run()
  return [path for leaf, path in wanted.items() if leaf not in read]


def test_no_key_goes_unread(space, one_device, tmp_path, monkeypatch):
  """The sections task and model are handed over whole to functions that refuse what they do not know."""
  config = tiny.config(train__plateau_steps=8)
  with config.unlocked():
    config.train.forgotten = 1
    config.forgotten = 1
  where = {"data_dir": space / "data", "raw_dir": None, "stop": tiny.Never()}
  run = lambda: train.train(config, tmp_path, **where)
  assert unread(config, run, monkeypatch) == ["forgotten", "train.forgotten"]


@pytest.mark.parametrize("section", ["task", "model"])
def test_unknown_key_of_a_section_handed_over_whole_is_refused(tmp_path, section):
  config = tiny.config()
  with config.unlocked():
    config[section].forgotten = 1
  where = {"data_dir": tmp_path / "data", "raw_dir": None, "stop": tiny.Never()}
  with pytest.raises((TypeError, UserError), match="forgotten"):
    train.train(config, tmp_path / "run", **where)
