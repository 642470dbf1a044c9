"""Schedules and AdamW against values recorded from the published harness (jax 0.4, flax 0.3.6)."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from lra.system.errors import UserError
from lra.training import optim

GOLDEN = Path(__file__).parents[1] / "golden"
SCHEDULES = dict(np.load(GOLDEN / "schedules.npz"))
ADAM = dict(np.load(GOLDEN / "adam.npz"))


def config(**changes):
  defaults = {
    "schedule": "lra_rsqrt",
    "learning_rate": 0.05,
    "warmup_steps": 1000,
    "cycle_steps": 0,
    "beta1": 0.9,
    "beta2": 0.98,
    "eps": 1e-9,
    "weight_decay": 0.1,
    "decay": "all",
    "clip_norm": 0.0,
  }
  return ConfigDict(defaults | changes)


PUBLISHED = {  # task: schedule, rate, warm-up, cycle
  "listops": ("lra_rsqrt", 0.05, 1000, 0),
  "text": ("lra_rsqrt", 0.05, 8000, 0),
  "retrieval": ("lra_rsqrt", 0.05, 8000, 0),
  "image": ("lra_cosine", 0.0005, 175, 35_000),
  "pathfinder": ("lra_cosine", 0.001, 312, 62_400),
}


@pytest.mark.parametrize("task", PUBLISHED)
def test_published_schedules(task):
  name, rate, warmup, cycle = PUBLISHED[task]
  recipe = config(schedule=name, learning_rate=rate, warmup_steps=warmup, cycle_steps=cycle)
  schedule = jax.jit(jax.vmap(optim.make(recipe, 5000)[1]))
  np.testing.assert_allclose(schedule(SCHEDULES["steps"]), SCHEDULES[f"{task}/lr"], rtol=2e-6)
  rates = np.array(schedule(SCHEDULES[f"{task}/steps_extra"]))
  # the last two sit where a cycle starts anew: rounding decides
  wanted = SCHEDULES[f"{task}/lr_extra"]
  np.testing.assert_allclose(rates[:-2], wanted[:-2], rtol=2e-6, atol=1e-6 * rate)
  assert rates[:-2].max() > 0 and (rates >= 0).all() and (rates <= rate).all()


@pytest.mark.parametrize("name", ["linear", "cosine"])
@pytest.mark.parametrize("cycle", [0, 80])
def test_schedule_peaks_at_the_learning_rate_and_ends_at_zero(name, cycle):
  recipe = config(schedule=name, learning_rate=0.3, warmup_steps=10, cycle_steps=cycle)
  rates = np.array(jax.vmap(optim.make(recipe, 50)[1])(jnp.arange(101)))
  end = cycle or 50
  assert rates[0] == 0 and rates[end:].max() < 1e-8
  assert rates.argmax() == 10 and rates[10] == np.float32(0.3)
  np.testing.assert_allclose(rates[:10], 0.03 * np.arange(10), rtol=1e-5)
  middle = rates[(10 + end) // 2]
  np.testing.assert_allclose(middle, 0.15, rtol=1e-5)
  assert (np.diff(rates[10 : end + 1]) < 0).all()


@pytest.mark.parametrize("name", optim.SCHEDULES)
def test_warmup_as_long_as_the_run_stays_finite(name):
  recipe = config(schedule=name, learning_rate=0.3, warmup_steps=20)
  rates = np.array(jax.vmap(optim.make(recipe, 20)[1])(jnp.arange(25)))
  assert np.isfinite(rates).all() and (np.diff(rates[:20]) > 0).all()


def tree(prefix):
  return {k.removeprefix(prefix): jnp.array(v) for k, v in ADAM.items() if k.startswith(prefix)}


@pytest.mark.parametrize("scenario", ["wd01", "wd01_schedule", "wd0"])
def test_adamw_reproduces_the_published_updates(scenario, monkeypatch):
  rates = jnp.array(ADAM[f"{scenario}/learning_rates"], jnp.float32)
  monkeypatch.setitem(optim.SCHEDULES, "table", lambda *_: lambda step: rates[step])
  recipe = config(schedule="table", weight_decay=float(ADAM[f"{scenario}/weight_decay"]))
  optimizer, _ = optim.make(recipe, 3)
  params = tree("param0/")
  state = optimizer.init(params)
  update = jax.jit(optimizer.update)
  for i in (1, 2, 3):
    updates, state = update(tree(f"grad{i}/"), state, params)
    params = jax.tree.map(jnp.add, params, updates)
    for name, wanted in tree(f"{scenario}/jit/param{i}/").items():
      np.testing.assert_allclose(params[name], wanted, rtol=3e-6, atol=1e-7, err_msg=f"{name} {i}")


def one_update(params, grads, **changes):
  """What a step of rate 1 adds to `params`."""
  recipe = config(schedule="linear", learning_rate=1.0, warmup_steps=1, **changes)
  optimizer, _ = optim.make(recipe, 10)
  state = optimizer.init(params)
  _, state = optimizer.update(jax.tree.map(jnp.zeros_like, grads), state, params)  # rate 0
  return optimizer.update(grads, state, params)[0]


PARAMS = {"kernel": jnp.full((2, 3), 2.0), "bias": jnp.full(3, 2.0), "scale": jnp.array(2.0)}


@pytest.mark.parametrize("decay, shrunk", [("all", 3), ("matrices", 1)])
def test_decay_spares_vectors_unless_all(decay, shrunk):
  still = jax.tree.map(jnp.zeros_like, PARAMS)
  updates = one_update(PARAMS, still, decay=decay, weight_decay=0.25)
  for name, update in updates.items():
    wanted = -0.5 if shrunk == 3 or name == "kernel" else 0.0
    np.testing.assert_array_equal(update, np.full(update.shape, wanted))


@pytest.mark.parametrize("clip, factor", [(0.0, 1.0), (1.0, 0.1), (20.0, 1.0)])
def test_clip_is_of_the_global_norm(clip, factor):
  """Seen through an eps so large that the update is linear in the gradient."""
  grads = {"a": jnp.array([6.0, 0.0]), "b": jnp.array([[8.0]])}  # norm 10
  params = jax.tree.map(jnp.zeros_like, grads)
  updates = one_update(params, grads, clip_norm=clip, eps=1e6)
  free = one_update(params, grads, clip_norm=0.0, eps=1e6)
  for name in grads:
    np.testing.assert_allclose(updates[name], factor * free[name], rtol=1e-4)
    assert (np.array(free[name]) <= 0).all() and np.abs(free[name]).max() > 0


@pytest.mark.parametrize(
  "change, named",
  [
    ({"schedule": "step"}, "unknown schedule 'step'.*lra_rsqrt, lra_cosine, cosine, linear"),
    ({"decay": "none"}, "config.optim.decay is 'all' or 'matrices', not 'none'"),
  ],
)
def test_mistakes_are_user_errors(change, named):
  with pytest.raises(UserError, match=named):
    optim.make(config(**change), 10)
