"""Names, shapes and initial values of the parameters."""

import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from models import heads

# task, vocabulary, classes, length, streams -> parameters by mechanism
OFFICIAL = [
  ("listops", 17, 10, 2000, 1, {"softmax": 8_948_746, "linear": 8_948_746}),
  ("text", 257, 2, 1000, 1, {"softmax": 3_486_722, "linear": 3_486_722}),
  ("retrieval", 257, 2, 4000, 2, {"softmax": 1_087_618, "linear": 1_087_618}),
  ("image", 256, 10, 1024, 1, {"softmax": 248_458, "linear": 248_458}),
  ("pathfinder", 256, 2, 1024, 1, {"softmax": 26_530, "linear": 116_098}),
]


def official(task, attention, vocab_size, num_classes, length, streams, **changes):
  """Shapes of the parameters and a function that makes them."""
  module = importlib.import_module(f"configs.lra.{task}_{attention}")
  config = module.get_config("official").model.to_dict() | changes
  config.pop("dtype")
  model = heads.build(
    config,
    vocab_size=vocab_size,
    num_classes=num_classes,
    max_length=length,
    dtype=jnp.dtype("float32"),
  )

  def init(key):
    ids = jnp.ones((1, streams, length), int)
    return model.init(key, ids, jnp.full((1, streams), length), train=False)["params"]

  return jax.eval_shape(init, jax.random.key(0)), init


@pytest.mark.parametrize("task, vocabulary, classes, length, streams, counts", OFFICIAL)
def test_official_presets_have_the_published_number_of_parameters(
  task, vocabulary, classes, length, streams, counts
):
  for attention, count in counts.items():
    shapes, _ = official(task, attention, vocabulary, classes, length, streams)
    assert sum(x.size for x in jax.tree.leaves(shapes)) == count


def test_names_shapes_and_initial_values():
  """Distributions as in the published code: mean and standard deviation within sampling error."""
  _, init = official("image", "softmax", 256, 10, 1024, 1)
  params = traverse_util.flatten_dict(jax.jit(init)(jax.random.key(0)), sep="/")
  xavier = lambda fan_in, fan_out: np.sqrt(2 / (fan_in + fan_out))
  block, w = "encoder/block0", 128
  expected = {  # shape, mean, standard deviation
    "encoder/embed/embedding": ((256, w), 0, 1),
    "encoder/cls": ((w,), 0, 0),
    "encoder/positions": ((1025, w), 0, 0.02),
    f"{block}/norm1/scale": ((w,), 1, 0),
    f"{block}/norm1/bias": ((w,), 0, 0),
    f"{block}/attention/query/kernel": ((w, 64), 0, xavier(w, 64)),
    f"{block}/attention/key/kernel": ((w, 64), 0, xavier(w, 64)),
    f"{block}/attention/value/kernel": ((w, 64), 0, xavier(w, 64)),
    f"{block}/attention/out/kernel": ((64, w), 0, xavier(64, w)),
    f"{block}/norm2/scale": ((w,), 1, 0),
    f"{block}/norm2/bias": ((w,), 0, 0),
    f"{block}/mlp/up/kernel": ((w, w), 0, xavier(w, w)),
    f"{block}/mlp/up/bias": ((w,), 0, 1e-6),
    f"{block}/mlp/down/kernel": ((w, w), 0, xavier(w, w)),
    f"{block}/mlp/down/bias": ((w,), 0, 1e-6),
    "encoder/norm/scale": ((w,), 1, 0),
    "encoder/norm/bias": ((w,), 0, 0),
    "head0/kernel": ((w, w), 0, w**-0.5),
    "head0/bias": ((w,), 0, 0),
    "logits/kernel": ((w, 10), 0, w**-0.5),
    "logits/bias": ((10,), 0, 0),
  }
  assert params.keys() == expected.keys()
  for name, (shape, mean, deviation) in expected.items():
    x = np.asarray(params[name], np.float64)
    assert x.shape == shape, name
    assert abs(x.mean() - mean) <= 5 * deviation / np.sqrt(x.size), name
    assert abs(x.std() - deviation) <= 5 * deviation / np.sqrt(2 * x.size), name
    uniform = "block0" in name and name.endswith("kernel")
    assert not uniform or abs(x).max() <= np.sqrt(3) * deviation * 1.0001, name
