"""Kernel attention that fades with distance: sum_j phi(q_i).phi(k_j) exp(-r_h |i - j|) x_j in O(n).

r_h is a rate per head. Inside a chunk of tokens the pairs are computed; the chunks before it have left
a state that fades from one chunk to the next (RetNet, arXiv 2307.08621, section 2.3), and so have, read
from the other end, the chunks after it (LION, arXiv 2502.16249, section 3). Every exponent is that of a
distance, so nothing can overflow, whatever the length and however many tokens are left out between two.
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

  Where they descend, as those of padding may, the largest before counts.
  """
  n, dtype = phi.q.shape[2], kernel.sum_dtype(x)
  chunk = min(chunk, at.shape[1])
  chunks = -(-at.shape[1] // chunk)
  at = lax.cummax(at, axis=1)
  at = jnp.pad(at, ((0, 0), (0, chunks * chunk - at.shape[1])), mode="edge")
  q, k, x = (_split(y, chunks, chunk) for y in (phi.q, phi.k, x))
  at = jnp.moveaxis(at.reshape(len(at), chunks, chunk), 1, 0)  # [chunks #b chunk]
  none = jnp.zeros((*x.shape[1:3], k.shape[-1], x.shape[-1]), dtype)

  def fade(distance: Int[Array, "#b *c"]) -> Float[Array, "#b h *c 1"]:
    r = rate.reshape(-1, *[1] * (distance.ndim - 1))
    return jnp.exp(-r * distance[:, None])[..., None]

  def seen(q: Array, total: Array) -> Float[Array, "b h c f"]:
    return jnp.einsum("bhnd,bhdf->bhnf", q.astype(dtype), total)

  def outer(k: Array, x: Array) -> Float[Array, "b h d f"]:
    return jnp.einsum("bhmd,bhmf->bhdf", k, x.astype(dtype), preferred_element_type=dtype)

  @jax.checkpoint
  def forward(state: tuple[Array, Array], block: tuple[Array, ...]) -> tuple[tuple, Array]:
    (total, last), (q, k, x, p) = state, block  # `total` as it is seen from position `last`
    pairs = jnp.einsum("bhnd,bhmd->bhnm", q, k, preferred_element_type=dtype) * weight(p, p, rate)
    pairs = jnp.tril(pairs) if causal else pairs
    out = jnp.einsum("bhnm,bhmf->bhnf", pairs, x.astype(dtype))
    if chunks == 1:
      return state, out
    out += fade(p - last[:, None]) * seen(q, total)
    end = p[:, -1]
    total = fade(end - last)[..., None] * total + outer(fade(end[:, None] - p) * k, x)
    return (total, end), out

  @jax.checkpoint
  def backward(state: tuple[Array, Array], block: tuple[Array, ...]) -> tuple[tuple, Array]:
    (total, first), (q, k, x, p) = state, block
    out = fade(first[:, None] - p) * seen(q, total)
    start = p[:, 0]
    total = fade(first - start)[..., None] * total + outer(fade(p - start[:, None]) * k, x)
    return (total, start), out

  _, out = lax.scan(forward, (none, at[0, :, 0]), (q, k, x, at))
  if not causal and chunks > 1:
    out += lax.scan(backward, (none, at[-1, :, -1]), (q, k, x, at), reverse=True)[1]
  out = jnp.moveaxis(out, 0, 2)
  return out.reshape(*out.shape[:2], chunks * chunk, -1)[:, :, :n]


def _split(y: Float[Array, "b h n d"], chunks: int, chunk: int) -> Float[Array, "chunks b h c d"]:
  y = jnp.pad(y, ((0, 0), (0, 0), (0, chunks * chunk - y.shape[2]), (0, 0)))
  return jnp.moveaxis(y.reshape(*y.shape[:2], chunks, chunk, y.shape[3]), 2, 0)
