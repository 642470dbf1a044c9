"""From encoded positions to logits: classifier, document matcher, token predictor; and `build`.

All of them keep their encoder under the name `encoder`, so that its parameters go from one to another.
"""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from models.encoder import Encoder

POOLING = {
  # CLS where the encoder has it, else the first token
  "first": lambda x, mask: x[:, 0],
  # over every position, padding included: LRA's MEAN
  "mean": lambda x, mask: x.mean(1),
  "masked_mean": lambda x, mask: (
    jnp.where(mask[..., None], x, 0).sum(1) / jnp.maximum(mask.sum(1), 1)[:, None]
  ),
}
INTERACTION = {
  "concat": lambda u, v: [u, v],
  "nli": lambda u, v: [u, v, u * v, u - v],  # Tay et al., section 2.2.3
}


class Classifier(nn.Module):
  """LRA's classifier; with two streams a siamese encoder and LRA's document matcher.

  Head, in float32: pool -> Dense(mlp_dim) -> ReLU -> logits; a matcher has one more
  Dense(mlp_dim / 2) -> ReLU before the logits.
  """

  encoder: Encoder
  num_classes: int
  pooling: str  # a key of POOLING
  interaction: str  # a key of INTERACTION, for two streams
  zero_is_padding: bool  # id 0 is masked wherever it stands, as the published harness does

  @property
  def ignores_zeros(self) -> bool:
    """Whether tokens of id 0 can be left out of an input without changing its logits."""
    masked = self.zero_is_padding and not self.encoder.attention_options.get("lra_padding")
    return masked and self.pooling == "masked_mean" and not self.encoder.cls

  @nn.compact
  def __call__(
    self,
    ids: Int[Array, "b s n"],
    lengths: Int[Array, "b s"],
    positions: Int[Array, "b s n"] | None = None,
    *,
    train: bool,
  ) -> Float[Array, "b c"]:
    """Logits. `lengths` are true lengths; ids at or past them have no influence.

    positions: of each token in its input, ascending, where some are left out; None: 0, 1, 2 ...
    """
    b, s, n = ids.shape
    ids = ids.reshape(b * s, n)
    positions = None if positions is None else positions.reshape(b * s, n)
    mask = real_tokens(ids, lengths.reshape(b * s), self.zero_is_padding)
    x, mask = self.encoder(ids, mask, positions, train=train)
    pooled = POOLING[self.pooling](x.astype(jnp.promote_types(x.dtype, jnp.float32)), mask)
    if s == 1:
      features, widths = pooled, (self.encoder.mlp_dim,)
    else:
      u, v = jnp.moveaxis(pooled.reshape(b, s, -1), 1, 0)
      features = jnp.concatenate(INTERACTION[self.interaction](u, v), -1)
      widths = (self.encoder.mlp_dim, self.encoder.mlp_dim // 2)
    for i, width in enumerate(widths):
      features = nn.relu(nn.Dense(width, name=f"head{i}")(features))
    return nn.Dense(self.num_classes, name="logits")(features)


class TokenPredictor(nn.Module):
  """Logits of a token id at every position, from a Dense layer in float32 on the encoder.

  They are of the token at that position for `hidden` ones of a masked model, and of the next token
  where the encoder is causal. Documents of an example are sequences of their own.
  """

  encoder: Encoder
  zero_is_padding: bool

  @property
  def ignores_zeros(self) -> bool:
    """Whether tokens of id 0 can be left out of an input: they are no tokens to predict, either."""
    masked = self.zero_is_padding and not self.encoder.attention_options.get("lra_padding")
    return masked and not self.encoder.cls

  @nn.compact
  def __call__(
    self,
    ids: Int[Array, "b s n"],
    lengths: Int[Array, "b s"],
    positions: Int[Array, "b s n"] | None = None,
    hidden: Bool[Array, "b s n"] | None = None,
    *,
    train: bool,
  ) -> Float[Array, "b s n v"]:
    """Logits; see `Classifier` for the inputs, and `Encoder` for `hidden`."""
    b, s, n = ids.shape
    flat = lambda x: None if x is None else x.reshape(b * s, n)
    mask = real_tokens(flat(ids), lengths.reshape(b * s), self.zero_is_padding)
    x, _ = self.encoder(flat(ids), mask, flat(positions), flat(hidden), train=train)
    x = x[:, -n:].reshape(b * s * n, -1)  # without CLS
    x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    return nn.Dense(self.encoder.vocab_size, name="tokens")(x).reshape(b, s, n, -1)


def real_tokens(
  ids: Int[Array, "*s n"], lengths: Int[Array, "*s"], zero_is_padding: bool
) -> Bool[Array, "*s n"]:
  """Which tokens are no padding."""
  return ids > 0 if zero_is_padding else jnp.arange(ids.shape[-1]) < lengths[..., None]


OBJECTIVES = ("classify", "masked", "next")  # what a model predicts: a class, or tokens


def build(
  config: Mapping[str, Any],
  *,
  vocab_size: int,
  num_classes: int,
  max_length: int,
  side: int | None = None,
  dtype: jnp.dtype,
  objective: str = "classify",
) -> Classifier | TokenPredictor:
  """The model of `config` (the `model` section of a config file, less `dtype`) for a task.

  side: of the square image whose pixels, row by row, an input is; None: it is something else.
  objective: one of OBJECTIVES; for "next" every layer is causal.

  Options of the mechanism that are None are left to the mechanism. Raises TypeError for a key that
  is not the encoder's, ValueError for an unknown name.
  """
  config = dict(config)
  head = {key: config.pop(key) for key in ("pooling", "interaction", "zero_is_padding")}
  for key, known in (("pooling", POOLING), ("interaction", INTERACTION)):
    if head[key] not in known:
      raise ValueError(f"unknown {key} {head[key]!r}; there are {', '.join(known)}")
  given = {k: v for k, v in dict(config.pop("attention_options")).items() if v is not None}
  encoder = Encoder(
    vocab_size=vocab_size,
    max_length=max_length,
    attention_options=given,
    side=side,
    causal=objective == "next",
    mask_token=objective == "masked",
    dtype=dtype,
    **config,
  )
  if objective != "classify":
    return TokenPredictor(encoder=encoder, zero_is_padding=head["zero_is_padding"])
  return Classifier(encoder=encoder, num_classes=num_classes, **head)
