"""Re-weighting of kernel attention by place: sum_j phi(q_i).phi(k_j) w(i, j) x_j in O(n).

    none        1
    cos         cos(pi/2 (i - j)/M), where a position beyond M counts as M: cosFormer's own
    multiscale  (1 + cos(pi (i - j)/M_h))/2 with M_h = M^s_h 4^(1 - s_h) for s_h from 1 to 0 over heads
    cos2d       cos(pi/2 (row_i - row_j)/side) cos(pi/2 (column_i - column_j)/side) of square images
    decay       exp(-r_h |i - j|), see decay.py

w is never negative. But for decay it is the product f(i).f(j) of short vectors of each token, since
cos(a - b) = cos a cos b + sin a sin b: so it leaves the pairs and multiplies values before the sum over
keys and results after it, one linear attention for each entry of f (1, 2, 3 and 4 of them).
tests/models/test_reweighting.py holds both forms together.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from models.attention import decay, kernel
from models.attention.tables import stored

SHORTEST = 4  # tokens to the first zero of the narrowest head of multiscale
REWEIGHT = ("none", "cos", "multiscale", "cos2d", "decay")
FREQUENCIES = ("geometric", "learned")
Angle = Float[Array, "#b #h n 1"]


class Place(NamedTuple):
  """Where queries and keys stand, and what re-weighting needs to know beside that."""

  i: Int[Array, "#b n"]
  j: Int[Array, "#b m"]
  length: Float[Array, "#b"]  # M
  side: int | None  # of a square image whose pixels the tokens are, row by row
  parameters: Mapping[str, Float[Array, "h"]]


def parameters(
  h: int, reweight: str, frequencies: str
) -> dict[str, Callable[[Key[Array, ""]], Array] | Array]:
  """By name the initialiser of each learned parameter, and the value of each fixed one; [h].

  Raises ValueError for names that are not known or do not go together.
  """
  if reweight not in REWEIGHT:
    raise ValueError(f"unknown reweight {reweight!r}; there are {', '.join(REWEIGHT)}")
  if frequencies not in FREQUENCIES:
    raise ValueError(f"unknown frequencies {frequencies!r}; there are {', '.join(FREQUENCIES)}")
  if frequencies == "learned" and reweight != "multiscale":
    raise ValueError(f"learned frequencies fit reweight multiscale, not {reweight}")
  if reweight == "decay":  # rates 2^(-8/h), 2^(-16/h), ... 2^-8: ALiBi's slopes, arXiv 2108.12409
    return {"log_rate": lambda key: -8 * np.log(2) / h * jnp.arange(1.0, h + 1)}
  if reweight == "multiscale":
    start = jnp.linspace(1.0, 0.0, h)
    return {"reach": start if frequencies == "geometric" else lambda key: start}
  return {}


def weight(reweight: str, place: Place) -> Float[Array, "#b #h n m"] | float:
  """The dense matrix w(i, j)."""
  if reweight == "none":
    return 1.0
  if reweight == "decay":
    return decay.weight(place.i, place.j, rate(place))
  a, b = (ANGLES[reweight](at, place) for at in (place.i, place.j))
  return OF_ANGLES[reweight](*(x - jnp.swapaxes(y, 2, 3) for x, y in zip(a, b, strict=True)))


def sums(
  reweight: str,
  place: Place,
  phi: kernel.Features,
  x: Float[Array, "b h m f"],
  *,
  causal: bool,
  chunk: int | None,
) -> Float[Array, "b h n f"]:
  """sum_j phi(q_i).phi(k_j) w(i, j) x_j over all j, or over j <= i when causal."""
  if reweight == "decay":
    at = max(place.i, place.j, key=lambda at: at.shape[1])
    chunk = chunk or decay.chunk_size(at.shape[1])
    return decay.sums(phi, x, at, rate(place), causal=causal, chunk=chunk)
  chunk = chunk or 128
  if reweight == "none":
    return kernel.sums(phi, x, causal=causal, chunk=chunk)
  x = spread(x, factors(reweight, place.j, place))
  x = kernel.sums(phi, x, causal=causal, chunk=chunk)
  return gather(x, factors(reweight, place.i, place))


def factors(reweight: str, at: Int[Array, "#b n"], place: Place) -> tuple[Angle, ...]:
  """f of the tokens at `at`, with w(i, j) = f(i).f(j), one array an entry; none for decay's."""
  if reweight in ("none", "decay"):
    return ()
  return stored(*FACTORS[reweight](*ANGLES[reweight](at, place)))


def spread(x: Float[Array, "*s f"], factors: tuple[Array, ...]) -> Float[Array, "*s rf"]:
  """x times each factor, side by side."""
  return jnp.concatenate([x * f.astype(x.dtype) for f in factors], -1) if factors else x


def gather(x: Float[Array, "*s rf"], factors: tuple[Array, ...]) -> Float[Array, "*s f"]:
  """The sum over parts as `spread` has them, each times its factor."""
  if not factors:
    return x
  first, *rest = (y * f for y, f in zip(jnp.split(x, len(factors), -1), factors, strict=True))
  return sum(rest, start=first)


def rate(place: Place) -> Float[Array, "h"]:
  """decay's r_h, positive and finite whatever the parameter is."""
  return jnp.exp(jnp.clip(place.parameters["log_rate"], -20, 5))


def _by_length(at: Int[Array, "#b n"], place: Place) -> tuple[Angle]:
  """pi/2 min(i, M)/M."""
  return (_quarter(at, place.length[:, None]),)


def _by_scale(at: Int[Array, "#b n"], place: Place) -> tuple[Angle]:
  """pi i/M_h."""
  length = jnp.maximum(place.length, 1)[:, None]
  reach = jnp.clip(place.parameters["reach"], -1, 4)  # finite whatever the parameter is
  frequency = jnp.pi / SHORTEST * (SHORTEST / length) ** reach  # [#b h]
  return ((frequency[:, :, None] * at[:, None].astype(frequency.dtype))[..., None],)


def _by_row_and_column(at: Int[Array, "#b n"], place: Place) -> tuple[Angle, Angle]:
  """pi/2 row/side and pi/2 column/side."""
  if place.side is None:
    raise ValueError(
      "reweight cos2d fits square images without CLS: tasks image, pathfinder, pathx and cls=False"
    )
  side = jnp.full((1, 1), place.side, place.length.dtype)
  return _quarter(at // place.side, side), _quarter(at % place.side, side)


def _quarter(at: Int[Array, "#b n"], length: Float[Array, "#b 1"]) -> Angle:
  """pi/2 min(at, length)/length."""
  angle = jnp.pi / 2 * jnp.minimum(at.astype(length.dtype) / jnp.maximum(length, 1), 1)
  return angle[:, None, :, None]


ANGLES = {"cos": _by_length, "multiscale": _by_scale, "cos2d": _by_row_and_column}
OF_ANGLES = {  # w by differences of angles
  "cos": jnp.cos,
  "multiscale": lambda a: (1 + jnp.cos(a)) / 2,
  "cos2d": lambda a, b: jnp.cos(a) * jnp.cos(b),
}
FACTORS = {  # f by angles
  "cos": lambda a: (jnp.cos(a), jnp.sin(a)),
  "multiscale": lambda a: (
    jnp.full_like(a, 0.5**0.5),
    0.5**0.5 * jnp.cos(a),
    0.5**0.5 * jnp.sin(a),
  ),
  "cos2d": lambda a, b: tuple(f(a) * g(b) for f in (jnp.cos, jnp.sin) for g in (jnp.cos, jnp.sin)),
}
