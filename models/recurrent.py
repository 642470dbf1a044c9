"""A causal encoder one token at a time, in the state that its mechanism keeps of the past.

The same parameters and the same logits as `models.heads.TokenPredictor` on the whole sequence;
tests/models/test_recurrent.py holds the two together. The state of kernel attention does not grow;
softmax keeps all keys and values.
"""

import inspect
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from models.attention import ATTENTION, parameters
from models.encoder import Encoder, Mlp, sinusoids
from models.heads import TokenPredictor
from models.norm import LayerNorm, rms_norm

TIMELESS = ("chunk", "block", "lra_padding", "dropout")  # options that a step has no need of
LAYER = (
  "query",
  "key",
  "value",
  "out",
  "convolution",
  "output_norm",
)  # parameters of SelfAttention


class Past(NamedTuple):
  """What a block remembers of the tokens so far."""

  attention: Any  # as its mechanism has it
  recent: Float[Array, "b k w"]  # the last inputs that the layer's convolution reaches back to


class State(NamedTuple):
  """What a model remembers of the tokens so far."""

  layers: tuple[Past, ...]
  count: Int[Array, ""]  # tokens so far


def check(model: TokenPredictor, params: Mapping[str, Any]) -> None:
  """Raises ValueError, in one line, for a model that has no recurrent form."""
  encoder = model.encoder
  if not encoder.causal:
    raise ValueError("only a causal model (config.train.objective=next) reads token by token")
  mechanism = ATTENTION[encoder.attention]
  if not hasattr(mechanism, "step"):
    raise ValueError(f"{encoder.attention} attention has no recurrent step")
  known = inspect.signature(mechanism.step).parameters
  for name in encoder.attention_options:
    if name not in (*known, *TIMELESS):
      raise ValueError(f"option {name} of {encoder.attention} attention has no recurrent step")
  layer = params["encoder"]["block0"]["attention"]
  learned = parameters(encoder.attention, encoder.num_heads, encoder.attention_options)
  if unknown := set(layer) - {*LAYER, *learned}:
    raise ValueError(f"{', '.join(sorted(unknown))} of the attention layer has no recurrent step")
  one = lambda params: step(model, params, init_state(model, 1), jnp.zeros(1, jnp.int32))
  jax.eval_shape(one, params)  # what the mechanism refuses shows here


def init_state(model: TokenPredictor, batch: int) -> State:
  """The state before the first token."""
  encoder = model.encoder
  start = ATTENTION[encoder.attention].init_state
  head = encoder.qkv_dim // encoder.num_heads
  more = {"length": encoder.max_length} | dict(encoder.attention_options)
  more = {k: v for k, v in more.items() if k in inspect.signature(start).parameters}
  dtype = jnp.promote_types(encoder.dtype, jnp.float32)
  recent = jnp.zeros((batch, max(encoder.convolution - 1, 0), encoder.emb_dim), encoder.dtype)
  layers = [
    Past(start(batch, encoder.num_heads, head, head, dtype, **more), recent)
    for _ in range(encoder.num_layers)
  ]
  return State(tuple(layers), jnp.zeros((), jnp.int32))


def step(
  model: TokenPredictor, params: Mapping[str, Any], state: State, ids: Int[Array, "b"]
) -> tuple[State, Float[Array, "b v"]]:
  """Reads one token of each sequence: the logits of the next one. At most `max_length` times."""
  encoder, weights = model.encoder, params["encoder"]
  x = weights["embed"]["embedding"][ids].astype(encoder.dtype)
  x += _position(encoder, weights, state.count).astype(encoder.dtype)
  layers = []
  for i, past in enumerate(state.layers):
    block = weights[f"block{i}"]
    h = _norm(encoder, block["norm1"], x)
    past, h = _attention(encoder, block["attention"], past, h)
    layers.append(past)
    x += h
    mlp = Mlp(encoder.mlp_dim, 0.0, encoder.dtype)
    h = _norm(encoder, block["norm2"], x)
    x += mlp.apply({"params": block["mlp"]}, h, train=False)
  x = _norm(encoder, weights["norm"], x)
  x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
  logits = x @ params["tokens"]["kernel"] + params["tokens"]["bias"]
  return State(tuple(layers), state.count + 1), logits


def state_bytes(state: State) -> int:
  """Memory of the state."""
  return sum(x.nbytes for x in jax.tree.leaves(state))


def _attention(
  encoder: Encoder, layer: Mapping[str, Any], past: Past, x: Float[Array, "b w"]
) -> tuple[Past, Float[Array, "b w"]]:
  """`SelfAttention` on one token."""
  mechanism, recent = ATTENTION[encoder.attention], past.recent
  if encoder.convolution:
    reached = jnp.concatenate([recent, x[:, None]], axis=1)
    x += (reached * layer["convolution"].astype(x.dtype)).sum(1)
    recent = reached[:, 1:]
  project = lambda name, x: x @ layer[name]["kernel"].astype(encoder.dtype)
  q, k, v = (
    project(name, x).reshape(len(x), encoder.num_heads, -1) for name in ("query", "key", "value")
  )
  known = inspect.signature(mechanism.step).parameters
  options = {n: value for n, value in encoder.attention_options.items() if n in known}
  if "parameters" in known:
    starts = parameters(encoder.attention, encoder.num_heads, encoder.attention_options)
    options["parameters"] = {n: layer[n] if callable(x) else x for n, x in starts.items()}
  state, out = mechanism.step(past.attention, q, k, v, **options)
  if encoder.output_norm:
    out = rms_norm(out, layer["output_norm"].reshape(encoder.num_heads, -1))
  return Past(state, recent), project("out", out.reshape(len(x), -1))


def _norm(encoder: Encoder, params: Mapping[str, Array], x: Float[Array, "b w"]) -> Any:
  return LayerNorm(dtype=encoder.dtype).apply({"params": params}, x)


def _position(encoder: Encoder, weights: Mapping[str, Any], at: Int[Array, ""]) -> Array:
  """The position vector of token `at`."""
  if encoder.positions == "none":
    return jnp.zeros(encoder.emb_dim)
  if encoder.positions == "learned":
    return weights["positions"][at]
  if encoder.positions == "row_column":
    return (weights["rows"] + weights["columns"]).reshape(-1, encoder.emb_dim)[at]
  return jnp.asarray(sinusoids(encoder.max_length, encoder.emb_dim))[at]
