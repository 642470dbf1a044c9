"""The tokens of ListOps, their ids, and the limits of a tree."""

from typing import NamedTuple

import numpy as np

# A token's id is its place here plus 1; 0 is the padding and 16 is kept for the unknown, as in LRA.
VOCABULARY = ("[MIN", "[MAX", "[MED", "[SM", "]", *"0123456789")
MIN, MAX, MED, SUM_MOD, BRACKET, DIGIT_0 = 1, 2, 3, 4, 5, 6

_IDS = {token: i for i, token in enumerate(VOCABULARY, start=1)}


class Limits(NamedTuple):
  """Limits of an expression tree; both lengths are exclusive, and the root is at depth 1."""

  min_length: int
  max_length: int
  max_depth: int
  max_args: int

  def __str__(self) -> str:
    return (
      f"{self.min_length} < length < {self.max_length}, max_depth {self.max_depth} and "
      f"max_args {self.max_args}"
    )


def encode(source: str) -> bytes:
  """Ids, one a byte, of an expression with or without parentheses. KeyError: an unknown token."""
  return bytes(map(_IDS.__getitem__, source.replace("(", "").replace(")", "").split()))


def decode(tokens: bytes | np.ndarray) -> str:
  """The expression of some ids, without parentheses."""
  return " ".join(VOCABULARY[token - 1] for token in tokens)
