"""Attention mechanisms: pure functions of arrays under one contract.

    attend(q, k, v, *, mask=None, causal=False, **options) -> out
    weights(q, k, *, mask=None, causal=False, **options)   -> the dense [b h n m] matrix of attend

q [b n h d], k [b m h d], v [b m h e], mask bool [b m] (True = real key), out [b n h e] in the dtype
of q. Differentiable, jit-able, finite for finite input in float32 and bfloat16, sums in float32.
Masked keys never influence the output; a query with nothing to attend to gets zero; causal means
keys j <= i, also when n != m. `init_state` and `step` run linear and cosFormer token by token.

A mechanism is a module with `attend` and `weights`, named once more in ATTENTION; keyword arguments
of its `attend` are the options that `config.model.attention_options` may set. One that depends on
where tokens stand takes `positions` [b n] of self-attention, too, for inputs with tokens left out.
"""

import inspect

from models.attention import cosformer, linear, softmax

ATTENTION = {"softmax": softmax, "linear": linear, "cosformer": cosformer}


def options(name: str) -> tuple[str, ...]:
  """What `attention_options` may hold for a mechanism. Raises KeyError naming those there are."""
  if name not in ATTENTION:
    raise KeyError(f"unknown attention {name!r}; there are {', '.join(sorted(ATTENTION))}")
  contract = {"q", "k", "v", "mask", "causal", "dropout_key", "positions"}
  return tuple(p for p in inspect.signature(ATTENTION[name].attend).parameters if p not in contract)
