"""The training step: one dispatch or many, what a window records, and that it learns."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lra.data import batches
from lra.data.batches import Dispatch
from lra.data.tasks.task import pack
from lra.system import devices
from lra.system.progress import Clock
from lra.training import objectives, parts, step
from lra.training.evaluation import Evaluator
from models import heads

LENGTH = 8


def model(dropout=0.0):
  config = {
    "attention": "cosformer",
    "attention_options": {},
    "num_layers": 1,
    "num_heads": 2,
    "emb_dim": 16,
    "embedding_std": 1.0,
    "qkv_dim": 16,
    "mlp_dim": 16,
    "dropout": dropout,
    "positions": "sinusoidal",
    "cls": False,
    "pooling": "masked_mean",
    "interaction": "concat",
    "zero_is_padding": False,
  }
  sizes = {"vocab_size": 12, "num_classes": 4, "max_length": LENGTH}
  return heads.build(config, **sizes, dtype=jnp.dtype("float32"))


def split(count=40, mesh=None):
  """The first `count` of 40 examples."""
  rng = np.random.default_rng(0)
  documents = [rng.integers(1, 12, n, np.uint8) for n in rng.integers(3, LENGTH + 1, 40)]
  examples = pack(documents[:count], rng.integers(0, 4, 40)[:count])
  return batches.Split(examples, 0, LENGTH, mesh or devices.data_mesh(), on_device=True)


@pytest.fixture(scope="module")
def made():
  """make(dropout, seed) -> trainer, fresh state; equal options share a trainer, all a start."""
  trainers, everywhere = {}, devices.replicated(devices.data_mesh())
  optimizer = optax.adam(1e-2)
  start = step.init(model(), optimizer, jax.random.key(0), 1, everywhere)
  start = jax.tree.map(np.array, start)

  def make(dropout=0.0, seed=0):
    if (dropout, seed) not in trainers:
      trainers[dropout, seed] = step.Trainer(
        model(dropout),
        optimizer,
        split(),
        key=jax.random.key(seed),
        run=6,
        sharding=everywhere,
        clock=Clock(),
      )
    return trainers[dropout, seed], jax.device_put(start, everywhere)

  return make


BATCHES = np.random.default_rng(1).permutation(40)[:24].reshape(3, 8).astype(np.int32)
BATCHES = np.concatenate([BATCHES, BATCHES])  # 6 batches of 8


def advance(made, sizes, **options):
  """The state after len(sizes) dispatches of so many batches."""
  trainer, state = made(**options)
  at = int(state.step)
  for size in sizes:
    state, done = trainer(state, Dispatch(LENGTH, BATCHES[at : at + size]))
    at += size
    assert int(done) == at == int(state.step)
  return state


def same(a, b):
  leaves = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
  return all((np.array(x) == np.array(y)).all() for x, y in leaves)


def test_steps_of_a_dispatch_equal_dispatches_of_a_step(made):
  whole = advance(made, [6], dropout=0.5)
  assert same(whole, advance(made, [1] * 6, dropout=0.5))
  assert same(whole, advance(made, [2, 3, 1], dropout=0.5))
  assert not same(whole.params, advance(made, [5], dropout=0.5).params)


@pytest.mark.parametrize("devices_count", [1, 2])
def test_accumulated_parts_equal_the_whole_batch(devices_count):
  """Gradients after one step of SGD and means of a batch of 8."""
  mesh = jax.make_mesh(
    (devices_count,),
    ("data",),
    (jax.sharding.AxisType.Auto,),
    devices=jax.devices()[:devices_count],
  )
  everywhere = devices.replicated(mesh)

  start = step.init(model(), optax.sgd(1.0), jax.random.key(0), 1, everywhere)
  start = jax.tree.map(np.array, start)

  def after_a_step(accumulate):
    trainer = step.Trainer(
      model(),
      optax.sgd(1.0),
      split(mesh=mesh),
      key=jax.random.key(0),
      run=6,
      sharding=everywhere,
      clock=Clock(),
      accumulate=accumulate,
    )
    return trainer(jax.device_put(start, everywhere), Dispatch(LENGTH, BATCHES[:1]))[0]

  whole = after_a_step(1)
  parts = after_a_step(4 // devices_count)
  for a, b in zip(jax.tree.leaves(whole.params), jax.tree.leaves(parts.params), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
  a, b = (state.window.metrics.compute() for state in (whole, parts))
  assert float(a["loss"]) == pytest.approx(float(b["loss"]), rel=1e-6)
  assert float(a["accuracy"]) == float(b["accuracy"])
  assert float(whole.window.real_tokens) == float(parts.window.real_tokens)


@pytest.mark.parametrize(
  "b, s, n, count, cut",
  [
    (32, 1, 1024, 1, 32),
    (32, 1, 512, 1, 16),
    (32, 1, 300, 1, 16),
    (32, 2, 4000, 1, 32),
    (32, 1, 16, 1, 1),
    (24, 1, 200, 1, 6),
    (32, 1, 1024, 4, 8),
  ],
)
def test_parts_of_a_batch_fit_a_cache(b, s, n, count, cut):
  assert parts.cache_parts(b, s, n, count) == cut


def test_dropout_differs_by_step_and_by_seed(made):
  """The loss of the first batch, before any update, as the first step or another one sees it."""
  loss = lambda state: float(state.window.metrics.compute()["loss"])
  once = loss(advance(made, [1], dropout=0.5))
  assert once == loss(advance(made, [1], dropout=0.5))
  assert once != loss(advance(made, [1], dropout=0.5, seed=1))
  trainer, state = made(dropout=0.5)
  state = state.replace(step=jnp.full_like(state.step, 3))
  assert once != loss(trainer(state, Dispatch(LENGTH, BATCHES[:1]))[0])


def test_window_adds_up(made):
  trainer, state = made()
  data, m, losses, correct = split(), model(), [], []
  arrays = data.arrays(Dispatch(LENGTH, BATCHES), 6)
  apply = jax.jit(lambda params, batch: m.apply({"params": params}, *batch[:2], train=False))
  for i in range(len(BATCHES)):
    batch = data.batch(arrays, i, LENGTH)
    logits = np.array(apply(state.params, batch), np.float64)
    log_p = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    losses.append(-log_p[np.arange(8), batch.labels].mean())
    correct.append((logits.argmax(1) == batch.labels).mean())
    state, _ = trainer(state, Dispatch(LENGTH, BATCHES[i : i + 1]))
  values = step.report(state.window, jnp.float32(0.25), seconds=2.0, examples=48)
  np.testing.assert_allclose(values["train/loss"], np.mean(losses), rtol=1e-4)
  np.testing.assert_allclose(values["train/accuracy"], np.mean(correct), rtol=1e-6)
  real = data.lengths[BATCHES].sum()
  assert values["train/real_token_share"] == pytest.approx(real / (48 * LENGTH))
  assert values["time/examples_per_second"] == 24 and values["time/tokens_per_second"] == real / 2
  assert values["train/learning_rate"] == 0.25 and int(state.window.first_bad) == -1
  resumed = step.report(state.window, jnp.float32(0), seconds=2.0, examples=8, earlier_tokens=5)
  assert resumed["time/tokens_per_second"] == (real - 5) / 2


def test_first_bad_is_the_first_step_that_is_not_finite(made):
  trainer, state = made()
  state, _ = trainer(state, Dispatch(LENGTH, BATCHES[:2]))
  broken = jax.tree.map(lambda p: jnp.where(p.ndim > 1, jnp.nan, p), state.params)
  state = state.replace(params=jax.device_put(broken, state.step.sharding))
  state, _ = trainer(state, Dispatch(LENGTH, BATCHES[2:4]))
  assert int(state.window.first_bad) == 2
  state, _ = trainer(state, Dispatch(LENGTH, BATCHES[4:]))
  assert int(state.window.first_bad) == 2 and int(state.step) == 6


def test_one_infinite_loss_is_bad():
  logits = jnp.array([[0.0, 0.0], [np.inf, 0.0]])
  loss, correct = objectives.cross_entropy(logits, jnp.array([0, 1]))
  assert loss[0] == pytest.approx(np.log(2)) and not np.isfinite(loss[1])
  assert correct.tolist() == [1.0, 0.0]


def test_eight_examples_are_learnt_by_heart(made):
  trainer, state = made()
  evaluate = Evaluator(model(), split(8), (LENGTH,), 8)
  before = evaluate(state.params)
  for _ in range(40):
    state, _ = trainer(state, Dispatch(LENGTH, np.tile(np.arange(8, dtype=np.int32), (6, 1))))
  after = evaluate(state.params)
  assert after["accuracy"] == 1.0 and after["loss"] < 0.05 < before["loss"]


@pytest.mark.parametrize("batch_size, buckets", [(16, (LENGTH,)), (56, (6, LENGTH))])
def test_evaluation_does_not_depend_on_batches(made, batch_size, buckets):
  state = made()[1]
  data, m = split(), model()
  measured = Evaluator(m, data, buckets, batch_size)(state.params)
  everything = data.arrays(Dispatch(LENGTH, np.arange(40, dtype=np.int32)[None]), 1)
  batch = data.batch(everything, 0, LENGTH)
  apply = jax.jit(lambda params: m.apply({"params": params}, *batch[:2], train=False))
  logits = apply(state.params)
  loss, correct = objectives.cross_entropy(logits, batch.labels)
  assert measured["loss"] == pytest.approx(float(loss.mean()), rel=1e-6)
  assert measured["accuracy"] == pytest.approx(float(correct.mean()), rel=1e-6)


def test_best_is_a_copy_that_outlives_the_donated_state(made):
  trainer, state = made()
  best = step.Best.of(state, 0.5)
  kept = jax.tree.map(np.array, best.params)
  state, _ = trainer(state, Dispatch(LENGTH, BATCHES))
  assert same(best.params, kept) and not same(best.params, state.params)
  assert float(best.score) == 0.5 and int(best.step) == 0
