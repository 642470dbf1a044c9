"""Trivial predictors of tokens, which a model that predicts tokens has to beat. No JAX."""

import itertools
from collections.abc import Iterator

import numpy as np

from lra.data.tasks import Examples

VALUES = 256  # of a stored token
CHUNK = 2**24  # tokens at a time


def token_baselines(
  train: Examples, evaluated: Examples, *, following: bool, zero_is_padding: bool
) -> tuple[dict[str, float], dict[str, float]]:
  """(accuracy in [0, 1], bits a token) of each, by name: fitted on `train`, scored on `evaluated`.

  "unigram" knows how frequent a token is; "bigram", for objectives that predict the next token
  (`following`), how often it follows another. Add-one smoothing. zero_is_padding: token 0 is none.
  """
  fitted, seen = (_pairs(examples, zero_is_padding) for examples in (train, evaluated))
  if not seen.any():
    return {}, {}
  tables = {"unigram": np.broadcast_to(fitted.sum(0), fitted.shape)}
  tables |= {"bigram": fitted} if following else {}
  accuracy, bits = {}, {}
  for name, counts in tables.items():
    p = (counts + 1) / (counts + 1).sum(1, keepdims=True)
    accuracy[name] = float(seen[np.arange(VALUES), p.argmax(1)].sum() / seen.sum())
    bits[name] = float(-(seen * np.log2(p)).sum() / seen.sum())
  return accuracy, bits


def _pairs(examples: Examples, zero_is_padding: bool) -> np.ndarray:
  """How often each token follows each other one in a document, float64 [before, token]."""
  counts = np.zeros(VALUES * VALUES, np.int64)
  for tokens, starts in _chunks(examples):
    if zero_is_padding:
      kept = tokens != 0
      starts = np.concatenate([[0], np.cumsum(kept)])[starts]
      tokens = tokens[kept]
    pairs = tokens[:-1].astype(np.int32) * VALUES + tokens[1:]
    inside = np.ones(len(pairs), bool)
    inside[starts[(starts > 0) & (starts <= len(pairs))] - 1] = False
    counts += np.bincount(pairs[inside], minlength=len(counts))
  return counts.reshape(VALUES, VALUES).astype(np.float64)


def _chunks(examples: Examples) -> Iterator[tuple[np.ndarray, np.ndarray]]:
  """Tokens of whole documents, and where each document begins in them."""
  offsets = np.asarray(examples.offsets)
  edges = np.searchsorted(offsets, np.arange(0, offsets[-1], CHUNK))
  for a, b in itertools.pairwise([*np.unique(edges), len(offsets) - 1]):
    yield np.asarray(examples.tokens[offsets[a] : offsets[b]]), offsets[a:b] - offsets[a]
