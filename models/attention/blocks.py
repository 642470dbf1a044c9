"""Attention a block at a time: some examples, heads and queries against all keys, then put together.

What is computed in a block is the caller's; this file only cuts and joins. A block is the size of a
cache on a CPU, and elsewhere what keeps all devices at work.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int, Key


class Block(NamedTuple):
  """What is computed at once: x examples, y heads, r queries, m keys."""

  q: Float[Array, "x y r d"]
  k: Float[Array, "x y d m"]  # transposed, as are the values: see `over_blocks`
  v: Float[Array, "x y f m"]
  rows: Int[Array, "r"]  # which queries they are
  real: Bool[Array, "x m"] | None  # keys
  marked: Bool[Array, "x r"] | None  # queries
  key: Key[Array, ""] | None  # the block's own


class Sizes(NamedTuple):
  """How attention is cut: examples, heads and queries at once, blocks of queries."""

  examples: int
  heads: int
  rows: int
  blocks: int


def over_blocks(
  function: Callable[[Block], Float[Array, "x y r e"]],
  q: Float[Array, "b n h d"],
  k: Float[Array, "b m h d"],
  v: Float[Array, "b m h f"],
  *,
  real: Bool[Array, "b m"] | None,
  marked: Bool[Array, "b n"] | None,
  key: Key[Array, ""] | None,
  scores: int,
) -> Float[Array, "b n h e"]:
  """`function` of every block of about `scores` pairs of query and key, one after another.

  real and marked are flags of keys and queries that `function` wants. Blocks are computed again for
  the gradient, so that memory is that of one. Keys and values are transposed in a block: their
  gradient can then be a product that transposes its small factor, on a CPU three times as fast.
  """
  b, n, h, _ = q.shape
  size = _sizes(b, n, h, k.shape[1], scores)
  pad = ((0, 0), (0, size.blocks * size.rows - n))
  q = jnp.pad(q, (*pad, (0, 0), (0, 0)))
  marked = None if marked is None else jnp.pad(marked, pad)
  q, k, v = (_split(x, size) for x in (q, k, v))
  k, v = (jnp.swapaxes(x, -1, -2) for x in (k, v))
  real, marked = (None if x is None else _split_flags(x, size, h) for x in (real, marked))
  keys = None if key is None else jax.random.split(key, (len(q), size.blocks))
  firsts = jnp.arange(size.blocks) * size.rows

  def group(args: tuple[Array | None, ...]) -> Float[Array, "blocks x y r e"]:
    q, k, v, real, marked, keys = args

    @jax.checkpoint
    def one(args: tuple[Array | None, ...]) -> Float[Array, "x y r e"]:
      q, first, marked, key = args
      return function(Block(q, k, v, first + jnp.arange(size.rows), real, marked, key))

    marked = None if marked is None else _parts(marked, 1, size)
    return lax.map(one, (_parts(q, 2, size), firsts, marked, keys))

  return _join(lax.map(group, (q, k, v, real, marked, keys)), size, b, h)[:, :n]


def _sizes(b: int, n: int, h: int, m: int, scores: int) -> Sizes:
  """At most `scores` of b n h m at once; what to keep whole depends on the device."""
  order, left, at_once = ("nhb" if jax.default_backend() == "cpu" else "bnh"), scores // m, {}
  for axis in order:
    size = {"b": b, "n": n, "h": h}[axis]
    fits = max(1, min(size, left))
    at_once[axis] = fits if axis == "n" else max(i for i in range(1, fits + 1) if size % i == 0)
    left //= at_once[axis]
  blocks = -(-n // at_once["n"])
  rows = -(-n // blocks)  # even blocks: padding of less than `blocks` queries
  return Sizes(at_once["b"], at_once["h"], rows, blocks)


def _split(x: Float[Array, "b n h d"], size: Sizes) -> Float[Array, "g x y n d"]:
  """g groups of x examples and y heads."""
  b, n, h, d = x.shape
  x = x.reshape(size.examples, b // size.examples, n, h // size.heads, size.heads, d)
  return x.transpose(1, 3, 0, 4, 2, 5).reshape(-1, size.examples, size.heads, n, d)


def _split_flags(x: Bool[Array, "b n"], size: Sizes, h: int) -> Bool[Array, "g x n"]:
  """The same groups of what all heads share."""
  x = x.reshape(size.examples, len(x) // size.examples, x.shape[1]).swapaxes(0, 1)
  return jnp.repeat(x, h // size.heads, 0)


def _parts(x: Array, axis: int, size: Sizes) -> Array:
  """The queries at `axis` as blocks, which come first."""
  x = x.reshape(*x.shape[:axis], size.blocks, size.rows, *x.shape[axis + 1 :])
  return jnp.moveaxis(x, axis, 0)


def _join(
  x: Float[Array, "g blocks x y r e"], size: Sizes, b: int, h: int
) -> Float[Array, "b n h e"]:
  """Groups and blocks back in their places."""
  x = x.reshape(b // size.examples, h // size.heads, size.blocks, *x.shape[2:])
  x = x.transpose(3, 0, 2, 5, 1, 4, 6)  # x, groups of examples, blocks, r, groups of heads, y, e
  return x.reshape(b, size.blocks * size.rows, h, x.shape[-1])
