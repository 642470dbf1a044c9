"""Agreement with recorded results of the published implementations, see tests/golden/README.md.

Two of the recorded models are in the repository. With LRA_GOLDEN_DIR set to a folder of more such
files (lra_models/<task>_<model>.npz, parameters as plain floats) those are compared, too.
"""

import importlib
import os
import re
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import traverse_util

import oracle
from lra.training import optim
from models import heads
from models.attention import cosformer, linear

HERE = Path(__file__).parent.parent / "golden"
MODELS = {
  f"{task}_{model}": (task, attention)
  for task in ("listops", "text", "retrieval", "image", "pathfinder")
  for model, attention in (("transformer", "softmax"), ("linear_transformer", "linear"))
}
VOCABULARY = {"listops": 17, "text": 257, "retrieval": 257, "image": 256, "pathfinder": 256}
NAMES = [  # recorded parameter path -> ours
  (r"^encoder/", ""),
  (r"^(Embed_0|cls|posembed_input|encoderblock_|encoder_norm)", r"encoder/\1"),
  (r"Embed_0", "embed"),
  (r"posembed_input/pos_embedding", "positions"),
  (r"encoderblock_", "block"),
  (r"encoder_norm", "norm"),
  (r"LayerNorm_0", "norm1"),
  (r"LayerNorm_2", "norm2"),
  (r"(MultiHeadDotProductAttention|LinearAttention)_1", "attention"),
  (r"MlpBlock_3/Dense_0", "mlp/up"),
  (r"MlpBlock_3/Dense_1", "mlp/down"),
  (r"^mlp/", "head0/"),
  (r"^mlp2/", "head1/"),
]


def cases(folder):
  found = sorted((HERE / folder).glob("*.npz"))
  assert found
  return pytest.mark.parametrize("path", [pytest.param(p, id=p.stem) for p in found])


@cases("cosformer")
def test_cosformer(x64, path):
  data = np.load(path)
  width = len(data["param/q_proj.bias"])
  num_heads = int(
    re.search(r"_h(\d)", path.stem + {"dead": "_h4", "tiny": "_h2"}.get(path.stem[:4], ""))[1]
  )
  params = {k[6:]: data[k] for k in data if k.startswith("param/")}
  inputs = {k[6:]: data[k] for k in data if k.startswith("input/")}

  @jax.jit
  def attention(inputs, params):
    def project(name, x):
      x = x @ params[f"{name}_proj.weight"].T + params[f"{name}_proj.bias"]
      return jnp.swapaxes(x, 0, 1).reshape(x.shape[1], len(x), num_heads, -1)

    key = inputs.get("key", inputs["query"])
    q, k, v = (
      project("q", inputs["query"]),
      project("k", key),
      project("v", inputs.get("value", key)),
    )
    out = cosformer.attend(q, k, v, causal="causal" in path.stem)
    out = jnp.swapaxes(out.reshape(*out.shape[:2], width), 0, 1)
    return out @ params["out_proj.weight"].T + params["out_proj.bias"]

  out, *grads = oracle.value_and_grads(attention, data["cotangent"], inputs, params)
  oracle.assert_close(out, data["out"], 1e-10)
  for gradients in grads:
    for name, gradient in gradients.items():
      oracle.assert_close(gradient, data[f"grad/{name}"], 1e-10)


@cases("linear")
def test_linear(x64, path):
  data = {k: x.astype(np.float64) for k, x in np.load(path).items()}
  run = jax.jit(partial(oracle.value_and_grads, linear.attend))
  actual = run(data["cotangent"], *(data[k] for k in ("query", "key", "value")))
  expected = [data[k] for k in ("out", "grad_query", "grad_key", "grad_value")]
  oracle.assert_close(actual, expected, 1e-10)


class Recorded:
  """A recorded model: our model of the `official` preset, its parameters, its one batch."""

  def __init__(self, case, dtype):
    task, attention = MODELS[case]
    path = HERE / "lra_models" / f"{case}.npz"
    more = os.environ.get("LRA_GOLDEN_DIR")
    if not path.exists() and more:
      path = Path(more) / "lra_models" / f"{case}.npz"
    if not path.exists():
      pytest.skip(f"no {case}.npz here or in LRA_GOLDEN_DIR")
    self.data = data = {k: x for k, x in np.load(path).items()}
    ids = [data[k] for k in ("input/inputs", "input/inputs1", "input/inputs2") if k in data]
    self.ids = jnp.asarray(np.stack(ids, axis=1))
    lengths = [data[k] for k in ("input/lengths", "input/lengths1", "input/lengths2") if k in data]
    shape = self.ids.shape[:2]
    self.lengths = jnp.stack(lengths, 1) if lengths else jnp.full(shape, self.ids.shape[2])
    config = importlib.import_module(f"configs.lra.{task}_{attention}").get_config("official")
    model = config.model.to_dict()
    model.pop("dtype")
    model["dropout"] = 0.0
    if "dropout" in model["attention_options"]:
      model["attention_options"]["dropout"] = None
    self.model = heads.build(
      model,
      vocab_size=VOCABULARY[task],
      num_classes=data["out/logits"].shape[1],
      max_length=self.ids.shape[2],
      dtype=jnp.dtype(dtype),
    )
    self.params = self.tree("param", dtype)

  def tree(self, kind, dtype):
    """The recorded arrays `kind/<path>` as a tree of ours."""
    shapes = jax.eval_shape(
      lambda: self.model.init(jax.random.key(0), self.ids, self.lengths, train=False)
    )
    ours = {}
    for key, x in self.data.items():
      if key.startswith(f"{kind}/"):
        if (exponent := self.data.get(key.replace(kind, "exponent", 1))) is not None:
          x = np.ldexp(x.astype(np.float64), exponent)
        ours[rename(key.removeprefix(f"{kind}/"))] = jnp.asarray(x, dtype)
    flat = traverse_util.flatten_dict(shapes["params"], sep="/")
    assert ours.keys() == flat.keys()
    assert all(ours[k].size == flat[k].size for k in flat)
    return traverse_util.unflatten_dict({k: ours[k].reshape(flat[k].shape) for k in flat}, sep="/")

  def loss(self, params):
    logits = self.model.apply({"params": params}, self.ids, self.lengths, train=False)
    targets = jnp.asarray(self.data["input/targets"])
    return optax.softmax_cross_entropy_with_integer_labels(logits, targets).mean(), logits


def rename(path):
  for pattern, ours in NAMES:
    path = re.sub(pattern, ours, path)
  return path


@pytest.mark.parametrize("case", MODELS)
def test_lra_model_and_its_gradient(case):
  recorded = Recorded(case, "float32")
  data = recorded.data
  run = jax.jit(jax.value_and_grad(recorded.loss, has_aux=True))
  (loss, logits), gradients = run(recorded.params)
  oracle.assert_close(logits, data["out/logits"], 1e-5)
  oracle.assert_close(loss, data["out/loss"], 1e-5)
  gradients = traverse_util.flatten_dict(gradients, sep="/")
  compared = set()
  for key, expected in data.items():
    kind, _, path = key.partition("/")
    if kind not in ("grad", "gradsample", "gradstat"):
      continue
    gradient = np.asarray(gradients[rename(path)], np.float64).reshape(-1)
    largest = max(data[f"gradstat/{path}"][3], 1e-12)
    if kind == "grad":
      np.testing.assert_allclose(gradient, expected.reshape(-1), rtol=0, atol=1e-4 * largest)
    elif kind == "gradsample":
      sample = gradient[:: max(1, gradient.size // 256)]
      np.testing.assert_allclose(sample, expected, rtol=0, atol=1e-4 * largest)
    else:
      np.testing.assert_allclose(np.linalg.norm(gradient), expected[0], rtol=1e-4, atol=1e-12)
      continue
    compared.add(rename(path))
  assert compared == gradients.keys()


@pytest.mark.parametrize(
  "case",
  [pytest.param(c, marks=() if c.startswith("pathfinder") else pytest.mark.slow) for c in MODELS],
)
def test_lra_training_in_float64(x64, monkeypatch, case):
  recorded = Recorded(case, "float64")
  data = recorded.data
  rates = jnp.asarray(data["traj/learning_rates"])
  monkeypatch.setitem(optim.SCHEDULES, "recorded", lambda *_: lambda step: rates[step])
  config = importlib.import_module("configs.lra.image_softmax").get_config("official").optim
  config.schedule, config.weight_decay = "recorded", float(data["traj/weight_decay"])
  optimizer, _ = optim.make(config, steps=5)

  @jax.jit
  def step(params, state):
    (loss, logits), gradients = jax.value_and_grad(recorded.loss, has_aux=True)(params)
    updates, state = optimizer.update(gradients, state, params)
    return optax.apply_updates(params, updates), state, loss, logits

  params = recorded.params
  state = optimizer.init(params)
  losses, logits = [], []
  for _ in range(6):
    params, state, one_loss, one_logits = step(params, state)
    losses.append(one_loss)
    logits.append(one_logits)
  oracle.assert_close(logits[0], data["float64/logits"], 1e-10)
  oracle.assert_close(losses[0], data["float64/loss"], 1e-10)
  oracle.assert_close(jnp.stack(losses), data["float64/traj_losses"], 1e-6)
  oracle.assert_close(jnp.stack(logits), data["float64/traj_logits"], 1e-6)
