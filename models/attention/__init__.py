"""Attention mechanisms: pure functions of arrays under one contract.

    attend(q, k, v, *, mask=None, causal=False, **options) -> out
    weights(q, k, *, mask=None, causal=False, **options)   -> the dense [b h n m] matrix of attend

q [b n h d], k [b m h d], v [b m h e], mask bool [b m] (True = real key), out [b n h e] in the dtype
of q. Differentiable, jit-able, finite for finite input in float32 and bfloat16, sums in float32.
Masked keys never influence the output; a query with nothing to attend to gets zero; causal means
keys j <= i, also when n != m. `init_state` and `step` run a mechanism token by token: linear
and cosFormer in a state that does not grow, softmax with a cache of `length` keys and values.

A mechanism is a module with `attend` and `weights`, named once more in ATTENTION; keyword arguments
of its `attend` are the options that `config.model.attention_options` may set. It is given, if it takes
them, too:

    positions   [b n] of self-attention, ascending, where tokens are left out; else None
    side        of a square image whose pixels, row by row, the tokens are; else None
    parameters  by name what its `parameters(h, **options)` declares for h heads, each array [h ...]:
                an initialiser of a key is a parameter that the layer learns, an array is a constant.
                None: all at their start
    dropout_key in training, if the option `dropout` is set
"""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from jaxtyping import Array, Key

from models.attention import cosformer, linear, softmax

ATTENTION = {"softmax": softmax, "linear": linear, "cosformer": cosformer}
CONTRACT = {"q", "k", "v", "mask", "causal", "positions", "side", "parameters", "dropout_key"}


def options(name: str) -> tuple[str, ...]:
  """What `attention_options` may hold for a mechanism. Raises KeyError naming those there are."""
  if name not in ATTENTION:
    raise KeyError(f"unknown attention {name!r}; there are {', '.join(sorted(ATTENTION))}")
  return tuple(p for p in inspect.signature(ATTENTION[name].attend).parameters if p not in CONTRACT)


def check_options(name: str, given: Mapping[str, Any]) -> None:
  """Raises ValueError for an option that the mechanism does not have, naming those that have it."""
  known = options(name)
  for option in sorted(set(given) - set(known)):
    others = [other for other in ATTENTION if option in options(other)]
    raise ValueError(
      f"{name} attention has no option {option}; it has {', '.join(known)}"
      + (f" ({option} is for {' and '.join(others)})" if others else "")
    )


def parameters(
  name: str, h: int, given: Mapping[str, Any]
) -> dict[str, Callable[[Key[Array, ""]], Array] | Array]:
  """What a mechanism declares for h heads and its options: initialisers, and constants."""
  declare = getattr(ATTENTION[name], "parameters", None)
  if declare is None:
    return {}
  known = inspect.signature(declare).parameters
  return declare(h, **{option: value for option, value in given.items() if option in known})
