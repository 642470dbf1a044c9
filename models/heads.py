"""From encoded positions to logits: pooling, classifier head, document matcher; and `build`."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

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
    mask = ids > 0 if self.zero_is_padding else jnp.arange(n) < lengths.reshape(b * s, 1)
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


def build(
  config: Mapping[str, Any],
  *,
  vocab_size: int,
  num_classes: int,
  max_length: int,
  side: int | None = None,
  dtype: jnp.dtype,
) -> Classifier:
  """The model of `config` (the `model` section of a config file, less `dtype`) for a task.

  side: of the square image whose pixels, row by row, an input is; None: it is something else.
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
    dtype=dtype,
    **config,
  )
  return Classifier(encoder=encoder, num_classes=num_classes, **head)
