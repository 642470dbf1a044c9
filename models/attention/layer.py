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

from models.attention import ATTENTION, check_options, parameters
from models.attention.convolution import WIDTHS, convolve
from models.norm import rms_norm


class SelfAttention(nn.Module):
  """Multi-head self-attention with LRA's bias-free, Xavier-uniform projections."""

  attention: str  # a key of ATTENTION
  num_heads: int
  qkv_dim: int  # all heads together; the output goes back to the width of the input
  attention_options: Mapping[str, Any]  # keywords of the mechanism's `attend`
  convolution: int = 0  # width of a depth-wise convolution before q, k and v; 0: none
  output_norm: bool = False  # RMS normalisation of each head's output
  side: int | None = None  # of a square image whose pixels the tokens are
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
    if self.qkv_dim % self.num_heads:
      raise ValueError(f"qkv_dim {self.qkv_dim} is not a multiple of num_heads {self.num_heads}")

    def project(name: str, features: int, x: Array) -> Array:
      init = nn.initializers.xavier_uniform()
      return nn.Dense(features, False, self.dtype, kernel_init=init, name=name)(x)

    b, n = mask.shape
    given = self.arguments(mask, positions)
    width = x.shape[-1]
    if self.convolution:
      x = self._with_neighbours(x, mask, positions)
    q, k, v = (
      project(name, self.qkv_dim, x).reshape(b, n, self.num_heads, -1)
      for name in ("query", "key", "value")
    )
    if train and self.attention_options.get("dropout"):
      given["dropout_key"] = self.make_rng("dropout")
    out = ATTENTION[self.attention].attend(q, k, v, **given)
    if self.output_norm:
      scale = self.param("output_norm", nn.initializers.ones, (self.qkv_dim,))
      out = rms_norm(out, scale.reshape(self.num_heads, -1))
    return project("out", width, out.reshape(b * n, self.qkv_dim))

  def arguments(
    self, mask: Bool[Array, "b n"], positions: Int[Array, "b n"] | None
  ) -> dict[str, Any]:
    """What the mechanism is given beside q, k and v: its options and what of the contract it takes."""
    check_options(self.attention, self.attention_options)
    starts = parameters(self.attention, self.num_heads, self.attention_options)
    learned = {
      name: self.param(name, start) if callable(start) else start for name, start in starts.items()
    }
    context = {"positions": positions, "side": self.side, "parameters": learned}
    takes = inspect.signature(ATTENTION[self.attention].attend).parameters
    context = {name: value for name, value in context.items() if name in takes}
    return {"mask": mask, "causal": self.causal, **self.attention_options, **context}

  def _with_neighbours(
    self, x: Float[Array, "t w"], mask: Bool[Array, "b n"], positions: Int[Array, "b n"] | None
  ) -> Float[Array, "t w"]:
    """x and its convolution over the sequence. Raises ValueError for an impossible width."""
    if self.convolution not in WIDTHS:
      raise ValueError(
        f"convolution is 0 (none) or a width of {WIDTHS[0]} to {WIDTHS[-1]} tokens, "
        f"not {self.convolution}"
      )
    init = nn.initializers.normal(self.convolution**-0.5)
    kernel = self.param("convolution", init, (self.convolution, x.shape[-1]))
    wide = x.reshape(*mask.shape, -1)
    return x + convolve(wide, kernel, mask, positions, causal=self.causal).reshape(x.shape)
