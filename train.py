"""Trains one model on one task and ends with one test number.

    python train.py --config configs/lra/listops_cosformer.py            the recipe
    python train.py --config configs/lra/listops_cosformer.py:quick      minutes on a laptop
    python train.py --config ... --config.model.attention=linear --config.seed=1

The same command resumes an interrupted run, bit for bit, and shows the result of a finished one.
"""

import collections
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
from absl import flags
from clu import parameter_overview
from ml_collections import ConfigDict

from lra.data import batches
from lra.runs import command
from lra.system import devices, process
from lra.training import checkpoint, optim
from lra.data import store, tasks
from lra.runs import records, results
from lra.training import step
from lra.system.errors import UserError
from lra.training.evaluation import Evaluator
from lra.system.progress import Clock, Progress

FLAGS = command.define_flags()
RESTART = "restart"


def train(
  config: ConfigDict,
  workdir: Path,
  *,
  data_dir: Path,
  raw_dir: Path | None,
  stop: process.StopRequest,
) -> dict | None:
  """Runs or resumes `config` in `workdir`; the result, or None if `stop` came first."""
  devices.cache_programs(data_dir / "programs")
  clock, outcome = Clock(), RESTART
  while outcome is RESTART:
    outcome = attempt(config, workdir, data_dir, raw_dir, stop, clock)
    clock = Clock(before=clock.run)
  return outcome


def attempt(
  config: ConfigDict,
  workdir: Path,
  data_dir: Path,
  raw_dir: Path | None,
  stop: process.StopRequest,
  clock: Clock,
) -> dict | str | None:
  """`train` with one seed; RESTART if it stays on a plateau and another seed is to be tried."""
  progress = Progress()

  # What the config asks for: its mistakes show before anything is written.
  task = tasks.get(config.task.name)
  options = {key: value for key, value in config.task.items() if key != "name"}
  longest = task.longest(options)
  mesh = devices.data_mesh()
  command.check_training(config, mesh.size)
  model = command.build_model(config, task, longest)
  optimizer, schedule = optim.make(config.optim, config.train.steps)
  run = records.Run(workdir, config.to_dict())
  seed = config.seed + 1_000_003 * run.attempt
  init_key, dropout_key = jax.random.split(jax.random.key(seed))
  everywhere = devices.replicated(mesh)
  state = step.init(model, optimizer, init_key, task.streams, everywhere)
  if run.result is not None:
    progress.line(results.summary(run.result, workdir) + "\n(finished before: nothing was run)")
    return run.result

  # Data: prepared once, verified, resident where its batches are made.
  data = store.open_store(task, options, data_dir=data_dir, raw_dir=raw_dir, report=progress.live)
  splits = batches.splits(
    data.splits,
    task.id_offset,
    longest,
    mesh,
    gigabytes=config.data.device_gigabytes,
    drop_zeros=model.ignores_zeros,
  )
  lengths, longest = splits["train"].lengths, splits["train"].longest
  buckets = batches.choose_buckets(
    lengths,
    longest,
    count=config.data.buckets if config.data.bucketing else 1,
    multiple=config.data.bucket_multiple,
  )
  plan = batches.TrainPlan(
    lengths,
    buckets,
    batch_size=config.train.batch_size,
    run=config.train.steps_per_dispatch,
    seed=seed,
  )
  advance = step.Trainer(
    model,
    optimizer,
    splits["train"],
    key=dropout_key,
    run=config.train.steps_per_dispatch,
    sharding=everywhere,
    clock=clock,
  )
  validate, test = (
    Evaluator(model, splits[name], buckets, config.train.eval_batch_size)
    for name in ("validation", "test")
  )

  # Where an earlier session stopped.
  checkpoints = checkpoint.Checkpoints(workdir / "checkpoints")
  best = step.Best.of(state, -1.0)
  if checkpoints.latest is not None:
    saved = checkpoints.load({"state": state, "best": best, "seconds": jnp.zeros(())})
    state, best, clock.before = saved["state"], saved["best"], float(saved["seconds"])
  else:
    progress.line(parameter_overview.get_parameter_overview(state.params, include_stats=False))
  t = int(state.step)
  run.start(t, data.digest)
  progress.line(results.opening(config, model, state, data, buckets, workdir))

  def check_finite() -> None:
    if (bad := int(state.window.first_bad)) >= 0:
      kept = checkpoints.latest
      raise UserError(
        f"the loss is not finite at step {bad:,} (steps {logged:,} to {t:,}); lower "
        "config.optim.learning_rate or set config.optim.clip_norm and start a new run; last good "
        f"checkpoint in {workdir}: {'none' if kept is None else f'step {kept:,}'}"
      )

  def save() -> None:
    check_finite()
    checkpoints.save(t, {"state": state, "best": best, "seconds": jnp.float32(clock.run)})

  # The loop. The order of log, evaluate, save, stop is what makes resuming exact.
  new_window = jax.jit(step.Window.empty, out_shardings=everywhere)
  in_flight, values, logged, begin, last_save = collections.deque(), {}, t, t, clock.total
  stop.listen()
  clock.lap()
  while t < config.train.steps and stop.reason is None:
    next_log, next_eval = (
      min(t - t % every + every, config.train.steps)
      for every in (config.train.log_every, config.train.eval_every)
    )
    dispatch = plan.dispatch(t, min(next_log, next_eval) - t)
    state, done = advance(state, dispatch)
    t += len(dispatch.examples)
    in_flight.append(done)
    if len(in_flight) > 2:  # the host is never far ahead, so that a clock or a signal acts soon
      in_flight.popleft().block_until_ready()

    if t == next_log:
      check_finite()
      values = step.report(state.window, schedule(t - 1), clock.lap())
      run.log(t, values)
      state = state.replace(window=new_window())
      logged = t
    progress.live(results.progress_line(t, config.train.steps, begin, values, clock))
    if t == next_eval:
      with clock.pause("evaluation"):
        check_finite()
        measured = validate(state.params)
        peak = {"time/peak_memory_gigabytes": records.peak_memory_gigabytes()}
        run.log(t, {f"validation/{name}": value for name, value in measured.items()} | peak)
        if config.train.select == "last" or measured["accuracy"] > float(best.accuracy):
          best = step.Best.of(state, measured["accuracy"])
      progress.line(results.evaluation_line(t, measured, best))
      if t >= config.train.plateau_steps and results.plateau(best, data):
        again = run.attempt < config.train.restarts and t < config.train.steps
        if again or t - config.train.eval_every < config.train.plateau_steps:
          progress.line(results.plateau_line(t, best, again))
        if again:  # nothing of this attempt is left but its metrics
          checkpoints.clear()
          run.restart()
          return RESTART
    if t == next_eval or clock.total - last_save > config.train.checkpoint_seconds:
      with clock.pause("checkpoints"):
        save()
      last_save = clock.total

  if t < config.train.steps:
    save()
    progress.line(f"stopped after step {t:,} ({stop.reason}); the same command continues")
    run.close()
    return None

  # The test set is read here, once.
  result = results.make(
    config,
    state,
    data,
    test=test(best.params) | {"examples": len(splits["test"].lengths)},
    best=best,
    restarts=run.attempt,
    baselines=task.baselines(data.splits["train"], data.splits["test"]),
    metrics=run.metrics(),
    clock=clock,
  )
  run.finish(result)
  progress.line(results.summary(result, workdir))
  return result


def main(values: flags.FlagValues = FLAGS) -> int:
  """Parses the command line into `values` and trains; the exit code."""
  command.parse(values, sys.argv)
  workdir = Path(values.workdir) if values.workdir else command.default_workdir(values)
  stop = process.StopRequest(values.max_seconds)
  try:
    train(
      values.config,
      workdir,
      data_dir=Path(values.data_dir).expanduser()
      if values.data_dir
      else command.default_data_dir(),
      raw_dir=Path(values.raw_dir).expanduser() if values.raw_dir else None,
      stop=stop,
    )
  finally:
    stop.restore()
  return stop.exit_code


if __name__ == "__main__":
  process.run_main(main)
