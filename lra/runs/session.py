"""A run in progress: its state, and the verbs of train.py's loop (advance, log, evaluate, save ...)."""

import collections

import jax
from clu import parameter_overview
from ml_collections import ConfigDict

from lra.data import batches
from lra.runs import environment, messages, parent_run, run_result
from lra.runs.run_directory import RunDirectory
from lra.system import devices, hosts, process
from lra.system.errors import UserError
from lra.system.progress import Clock, Progress
from lra.training import checkpoint, memory, setup, step
from lra.training.evaluation import Evaluator


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
    size, per_dispatch = train.batch_size, train.steps_per_dispatch
    init_key, dropout_key = jax.random.split(jax.random.key(seed))
    everywhere, split = devices.replicated(parts.mesh), data.splits["train"]
    self.plan = batches.TrainPlan(
      split.lengths, data.buckets, batch_size=size, run=per_dispatch, seed=seed
    )
    options = {"key": dropout_key, "run": per_dispatch, "sharding": everywhere, "clock": clock}
    options |= {"accumulate": train.accumulate, "objective": parts.objective}
    self.trainer = step.Trainer(parts.model, parts.optimizer, split, **options)
    self.validate = self.evaluator("validation")
    self.agree, self.is_to_save = hosts.Agreement(parts.mesh), False
    self.new_window = jax.jit(step.Window.empty, out_shardings=everywhere)

    # What changes from step to step: all of it is in a checkpoint.
    self.checkpoints = checkpoint.Checkpoints(run.folder / "checkpoints")
    self.state = step.init(parts.model, parts.optimizer, init_key, parts.task.streams, everywhere)
    self.best = step.Best.of(self.state)
    if self.checkpoints.latest is not None:
      like = step.saved(self.state, self.best, 0.0)
      tree = self.checkpoints.load(devices.shared(like, parts.mesh))
      self.checkpoints.seal()
      self.state, self.best, clock.before = step.restored(tree)
    else:
      if parent:
        made = parent_run.start(parent, self.state.params)
        self.state = self.state.replace(params=made.params)
        progress.line(parent_run.describe(parent, made))
      table = parameter_overview.get_parameter_overview(self.state.params, include_stats=False)
      progress.line(table)
    self.t = self.begin = self.logged = int(self.state.step)  # steps done
    self.tokens = float(self.state.window.real_tokens)  # of the window, from an earlier session
    run.start(self.t, data.store.digest, self.parent)
    progress.line(messages.opening(config, parts.model, self.state, data, run.folder))
    length = self.plan.longest
    need = self.trainer.memory(self.state, length, size)
    with clock.pause("compilation"):
      more, work = self.validate.memory(self.state.params)
    need = need._replace(data=need.data + more, evaluation=work)
    progress.line(memory.check(need, devices.memory_limit(), length, train.accumulate))
    self.in_flight, self.values, self.saved_at = collections.deque(), {}, clock.total
    clock.lap()

  def evaluator(self, split: str) -> Evaluator:
    """What evaluates parameters on a split."""
    parts, data, size = self.parts, self.data, self.config.train.eval_batch_size
    return Evaluator(parts.model, data.splits[split], data.buckets, size, parts.objective)

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
    rate, seconds = self.parts.schedule(self.t - 1), self.clock.lap()
    examples = (self.t - self.logged) * self.config.train.batch_size
    self.values = step.report(
      self.state.window,
      rate,
      seconds,
      examples=examples,
      earlier_tokens=self.tokens,
      over_tokens=self.parts.objective.over_tokens,
    )
    self.run.log(self.t, self.values)
    self.state = self.state.replace(window=self.new_window())
    self.logged, self.tokens = self.t, 0.0

  def show(self) -> None:
    """Where the run is, on the screen."""
    steps = self.config.train.steps
    self.progress.live(messages.progress_line(self.t, steps, self.begin, self.values, self.clock))

  def evaluate(self) -> None:
    """Validation, and the choice of the parameters to test."""
    self.check_finite()
    with self.clock.pause("evaluation"):
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
    self.check_finite()
    with self.clock.pause("checkpoints"):
      tree = step.saved(self.state, self.best, self.clock.run)
      self.checkpoints.save(self.t, devices.shared(tree, self.parts.mesh))
    self.saved_at = self.clock.total
    self.agree.forget()

  def check_finite(self) -> None:
    """Raises UserError if a loss since the last log line was not; waits for the steps in flight.

    So it comes before a pause of the clock: what it waits for is training.
    """
    if (bad := int(self.state.window.first_bad)) >= 0:
      window, kept = (self.logged, self.t), self.checkpoints.latest
      raise UserError(messages.not_finite(bad, window, kept, self.run.folder))

  def close(self, reason: str) -> None:
    """The end of a session that is not the end of the run."""
    self.progress.line(f"stopped after step {self.t:,} ({reason}); the same command continues")
    self.run.close()
