"""Kernel attention that fades with distance: sum_j phi(q_i).phi(k_j) exp(-r_h |i - j|) x_j in O(n).

r_h is a rate per head. Inside a chunk of tokens the pairs are computed; the chunks before it have left
a state that fades from one chunk to the next (RetNet, arXiv 2307.08621, section 2.3), and so have, read
from the other end, the chunks after it (LION, arXiv 2502.16249, section 3). Every exponent is that of a
distance, so nothing can overflow, whatever the length and however many tokens are left out between two.
Queries and values are transposed in a chunk, and `_product` keeps all products row by column: a CPU
takes several times as long for a small one with a transposed factor.
"""

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from models.attention import kernel


def weight(
  i: Int[Array, "#b n"], j: Int[Array, "#b m"], rate: Float[Array, "h"]
) -> Float[Array, "#b h n m"]:
  """The dense matrix exp(-r_h |i - j|)."""
  return jnp.exp(-rate[:, None, None] * jnp.abs(i[:, None, :, None] - j[:, None, None, :]))


def chunk_size(n: int) -> int:
  """Tokens in a chunk of n unless one says so: on a CPU those whose pairs stay in the cache."""
  return 32 if jax.default_backend() == "cpu" and n > 64 else 128


def sums(
  phi: kernel.Features,
  x: Float[Array, "b h m f"],
  at: Int[Array, "#b l"],
  rate: Float[Array, "h"],
  *,
  causal: bool,
  chunk: int,
) -> Float[Array, "b h n f"]:
  """What `weight` comes to, over all j or over j <= i; `at` are ascending positions, l = max(n, m).

  Where they descend, as those of padding may, the largest before counts. Pairs take n chunk numbers
  a head and example; they are computed again for the gradient.
  """
  n, dtype = phi.q.shape[2], kernel.sum_dtype(x)
  chunk = min(chunk, at.shape[1])
  chunks = -(-at.shape[1] // chunk)
  at = lax.cummax(at, axis=1)
  at = jnp.pad(at, ((0, 0), (0, chunks * chunk - at.shape[1])), mode="edge")
  at = at.reshape(len(at), chunks, chunk)
  q, k, x = (_split(y, chunks, chunk) for y in (phi.q, phi.k, x.astype(dtype)))
  q, x = (jnp.swapaxes(y, 3, 4) for y in (q, x))

  def fade(distance: Int[Array, "#b C *c"]) -> Float[Array, "#b h C *c"]:
    return jnp.exp(-rate.reshape(-1, *[1] * (distance.ndim - 1)) * distance[:, None])

  @jax.checkpoint
  def inside(q: Array, k: Array, x: Array, fade: Array) -> Float[Array, "b h C f c"]:
    return _product(x, _product(k, q) * fade)

  pairs = fade(jnp.abs(at[..., :, None] - at[..., None, :]))
  out = inside(q, k, x, jnp.triu(pairs) if causal else pairs)  # key by query
  if chunks > 1:
    first, last = at[..., 0], at[..., -1]
    before = jnp.concatenate([first[:, :1], last[:, :-1]], 1)  # where the past was seen last
    after = jnp.concatenate([first[:, 1:], last[:, -1:]], 1)
    states = _states(_product(x, fade(last[..., None] - at)[..., None] * k), fade(last - before))
    out += _product(states, fade(at - before[..., None])[..., None, :] * q)
    if not causal:
      states = _product(x, fade(at - first[..., None])[..., None] * k)
      states = _states(states, fade(after - first), reverse=True)
      out += _product(states, fade(after[..., None] - at)[..., None, :] * q)
  return jnp.swapaxes(out, 3, 4).reshape(*out.shape[:2], chunks * chunk, -1)[:, :, :n]


def _states(
  new: Float[Array, "b h C f d"], keep: Float[Array, "#b h C"], reverse: bool = False
) -> Float[Array, "b h C f d"]:
  """What each chunk finds of those before it, of which `keep` stays from one to the next."""

  def body(total: Array, chunk: tuple[Array, ...]) -> tuple[Array, Array]:
    return chunk[1][..., None, None] * total + chunk[0], total

  each = tuple(jnp.moveaxis(y, 2, 0) for y in (new, keep))
  return jnp.moveaxis(lax.scan(body, jnp.zeros_like(each[0][0]), each, reverse=reverse)[1], 0, 2)


@jax.custom_vjp
def _product(a: Float[Array, "*z m k"], b: Float[Array, "*z k n"]) -> Float[Array, "*z m n"]:
  """a b in the dtype of sums; for the gradient its factors are transposed apart from the product."""
  return jnp.matmul(a, b, preferred_element_type=kernel.sum_dtype(a))


def _forward(a: Array, b: Array) -> tuple[Array, tuple[Array, Array]]:
  return _product(a, b), (a, b)


def _backward(factors: tuple[Array, Array], g: Array) -> tuple[Array, Array]:
  a, b = factors
  a_t, b_t = (lax.optimization_barrier(jnp.swapaxes(y, -1, -2)) for y in (a, b))
  return jnp.matmul(g, b_t).astype(a.dtype), jnp.matmul(a_t, g).astype(b.dtype)


_product.defvjp(_forward, _backward)


def _split(y: Float[Array, "b h n d"], chunks: int, chunk: int) -> Float[Array, "b h C c d"]:
  y = jnp.pad(y, ((0, 0), (0, 0), (0, chunks * chunk - y.shape[2]), (0, 0)))
  return y.reshape(*y.shape[:2], chunks, chunk, y.shape[3])
