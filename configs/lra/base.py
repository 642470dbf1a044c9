"""Every key of a run, its default and its meaning. Recipes are this plus a few assignments.

Any key can be set on the command line: --config.model.attention=linear --config.train.steps=100.
"""

import functools
import importlib
from collections.abc import Callable, Mapping
from typing import Any

from ml_collections import ConfigDict, config_dict

# The keys of `config.task` that are the data's own. A change of one makes (or finds) other data.
_PATHFINDER = {
  "difficulty": "hard",  # easy, intermediate, hard: contours of 6, 9, 14 dashes
  "train": 160_000,  # images generated (of a release: shares of what it has)
  "validation": 20_000,
  "test": 20_000,
  "seed": 0,  # of the generator and of the split
  "lra_quirks": True,  # the published generator's restriction of where contours start
}
TASKS: dict[str, dict[str, Any]] = {
  "listops": {
    "min_length": 500,  # tokens of an expression, exclusive
    "max_length": 2000,  # exclusive, too
    "max_depth": 10,  # nesting, the root at 1
    "max_args": 10,  # arguments of an operator, from 2
    "train": 96_000,  # examples generated (released files have the sizes they have)
    "validation": 2_000,
    "test": 2_000,
    "seed": 0,  # of the generator
  },
  "text": {
    "max_length": 4096,  # bytes; the rest of a review is cut off
    "validation_examples": 2500,  # taken from train; 0: validation = test, as published
    "seed": 0,  # of that choice
  },
  "retrieval": {
    "max_length": 4000,  # bytes of a document
    "seed": 0,  # of pairs and splits, where they are rebuilt from a citation corpus
  },
  "image": {
    "validation_examples": 5000,  # the last ones of train
    "resolution": 32,  # side in pixels; a divisor of 32 takes means of squares
  },
  "pathfinder": _PATHFINDER | {"resolution": 32},
  "pathx": _PATHFINDER | {"resolution": 128},
  "lm": {
    "source": "auto",  # wikitext, files (*.txt) or imdb; auto: the first of them that there is
    "max_length": 1024,  # bytes of a block
    "held_out": 0.05,  # share of a text without splits that is validation, as much again is test
    "seed": 0,  # of the order of reviews, where the text is IMDB's
  },
}


def recipe_path(task: str) -> str:
  """The file of a task's presets without its suffix; those of a mechanism add _ and its name."""
  return {"lm": "configs/lm/bytes"}.get(task, f"configs/lra/{task}")


def load(task: str, attention: str, preset: str) -> ConfigDict:
  """The config of a task's recipe. Raises ValueError for an unknown preset."""
  return importlib.import_module(recipe_path(task).replace("/", ".")).make(attention, preset)


def base(task: str, attention: str) -> ConfigDict:
  """The default config of a task and a mechanism; sizes and schedule are the task file's to set."""
  unset = config_dict.placeholder
  return ConfigDict(
    {
      "seed": 0,  # of initialisation, dropout and batch order
      "task": {"name": task, **TASKS[task]},
      "model": {
        "attention": attention,  # softmax, linear or cosformer: a key of models.attention.ATTENTION
        "attention_options": {  # None: the mechanism's own; one it does not know is an error
          "feature_map": unset(str),  # cosformer: relu, leaky_relu, identity, elu1 or exp
          "reweight": unset(str),  # cosformer: cos, none, multiscale, decay, cos2d (square images)
          "frequencies": unset(str),  # cosformer, of multiscale: geometric or learned
          "length": unset(int),  # cosformer: a fixed M instead of the true length
          "rope": unset(bool),  # linear, cosformer: rotary positions in the numerator alone
          "dropout": unset(float),  # softmax: on the weights; takes the dense path
          "lra_padding": unset(bool),  # treat padding as the published harness does
        },
        "convolution": 0,  # width of a depth-wise convolution before q, k, v: 3 to 5 tokens; 0: none
        "output_norm": False,  # RMS normalisation of each head's output
        "num_layers": 4,
        "num_heads": 8,
        "emb_dim": 512,  # width of the residual stream
        "embedding_std": 1.0,  # of token embeddings at the start; learned positions have 0.02
        "qkv_dim": 512,  # of all heads together
        "mlp_dim": 1024,  # of the blocks and of the head
        "dropout": 0.1,  # on embeddings and on both branches of a block
        "positions": "sinusoidal",  # sinusoidal, learned, row_column (square images) or none
        "cls": True,  # a learned vector in front of the sequence
        "pooling": "first",  # first, masked_mean, or mean (over padding, too)
        "interaction": "nli",  # of two documents: nli [u, v, u*v, u-v] or concat [u, v]
        "zero_is_padding": False,  # mask id 0 wherever it stands: black pixels in the published code
        "dtype": "auto",  # of activations: float32, bfloat16, auto (bfloat16 on accelerators)
      },
      "optim": {
        "schedule": "cosine",  # cosine, linear, lra_rsqrt, lra_cosine
        "learning_rate": 1e-3,  # the peak; of lra_rsqrt the peak times sqrt(warmup_steps)
        "warmup_steps": 1000,
        "cycle_steps": 0,  # where the schedule reaches 0 (lra_cosine starts anew); 0: train.steps
        "beta1": 0.9,
        "beta2": 0.98,
        "eps": 1e-9,
        "weight_decay": 0.1,  # decoupled
        "decay": "matrices",  # what decays: matrices, or all parameters as in the published code
        "clip_norm": 1.0,  # of the global gradient norm; 0: off
      },
      "train": {
        "objective": "classify",  # classify, masked (predict hidden tokens) or next (each next token)
        "mask_share": 0.15,  # of objective masked: tokens that are hidden
        "steps": 5000,
        "batch_size": 32,  # over all devices
        "accumulate": 0,  # parts a batch is worked through in, gradients added up; 0: as is fastest
        "eval_batch_size": 64,  # over all devices; changes speed and memory, never a result
        "eval_every": 500,  # steps between evaluations on validation
        "select": "best",  # what is tested: the best on validation (by accuracy; of objectives
        # over tokens by loss), or the last as published
        "log_every": 50,  # steps between log lines
        "steps_per_dispatch": 10,  # at most, in one call of the device
        "plateau_steps": 10_000,  # no better than the commonest label by then: report a plateau ...
        "restarts": 0,  # ... and start again from another seed, at most so often
        "checkpoint_seconds": 600,  # between checkpoints beside those after each evaluation
      },
      "data": {
        "bucketing": True,  # False: pad everything to task.max_length
        "buckets": 8,  # padded lengths, chosen to waste least; each costs one compilation
        "bucket_multiple": 64,  # of which a padded length is a multiple
        "device_gigabytes": 8.0,  # a split up to this size lives on the device, else on the host
      },
    }
  )


def complete(config: Mapping[str, Any]) -> dict[str, Any]:
  """A config that an earlier revision wrote, with the keys that came later at their defaults.

  So the default of a new key has to be what there was before it.
  """
  if not {"task", "model"} <= config.keys() or config["task"]["name"] not in TASKS:
    return dict(config)
  return _over(base(config["task"]["name"], config["model"]["attention"]).to_dict(), config)


def _over(defaults: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
  both = {k: v for k, v in defaults.items() if k in config and isinstance(v, Mapping)}
  return {**defaults, **config, **{k: _over(v, config[k]) for k, v in both.items()}}


def recipes(
  task: str, presets: Mapping[str, Callable[[ConfigDict], None]]
) -> tuple[Callable[..., ConfigDict], ...]:
  """make(attention, preset), then what recipe files call `get_config`: make for each mechanism.

  Each makes the base config with a preset applied, and raises ValueError for an unknown preset.
  """

  def make(attention: str, preset: str = "default") -> ConfigDict:
    if preset not in presets:
      raise ValueError(f"unknown preset {preset!r}; there are {', '.join(presets)}")
    config = base(task, attention)
    presets[preset](config)
    return config

  return make, *(functools.partial(make, name) for name in ("cosformer", "linear", "softmax"))


def published(config: ConfigDict, *, attention_dropout: float = 0.1) -> None:
  """What google-research/long-range-arena does on every task, padding semantics included."""
  config.model.attention_options.lra_padding = True
  if config.model.attention == "softmax":
    config.model.attention_options.dropout = attention_dropout
  config.optim.update(schedule="lra_rsqrt", learning_rate=0.05, decay="all", clip_norm=0.0)
  config.train.select = "last"
  config.data.bucketing = False


def shell(config: ConfigDict) -> None:
  """The model of Nystromformer (arXiv 2102.03902) and Skyformer: 2 layers, width 64, 2 heads."""
  config.model.update(num_layers=2, num_heads=2, emb_dim=64, qkv_dim=64, mlp_dim=128, dropout=0.1)
  config.model.update(positions="learned", embedding_std=0.02, cls=False, pooling="masked_mean")
  config.optim.update(schedule="linear", weight_decay=0.0, beta2=0.999, eps=1e-6)


def small(config: ConfigDict) -> None:
  """`shell` as Nystromformer trains it.

  Ours are: the mean over real tokens alone (theirs divides by the padded length), a constant beta1
  (theirs cycles with the rate, which starts at a 25th of its peak), Retrieval's second hidden layer.
  """
  shell(config)
  config.optim.update(learning_rate=1e-4, clip_norm=0.0)
  if config.model.attention == "softmax":
    config.model.attention_options.dropout = 0.1
