"""Self-attention layer: projections -> mechanism -> output projection, the same for every mechanism.

Activations are [tokens, width] outside the mechanism: on a CPU, XLA runs a Dense layer on two axes
nearly twice as fast as on three.
"""

import inspect
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from models.attention import ATTENTION, options


class SelfAttention(nn.Module):
  """Multi-head self-attention with LRA's bias-free, Xavier-uniform projections."""

  attention: str  # a key of ATTENTION
  num_heads: int
  qkv_dim: int  # all heads together; the output goes back to the width of the input
  attention_options: Mapping[str, Any]  # keywords of the mechanism's `attend`
  causal: bool = False
  dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(
    self,
    x: Float[Array, "t w"],
    mask: Bool[Array, "b n"],
    positions: Int[Array, "b n"] | None = None,
    *,
    train: bool,
  ) -> Float[Array, "t w"]:
    """positions: of each token in its input; None: 0, 1, 2 ...

    Raises ValueError when the heads do not divide the width or an option is not the mechanism's.
    """
    known = options(self.attention)
    if unknown := set(self.attention_options) - set(known):
      raise ValueError(
        f"{self.attention} attention has no option {', '.join(sorted(unknown))}; "
        f"it has {', '.join(known)}"
      )
    if self.qkv_dim % self.num_heads:
      raise ValueError(f"qkv_dim {self.qkv_dim} is not a multiple of num_heads {self.num_heads}")

    def project(name: str, features: int, x: Array) -> Array:
      init = nn.initializers.xavier_uniform()
      return nn.Dense(features, False, self.dtype, kernel_init=init, name=name)(x)

    b, n = mask.shape
    q, k, v = (
      project(name, self.qkv_dim, x).reshape(b, n, self.num_heads, -1)
      for name in ("query", "key", "value")
    )
    extra = {}
    if train and self.attention_options.get("dropout"):
      extra["dropout_key"] = self.make_rng("dropout")
    attend = ATTENTION[self.attention].attend
    if "positions" in inspect.signature(attend).parameters:
      extra["positions"] = positions
    out = attend(q, k, v, mask=mask, causal=self.causal, **self.attention_options, **extra)
    return project("out", x.shape[-1], out.reshape(b * n, self.qkv_dim))
