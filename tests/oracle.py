"""Attention as its papers write it, one head at a time with dense matrices, and inputs for tests.

Imports nothing of the code under test; in float64 under the fixture `x64`.
"""

import jax
import jax.numpy as jnp
import numpy as np

FEATURE_MAPS = {
  "relu": lambda x: (x + jnp.abs(x)) / 2,
  "leaky_relu": lambda x: jnp.where(x < 0, 0.01 * x, x),
  "identity": lambda x: x,
  "elu1": lambda x: jax.nn.elu(x) + 1,
  "exp": jnp.exp,
}


def inputs(b=4, n=7, m=None, h=2, d=4, e=3, seed=0, dtype=None):
  """Normal q [b n h d], k [b m h d], v [b m h e]; float64 where that is on, unless dtype is given."""
  m = n if m is None else m
  rng = np.random.default_rng(seed)
  shapes = (b, n, h, d), (b, m, h, d), (b, m, h, e)
  return tuple(jnp.asarray(rng.normal(size=s), dtype) for s in shapes)


def masks(m, seed=0):
  """bool [4, m]: all real, a padded suffix, holes (the first key among them), nothing."""
  holes = np.random.default_rng(seed).random(m) < 0.6
  holes[0], holes[-1] = False, m > 1
  return np.stack([np.ones(m, bool), np.arange(m) < (m + 1) // 2, holes, np.zeros(m, bool)])


def visible(b, n, m, mask, causal):
  """bool [b, n, m]: which keys each query may look at."""
  see = np.ones((b, n, m), bool) if mask is None else np.repeat(mask[:, None], n, 1)
  return see & (np.arange(m) <= np.arange(n)[:, None]) if causal else see


def per_head(attend, q, k, v, *aux):
  """attend(q [n d], k [m d], v [m e], *aux) over heads and, with aux, over examples."""
  heads = jax.vmap(attend, in_axes=(1, 1, 1, *[None] * len(aux)), out_axes=1)
  return jax.vmap(heads)(q, k, v, *aux)


def softmax(q, k, v, mask=None, causal=False):
  """softmax(q k^T / sqrt(d)) v."""

  def attend(q, k, v, see):
    scores = jnp.where(see, jnp.exp(q @ k.T / np.sqrt(q.shape[1])), 0)
    total = scores.sum(1, keepdims=True)
    return scores @ v / jnp.where(total > 0, total, 1)

  see = visible(len(q), q.shape[1], k.shape[1], mask, causal)
  return per_head(attend, q, k, v, jnp.asarray(see))


def linear(q, k, v, mask=None, causal=False):
  """phi(q) phi(k)^T v over its row sums plus 1e-6, phi(x) = elu(x) + 1."""

  def attend(q, k, v, see):
    phi = FEATURE_MAPS["elu1"]
    scores = jnp.where(see, phi(q) @ phi(k).T, 0)
    return scores @ v / (scores.sum(1, keepdims=True) + 1e-6)

  see = visible(len(q), q.shape[1], k.shape[1], mask, causal)
  return per_head(attend, q, k, v, jnp.asarray(see))


def cosformer(q, k, v, mask=None, causal=False, length=None, feature_map="relu", reweight="cos"):
  """phi(q) phi(k)^T cos(pi/2 (i - j)/M) v over its row sums, or over 1e-6 where they are less."""
  b, n, m = len(q), q.shape[1], k.shape[1]
  if length is None and mask is None:
    length = max(n, m)
  elif length is None:
    length = [max([j + 1 for j in range(m) if row[j]], default=0) for row in mask]
    length = [one if n == m else max(one, n) for one in length]
  length = np.broadcast_to(np.maximum(length, 1), (b,))
  i, j = (np.minimum(np.arange(s), length[:, None]) for s in (n, m))
  cos = np.cos(np.pi / 2 * (i[:, :, None] - j[:, None, :]) / length[:, None, None])
  phi = FEATURE_MAPS[feature_map]

  def attend(q, k, v, see, cos):
    scores = jnp.where(see, phi(q) @ phi(k).T, 0)
    scores = scores * cos if reweight == "cos" else scores
    total = scores.sum(1, keepdims=True)
    return scores @ v / jnp.where(jnp.abs(total) < 1e-6, 1e-6, total)

  see = visible(b, n, m, mask, causal)
  return per_head(attend, q, k, v, jnp.asarray(see), jnp.asarray(cos))


def reweighted(
  q, k, v, between, mask=None, causal=False, feature_map="relu", rope=False, add=False
):
  """phi(q).phi(k) between[b, head] v over its row sums, or over 1e-6 where they are less (`add`: plus).

  rope: the numerator's features are complex numbers, turned by position times 10000^(-2t/d).
  """
  b, n, m, h = len(q), q.shape[1], k.shape[1], q.shape[2]
  between = jnp.broadcast_to(between, (b, h, n, m))
  phi = FEATURE_MAPS[feature_map]

  def turned(x):
    half = x.shape[1] // 2
    angle = jnp.arange(len(x))[:, None] * 10000.0 ** (-jnp.arange(half) / half)
    return (x[:, :half] + 1j * x[:, half : 2 * half]) * jnp.exp(1j * angle), x[:, 2 * half :]

  def attend(q, k, v, between, see):
    scores = jnp.where(see, phi(q) @ phi(k).T * between, 0)
    total = scores.sum(1, keepdims=True)
    if rope:
      (a, rest_a), (b, rest_b) = turned(phi(q)), turned(phi(k))
      scores = jnp.where(see, (jnp.real(a @ jnp.conj(b).T) + rest_a @ rest_b.T) * between, 0)
    if add:
      return scores @ v / (total + 1e-6)
    dead = jnp.abs(total) < 1e-6
    return jnp.where(dead, 0, scores @ v / jnp.where(dead, 1, total))

  see = jnp.asarray(visible(b, n, m, mask, causal))
  heads = jax.vmap(attend, in_axes=(1, 1, 1, 0, None), out_axes=1)
  return jax.vmap(heads)(q, k, v, between, see)


def rms(x):
  """x over the root of the mean of its squares and 1e-6, along the last axis."""
  return x / jnp.sqrt((x**2).mean(-1, keepdims=True) + 1e-6)


def value_and_grads(attend, cotangent, *qkv):
  """attend(q, k, v) and the gradients of its inner product with the cotangent."""
  out, pullback = jax.vjp(attend, *qkv)
  return out, *pullback(cotangent.astype(out.dtype))


def assert_close(actual, expected, relative):
  """Within `relative` of the largest expected value (or of 1, where that is less), array by array."""
  for a, e in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
    a, e = np.asarray(a, np.float64), np.asarray(e, np.float64)
    np.testing.assert_allclose(a, e, rtol=0, atol=relative * max(1.0, np.abs(e).max()))


def array_sizes(jaxpr):
  """The sizes of all arrays that a jaxpr and those inside it make."""
  for equation in jaxpr.eqns:
    for variable in equation.outvars:
      yield int(np.prod(variable.aval.shape))
    for inner in jax.tree.leaves(
      list(equation.params.values()), is_leaf=lambda p: hasattr(p, "eqns") or hasattr(p, "jaxpr")
    ):
      if hasattr(inner, "jaxpr"):
        yield from array_sizes(inner.jaxpr)
      elif hasattr(inner, "eqns"):
        yield from array_sizes(inner)
