"""A small model of any mechanism, inputs for it and random parameters."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from models import heads

CONFIG = {
  "attention": "cosformer",
  "attention_options": {},
  "num_layers": 1,
  "num_heads": 2,
  "emb_dim": 12,
  "embedding_std": 1.0,
  "qkv_dim": 8,
  "mlp_dim": 10,
  "dropout": 0.0,
  "positions": "sinusoidal",
  "cls": True,
  "pooling": "first",
  "interaction": "nli",
  "zero_is_padding": False,
}
LENGTHS = np.array([[16], [1], [9]])


def build(max_length=16, dtype="float32", side=None, **config):
  sizes = {"vocab_size": 50, "num_classes": 3, "max_length": max_length, "side": side}
  return heads.build(CONFIG | config, **sizes, dtype=jnp.dtype(dtype))


def batch(n=16, lengths=LENGTHS, seed=0):
  """Random ids 1..49, 0 past the lengths."""
  ids = np.random.default_rng(seed).integers(1, 50, (*lengths.shape, 64))[..., :n]
  return jnp.asarray(np.where(np.arange(n) < lengths[..., None], ids, 0)), jnp.asarray(lengths)


def parameters(model, ids, lengths):
  """Random parameters, none of them zero."""
  shapes = jax.eval_shape(partial(model.init, train=False), jax.random.key(0), ids, lengths)
  flat = traverse_util.flatten_dict(shapes)
  rng = np.random.default_rng(1)
  flat = {
    name: jnp.asarray((name[-1] == "scale") + 0.3 * rng.normal(size=x.shape), x.dtype)
    for name, x in flat.items()
  }
  return traverse_util.unflatten_dict(flat)


LOCAL = [  # mechanism, its options, what else the layer does
  ("cosformer", {"reweight": "multiscale", "frequencies": "learned"}, {"convolution": 5}),
  ("cosformer", {"reweight": "decay", "rope": True}, {"convolution": 4, "output_norm": True}),
  ("cosformer", {"reweight": "cos2d"}, {"output_norm": True}),
  ("linear", {"rope": True}, {"convolution": 3}),
  ("softmax", {}, {"convolution": 5, "output_norm": True}),
]
