"""Learning-rate schedules and the optimizer, with the semantics of the published LRA harness."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from lra.system.errors import UserError

Schedule = Callable[[jax.Array], jax.Array]  # 0-based step -> learning rate


def lra_rsqrt(rate: float, warmup: int, cycle: int) -> Schedule:
  """rate min(1, s/W) / sqrt(max(s, W)): not normalised, so the peak is rate / sqrt(W)."""
  del cycle

  def schedule(step: jax.Array) -> jax.Array:
    return rate * jnp.minimum(1.0, step / warmup) / jnp.sqrt(jnp.maximum(step, warmup))

  return schedule


def lra_cosine(rate: float, warmup: int, cycle: int) -> Schedule:
  """rate min(1, s/W) (1 + cos(pi (max(0, s - W)/C mod 1)))/2: cyclic, as published."""

  def schedule(step: jax.Array) -> jax.Array:
    progress = jnp.maximum(0.0, (step - warmup) / float(cycle))
    cosine = 0.5 * (1.0 + jnp.cos(jnp.pi * (progress % 1.0)))
    return rate * jnp.minimum(1.0, step / warmup) * jnp.maximum(0.0, cosine)

  return schedule


def cosine(rate: float, warmup: int, cycle: int) -> Schedule:
  """Linear from 0 to `rate` in `warmup` steps, then half a cosine to 0 at step `cycle`."""
  return optax.warmup_cosine_decay_schedule(0.0, rate, warmup, max(cycle, warmup + 1))


def linear(rate: float, warmup: int, cycle: int) -> Schedule:
  """Linear from 0 to `rate` in `warmup` steps, then linear to 0 at step `cycle`."""
  rise = optax.linear_schedule(0.0, rate, warmup)
  fall = optax.linear_schedule(rate, 0.0, max(cycle - warmup, 1))
  return optax.join_schedules([rise, fall], [warmup])


SCHEDULES = {"lra_rsqrt": lra_rsqrt, "lra_cosine": lra_cosine, "cosine": cosine, "linear": linear}


def make(config: Any, steps: int) -> tuple[optax.GradientTransformation, Schedule]:
  """The optimizer and schedule of `config` (the `optim` section). Raises UserError.

  AdamW: p - lr (m / (sqrt(v) + eps) + decay p), with the old p in both terms and bias-corrected
  moments; `decay` is "all" parameters as in LRA or "matrices" (not biases, norms or vectors).
  """
  if config.schedule not in SCHEDULES:
    raise UserError(
      f"unknown schedule {config.schedule!r}; config.optim.schedule is one of {', '.join(SCHEDULES)}"
    )
  if config.decay not in ("all", "matrices"):
    raise UserError(f"config.optim.decay is 'all' or 'matrices', not {config.decay!r}")
  schedule = SCHEDULES[config.schedule](
    config.learning_rate, config.warmup_steps, config.cycle_steps or steps
  )
  clip = optax.clip_by_global_norm(config.clip_norm) if config.clip_norm else optax.identity()
  adamw = optax.adamw(
    schedule,
    b1=config.beta1,
    b2=config.beta2,
    eps=config.eps,
    weight_decay=config.weight_decay,
    mask=None if config.decay == "all" else _matrices,
  )
  return optax.chain(clip, adamw), schedule


def _matrices(params: Any) -> Any:
  return jax.tree.map(lambda p: p.ndim > 1, params)
