"""What a run is trained for: a class of each example, hidden tokens, or each next token.

An objective is a pure function of a model, a batch and a key; loop, evaluation and selection are the
same for all. Over tokens, loss and accuracy are means over the tokens predicted, none of them padding.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int, Key

from lra.data.batches import Batch
from models import heads
from models.dropout import hash_bits

Apply = Callable[..., Array]  # (ids, lengths, positions[, hidden]) -> logits


class Scores(NamedTuple):
  """How a model does on a batch, by example [b] or by token [b s n]."""

  loss: Float[Array, "*s"]  # nats
  correct: Float[Array, "*s"]  # 1 or 0
  counted: Bool[Array, "*s"] | None  # which of them count; None: all


class Objective(NamedTuple):
  """scores(apply, batch, key): `key` decides what is hidden, where anything is."""

  scores: Callable[[Apply, Batch, Key[Array, ""]], Scores]
  over_tokens: bool

  def score(self, measured: Mapping[str, float]) -> float:
    """What an evaluation is selected by, higher is better: accuracy, or over tokens the loss."""
    return -measured["loss"] if self.over_tokens else measured["accuracy"]


def make(name: str, model: Any, mask_share: float) -> Objective:
  """The objective `name`, one of models.heads.OBJECTIVES, of a model built for it.

  mask_share: of "masked", the chance of each token to be hidden and predicted.
  """

  def masked(apply: Apply, batch: Batch, key: Key[Array, ""]) -> Scores:
    real = heads.real_tokens(batch.ids, batch.lengths, model.zero_is_padding)
    hidden = real & hide(key, batch.examples, batch.ids.shape, mask_share)
    logits = apply(batch.ids, batch.lengths, batch.positions, hidden)
    return Scores(*cross_entropy(logits, batch.ids), hidden)

  def following(apply: Apply, batch: Batch, key: Key[Array, ""]) -> Scores:
    real = heads.real_tokens(batch.ids, batch.lengths, model.zero_is_padding)
    logits = apply(batch.ids, batch.lengths, batch.positions)
    targets = jnp.roll(batch.ids, -1, axis=-1)
    counted = (real & jnp.roll(real, -1, axis=-1)).at[..., -1].set(False)
    return Scores(*cross_entropy(logits, targets), counted)

  scores = {"classify": classify, "masked": masked, "next": following}[name]
  return Objective(scores, over_tokens=name != "classify")


def classify(apply: Apply, batch: Batch, key: Key[Array, ""]) -> Scores:
  """Cross-entropy of the example's label."""
  logits = apply(batch.ids, batch.lengths, batch.positions)
  return Scores(*cross_entropy(logits, batch.labels), None)


CLASSIFY = Objective(classify, over_tokens=False)


def cross_entropy(
  logits: Float[Array, "*s c"], labels: Int[Array, "*s"]
) -> tuple[Float[Array, "*s"], Float[Array, "*s"]]:
  """Loss in nats and correctness of every label."""
  loss = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
  return loss, (logits.argmax(-1) == labels).astype(jnp.float32)


def hide(
  key: Key[Array, ""], examples: Int[Array, "b"], shape: tuple[int, ...], share: float
) -> Bool[Array, "b s n"]:
  """Each token with chance `share`: a function of key, example, document and place alone.

  So neither the bucket nor the batch that an example is in changes what is hidden of it.
  """
  _, s, n = shape
  documents = examples.astype(jnp.uint32)[:, None] * s + jnp.arange(s, dtype=jnp.uint32)
  places = hash_bits(documents, key)[..., None] + jnp.arange(n, dtype=jnp.uint32)
  return hash_bits(places, key) < jnp.uint32(share * 2**32)


def in_bits(loss: float) -> dict[str, float]:
  """What a mean loss in nats is in bits, and as a perplexity."""
  return {"bits_per_token": loss / math.log(2), "perplexity": math.exp(min(loss, 700.0))}


def evaluation_key() -> Key[Array, ""]:
  """Of every evaluation, whatever the run: all of them are asked for the same tokens."""
  return jax.random.key(0)
