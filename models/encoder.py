"""The pre-LN encoder of the Long Range Arena (Tay et al., 2021, arXiv 2011.04006), to the letter.

Embedding (unscaled) -> optional CLS vector in front -> positions -> blocks of
x + attention(LN(x)), x + MLP(LN(x)) -> LN. Residual stream [tokens, width], see attention/layer.py.
"""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from models.attention.layer import SelfAttention
from models.dropout import dropout
from models.norm import LayerNorm

POSITIONS = ("sinusoidal", "learned", "row_column", "none")


class Dropout(nn.Module):
  """`dropout` with a key of its own, off unless training."""

  rate: float

  @nn.compact
  def __call__(self, x: Float[Array, "t w"], *, train: bool) -> Float[Array, "t w"]:
    return dropout(x, self.rate, self.make_rng("dropout")) if train and self.rate else x


@jax.custom_vjp
def lookup(table: Float[Array, "v w"], ids: Int[Array, "*s"]) -> Float[Array, "*s w"]:
  """Rows of a small table. Its gradient is a product with one-hot rows, except on a CPU.

  There the scatter is a hundred times faster; elsewhere it adds in any order, or waits for each row.
  """
  return table[ids]


def _lookup_gradient(rows: tuple[Array, Array], gradient: Array) -> tuple[Array, None]:
  table, ids = rows
  if jax.default_backend() == "cpu":
    return jnp.zeros_like(table).at[ids].add(gradient), None
  hot = jax.nn.one_hot(ids.ravel(), len(table), axis=0, dtype=table.dtype)
  return hot @ gradient.reshape(-1, table.shape[1]), None


lookup.defvjp(lambda table, ids: (table[ids], (table, ids)), _lookup_gradient)


class Embed(nn.Module):
  """One vector per token id."""

  vocab_size: int
  emb_dim: int
  std: float  # at the start
  dtype: DTypeLike

  @nn.compact
  def __call__(self, ids: Int[Array, "b n"]) -> Float[Array, "b n w"]:
    shape = self.vocab_size, self.emb_dim
    table = self.param("embedding", nn.initializers.normal(self.std), shape)
    return lookup(table, ids).astype(self.dtype)


class Mlp(nn.Module):
  """Dense -> GELU (tanh form) -> Dense, dropout after both."""

  mlp_dim: int
  dropout: float
  dtype: DTypeLike

  @nn.compact
  def __call__(self, x: Float[Array, "t w"], *, train: bool) -> Float[Array, "t w"]:
    init = {
      "kernel_init": nn.initializers.xavier_uniform(),
      "bias_init": nn.initializers.normal(1e-6),
    }
    h = nn.gelu(nn.Dense(self.mlp_dim, dtype=self.dtype, name="up", **init)(x))
    h = Dropout(self.dropout)(h, train=train)
    h = nn.Dense(x.shape[-1], dtype=self.dtype, name="down", **init)(h)
    return Dropout(self.dropout)(h, train=train)


class Block(nn.Module):
  """x + attention(LN(x)), then x + MLP(LN(x))."""

  attention: Mapping[str, Any]  # the fields of SelfAttention
  mlp_dim: int
  dropout: float
  dtype: DTypeLike

  @nn.compact
  def __call__(
    self,
    x: Float[Array, "t w"],
    mask: Bool[Array, "b n"],
    positions: Int[Array, "b n"] | None,
    *,
    train: bool,
  ) -> Float[Array, "t w"]:
    attention = SelfAttention(**self.attention, dtype=self.dtype, name="attention")
    h = LayerNorm(dtype=self.dtype, name="norm1")(x)
    h = attention(h, mask, positions, train=train)
    x += Dropout(self.dropout)(h, train=train)
    mlp = Mlp(self.mlp_dim, self.dropout, self.dtype, name="mlp")
    return x + mlp(LayerNorm(dtype=self.dtype, name="norm2")(x), train=train)


class Encoder(nn.Module):
  """Token ids to one vector per position."""

  vocab_size: int
  max_length: int  # longest input, CLS not counted: the size of learned positions
  attention: str
  attention_options: Mapping[str, Any]
  num_layers: int
  num_heads: int
  emb_dim: int
  embedding_std: float
  qkv_dim: int
  mlp_dim: int
  dropout: float
  positions: str
  cls: bool
  convolution: int = 0
  output_norm: bool = False
  side: int | None = None  # of a square image whose pixels the tokens are, row by row
  causal: bool = False  # every layer looks at positions up to its own
  mask_token: bool = False  # has a vector for tokens that are hidden
  dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(
    self,
    ids: Int[Array, "b n"],
    mask: Bool[Array, "b n"],
    positions: Int[Array, "b n"] | None = None,
    hidden: Bool[Array, "b n"] | None = None,
    *,
    train: bool,
  ) -> tuple[Float[Array, "b l w"], Bool[Array, "b l"]]:
    """Vectors and mask; l = n, or n + 1 with the CLS position in front (masked as token 0 is).

    positions: of each token in its input; None: 0, 1, 2 ... ValueError beside CLS.
    hidden: tokens that the vector of `mask_token` stands for, whatever their id; None: no token.
    """
    if self.cls and positions is not None:
      raise ValueError("tokens are left out of inputs without CLS only")
    x = Embed(self.vocab_size, self.emb_dim, self.embedding_std, self.dtype, name="embed")(ids)
    if self.mask_token:
      vector = self.param("mask_token", nn.initializers.normal(self.embedding_std), x.shape[-1:])
      x = x if hidden is None else jnp.where(hidden[..., None], vector.astype(x.dtype), x)
    if self.cls:
      cls = self.param("cls", nn.initializers.zeros, (self.emb_dim,)).astype(self.dtype)
      x = jnp.concatenate([jnp.broadcast_to(cls, (len(x), 1, self.emb_dim)), x], axis=1)
      mask = jnp.concatenate([mask[:, :1], mask], axis=1)
    b, n, w = x.shape
    x = (x + self._positions(n, positions).astype(self.dtype)).reshape(b * n, w)
    x = Dropout(self.dropout)(x, train=train)
    attention = {
      "attention": self.attention,
      "num_heads": self.num_heads,
      "qkv_dim": self.qkv_dim,
      "attention_options": self.attention_options,
      "convolution": self.convolution,
      "output_norm": self.output_norm,
      "side": None if self.cls else self.side,
      "causal": self.causal,
    }
    for i in range(self.num_layers):
      block = Block(attention, self.mlp_dim, self.dropout, self.dtype, name=f"block{i}")
      x = block(x, mask, positions, train=train)
    x = LayerNorm(dtype=self.dtype, name="norm")(x)
    return x.reshape(b, n, w), mask

  def _positions(self, n: int, at: Int[Array, "b n"] | None) -> Float[Array, "*#b n w"]:
    """Vectors of the positions `at`, or of the first n."""
    if self.positions == "none":
      return jnp.zeros((n, self.emb_dim))
    table = self._position_table(n if at is None else self.max_length)
    return table if at is None else lookup(table, at)

  def _position_table(self, n: int) -> Float[Array, "n w"]:
    """Raises ValueError for an unknown kind, or for row_column on a length that is no square."""
    length, init = self.max_length + self.cls, nn.initializers.normal(0.02)
    if self.positions == "sinusoidal":
      return jnp.asarray(sinusoids(n, self.emb_dim))
    if self.positions == "learned":
      return self.param("positions", init, (length, self.emb_dim))[:n]
    if self.positions == "row_column":
      side = round(self.max_length**0.5)
      if side * side != self.max_length or n != length:
        raise ValueError(f"row_column positions need a square image, not {self.max_length} tokens")
      half = nn.initializers.normal(self.embedding_std * 0.5**0.5)  # together as large as a token's
      row = self.param("rows", half, (side, 1, self.emb_dim))
      column = self.param("columns", half, (1, side, self.emb_dim))
      grid = (row + column).reshape(-1, self.emb_dim)
      return jnp.pad(grid, ((self.cls, 0), (0, 0)))
    raise ValueError(f"unknown positions {self.positions!r}; there are {', '.join(POSITIONS)}")


def sinusoids(n: int, w: int) -> Float[np.ndarray, "n w"]:
  """Fixed positions: even channels sin, odd channels cos, wavelengths 2 pi to 10000 (2 pi)."""
  angle = np.arange(n)[:, None] * np.exp(np.arange(0, w, 2) * (-np.log(10000.0) / w))
  table = np.zeros((n, w), np.float32)
  table[:, 0::2], table[:, 1::2] = np.sin(angle), np.cos(angle)[:, : w // 2]
  return table
