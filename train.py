"""Trains one model on one task and ends with one test number.

    python train.py --config configs/lra/listops_cosformer.py            the recipe
    python train.py --config configs/lra/listops_cosformer.py:quick      minutes on a laptop
    python train.py --config ... --config.model.attention=linear --config.seed=1
    python train.py --config ... --config.train.objective=masked         pretraining, and then
    python train.py --config ... --init_from runs/NAME                   the task, from its encoder

The same command resumes an interrupted run, bit for bit, and shows the result of a finished one.
"""

import collections
import os
import sys
from pathlib import Path

import jax
from absl import flags
from clu import parameter_overview
from ml_collections import ConfigDict

from lra.data import batches
from lra.data.token_baselines import token_baselines
from lra.runs import command, environment, messages, parent_run, run_result
from lra.runs.run_directory import RunDirectory
from lra.system import devices, hosts, process
from lra.system.errors import UserError
from lra.system.progress import Clock, Progress
from lra.training import checkpoint, memory, setup, step
from lra.training.evaluation import Evaluator

FLAGS = command.define_flags()
DONE, STOPPED, PLATEAU = "done", "stopped", "plateau"  # how a loop ends


def train(
  config: ConfigDict,
  workdir: Path,
  *,
  data_dir: Path,
  raw_dir: Path | None,
  stop: process.StopRequest,
  init_from: Path | None = None,
) -> dict | None:
  """Runs or resumes `config` in `workdir`; the result, or None if `stop` came first.

  init_from: a finished run whose encoder is the first one here.
  """
  devices.cache_programs(data_dir / "programs")
  clock, progress = Clock(), Progress(None if hosts.first() else open(os.devnull, "w"))

  # Set-up. Mistakes in the config show before anything is written.
  parts = setup.build(config)
  run = RunDirectory(workdir, config.to_dict())
  if run.result is not None:
    run_result.check_parent(run.result, init_from, workdir)
    progress.line(messages.summary(run.result, workdir) + "\n(finished before: nothing was run)")
    return run.result
  parent = parent_run.load(init_from, config) if init_from else None

  with run:
    data = setup.open_data(config, parts, data_dir, raw_dir, progress.live)
    hosts.check_same(data.store.digest, "data")

    # The loop: again from another seed while nothing is learned and restarts are left.
    while True:
      session = Session(config, parts, data, run, clock, progress, parent)
      ended = loop(session, stop)
      if ended != PLATEAU:
        break
      clock = Clock(before=clock.run)

    # The test: the split is read here, once.
    return test(session) if ended == DONE else None


def loop(session: "Session", stop: process.StopRequest) -> str:
  """Trains until the last step, a stop or a plateau: DONE, STOPPED or PLATEAU.

  What makes a resumed run exact, bit for bit, is the order here:
  - Batch t depends on the seed and t alone, and so does the dropout of step t.
  - A dispatch of several steps ends where a log line or an evaluation is due.
  - Log, evaluate, save, stop, in this order: a log line empties the window of means, an evaluation
    may change the best parameters, and a checkpoint holds both as they are after that.
  - A stop is a checkpoint. What was logged after the newest checkpoint is dropped on resuming.
  """
  train = session.config.train
  stop.listen()
  while session.t < train.steps and not session.is_to_stop(stop):
    session.advance()
    if session.is_due(train.log_every):
      session.log()
    session.show()
    if evaluated := session.is_due(train.eval_every):
      session.evaluate()
      if session.is_to_restart():
        session.discard()
        return PLATEAU
    if evaluated or session.is_to_save:
      session.save()
  if session.t < train.steps:
    session.save()
    session.close(stop.reason or "another process is to stop")
    return STOPPED
  return DONE


class Session:
  """A run from its first step, or its newest checkpoint, to its end or a stop."""

  def __init__(
    self,
    config: ConfigDict,
    parts: setup.Parts,
    data: setup.Data,
    run: RunDirectory,
    clock: Clock,
    progress: Progress,
    parent: parent_run.Parent | None,
  ) -> None:
    self.config, self.parts, self.data, self.run = config, parts, data, run
    self.clock, self.progress, self.parent = clock, progress, parent and parent.record
    train, seed = config.train, config.seed + 1_000_003 * run.attempt
    init_key, dropout_key = jax.random.split(jax.random.key(seed))
    everywhere = devices.replicated(parts.mesh)
    model, splits, buckets = parts.model, data.splits, data.buckets
    self.plan = batches.TrainPlan(
      splits["train"].lengths,
      buckets,
      batch_size=train.batch_size,
      run=train.steps_per_dispatch,
      seed=seed,
    )
    self.trainer = step.Trainer(
      model,
      parts.optimizer,
      splits["train"],
      key=dropout_key,
      run=train.steps_per_dispatch,
      sharding=everywhere,
      clock=clock,
      accumulate=train.accumulate,
      objective=parts.objective,
    )
    self.validate = Evaluator(
      model, splits["validation"], buckets, train.eval_batch_size, parts.objective
    )
    self.agree, self.is_to_save = hosts.Agreement(parts.mesh), False
    self.new_window = jax.jit(step.Window.empty, out_shardings=everywhere)

    # What changes from step to step: all of it is in a checkpoint.
    self.checkpoints = checkpoint.Checkpoints(run.folder / "checkpoints")
    self.state = step.init(parts.model, parts.optimizer, init_key, parts.task.streams, everywhere)
    self.best = step.Best.of(self.state)
    if self.checkpoints.latest is not None:
      like = step.saved(self.state, self.best, 0.0)
      tree = self.checkpoints.load(devices.shared(like, parts.mesh))
      self.state, self.best, clock.before = step.restored(tree)
    else:
      if parent:
        made = parent_run.start(parent, self.state.params)
        self.state = self.state.replace(params=made.params)
        progress.line(parent_run.describe(parent, made))
      progress.line(
        parameter_overview.get_parameter_overview(self.state.params, include_stats=False)
      )
    self.t = self.begin = self.logged = int(self.state.step)  # steps done
    run.start(self.t, data.store.digest, self.parent)
    progress.line(messages.opening(config, model, self.state, data.store, buckets, run.folder))
    length = self.plan.longest
    need = self.trainer.memory(self.state, length, train.batch_size)
    progress.line(memory.check(need, devices.memory_limit(), length, train.accumulate))
    self.in_flight, self.values, self.saved_at = collections.deque(), {}, clock.total
    clock.lap()

  def is_due(self, every: int) -> bool:
    """Whether this step is one of every so many, or the last."""
    return self.t % every == 0 or self.t == self.config.train.steps

  def is_to_stop(self, stop: process.StopRequest) -> bool:
    """Whether any process is asked to; sets `is_to_save`, too, which all have to do at one step."""
    late = self.clock.total - self.saved_at > self.config.train.checkpoint_seconds
    stopping, self.is_to_save = self.agree(stop.reason is not None, late)
    return stopping

  def advance(self) -> None:
    """Some steps in one dispatch, not beyond the next log line or evaluation."""
    train = self.config.train
    ends = [self.t - self.t % every + every for every in (train.log_every, train.eval_every)]
    dispatch = self.plan.dispatch(self.t, min(*ends, train.steps) - self.t)
    self.state, done = self.trainer(self.state, dispatch)
    self.t += len(dispatch.examples)
    self.in_flight.append(done)
    if len(self.in_flight) > 2:  # the host is never far ahead, so a clock or a signal acts soon
      self.in_flight.popleft().block_until_ready()

  def log(self) -> None:
    """One line of means since the last one."""
    self.check_finite()
    rate = self.parts.schedule(self.t - 1)
    self.values = step.report(
      self.state.window,
      rate,
      self.clock.lap(),
      examples=(self.t - self.logged) * self.config.train.batch_size,
      over_tokens=self.parts.objective.over_tokens,
    )
    self.run.log(self.t, self.values)
    self.state = self.state.replace(window=self.new_window())
    self.logged = self.t

  def show(self) -> None:
    """Where the run is, on the screen."""
    steps = self.config.train.steps
    self.progress.live(messages.progress_line(self.t, steps, self.begin, self.values, self.clock))

  def evaluate(self) -> None:
    """Validation, and the choice of the parameters to test."""
    with self.clock.pause("evaluation"):
      self.check_finite()
      measured = self.validate(self.state.params)
      peak = {"time/peak_memory_gigabytes": environment.peak_memory_gigabytes()}
      self.run.log(self.t, {f"validation/{k}": v for k, v in measured.items()} | peak)
      score = self.parts.objective.score(measured)
      if self.config.train.select == "last" or score > float(self.best.score):
        self.best = step.Best.of(self.state, score)
    self.progress.line(messages.evaluation_line(self.t, measured, self.best))

  def is_to_restart(self) -> bool:
    """Whether nothing was learned so far, and another seed is to be tried; says so."""
    train = self.config.train
    if self.parts.objective.over_tokens or self.t < train.plateau_steps:
      return False
    if not run_result.plateau(self.best, self.data.store):
      return False
    again = self.run.attempt < train.restarts and self.t < train.steps
    if again or self.t - train.eval_every < train.plateau_steps:
      self.progress.line(messages.plateau_line(self.t, self.best, again))
    return again

  def discard(self) -> None:
    """Leaves nothing of this attempt but its metrics."""
    self.checkpoints.clear()
    self.run.restart()
    hosts.wait("restart")

  def save(self) -> None:
    """A checkpoint of this step."""
    with self.clock.pause("checkpoints"):
      self.check_finite()
      tree = step.saved(self.state, self.best, self.clock.run)
      self.checkpoints.save(self.t, devices.shared(tree, self.parts.mesh))
    self.saved_at = self.clock.total
    self.agree.forget()

  def check_finite(self) -> None:
    """Raises UserError if a loss since the last log line was not."""
    if (bad := int(self.state.window.first_bad)) >= 0:
      kept = self.checkpoints.latest
      raise UserError(
        f"the loss is not finite at step {bad:,} (steps {self.logged:,} to {self.t:,}); lower "
        "config.optim.learning_rate or set config.optim.clip_norm and start a new run; last good "
        f"checkpoint in {self.run.folder}: {'none' if kept is None else f'step {kept:,}'}"
      )

  def close(self, reason: str) -> None:
    """The end of a session that is not the end of the run."""
    self.progress.line(f"stopped after step {self.t:,} ({reason}); the same command continues")
    self.run.close()


def test(session: Session) -> dict:
  """Reads the test split, with the best parameters, and writes the result of the run."""
  config, data, best = session.config, session.data, session.best
  split = data.splits["test"]
  parts, stored = session.parts, data.store.splits
  evaluate = Evaluator(
    parts.model, split, data.buckets, config.train.eval_batch_size, parts.objective
  )
  if parts.objective.over_tokens:
    baselines, bits = token_baselines(
      stored["train"],
      stored["test"],
      following=config.train.objective == "next",
      zero_is_padding=config.model.zero_is_padding and not parts.task.id_offset,
    )
  else:
    baselines, bits = parts.task.baselines(stored["train"], stored["test"]), {}
  result = run_result.make(
    config,
    session.state,
    data.store,
    test=evaluate(best.params) | {"examples": len(split.lengths)},
    best=best,
    restarts=session.run.attempt,
    baselines=baselines,
    baseline_bits=bits,
    metrics=session.run.metrics(),
    clock=session.clock,
    parent=session.parent,
  )
  session.run.finish(result)
  session.progress.line(messages.summary(result, session.run.folder))
  return result


def main(values: flags.FlagValues = FLAGS) -> int:
  """Parses the command line into `values` and trains; the exit code."""
  command.parse(values, sys.argv)
  hosts.join()
  workdir = Path(values.workdir) if values.workdir else command.default_workdir(values)
  stop = process.StopRequest(values.max_seconds)
  try:
    train(
      values.config,
      workdir,
      **command.folders(values),
      stop=stop,
      init_from=Path(values.init_from).expanduser() if values.init_from else None,
    )
  finally:
    stop.restore()
  return stop.exit_code


if __name__ == "__main__":
  process.run_main(main)
