"""Trains one model on one task and ends with one test number.

    python train.py --config configs/lra/listops_cosformer.py            the recipe
    python train.py --config configs/lra/listops_cosformer.py:quick      minutes on a laptop
    python train.py --config ... --config.model.attention=linear --config.seed=1
    python train.py --config ... --config.train.objective=masked         pretraining, and then
    python train.py --config ... --init_from runs/NAME                   the task, from its encoder

The same command resumes an interrupted run, bit for bit, and shows the result of a finished one.
"""

import os
import sys
from pathlib import Path

from absl import flags
from ml_collections import ConfigDict

from lra.runs import command, messages, parent_run, run_result
from lra.runs.run_directory import RunDirectory
from lra.runs.session import Session
from lra.system import devices, hosts, process
from lra.system.progress import Clock, Progress
from lra.training import setup

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


def loop(session: Session, stop: process.StopRequest) -> str:
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


def test(session: Session) -> dict:
  """Reads the test split, with the best parameters, and writes the result of the run."""
  config, data, best, run = session.config, session.data, session.best, session.run
  measured = session.evaluator("test")(best.params)
  accuracy, bits = setup.baselines(config, session.parts, data.store)
  result = run_result.make(
    *(config, session.state, data.store, best),
    test=measured | {"examples": len(data.splits["test"].lengths)},
    restarts=run.attempt,
    baselines=accuracy,
    baseline_bits=bits,
    metrics=run.metrics(),
    clock=session.clock,
    parent=session.parent,
  )
  run.finish(result)
  session.progress.line(messages.summary(result, run.folder))
  return result


def main(values: flags.FlagValues = FLAGS) -> int:
  """Parses the command line into `values` and trains; the exit code."""
  command.parse(values, sys.argv)
  hosts.join()
  workdir = command.folder(values.workdir) or command.default_workdir(values)
  parent = command.folder(values.init_from)
  stop = process.StopRequest(values.max_seconds)
  try:
    train(values.config, workdir, **command.folders(values), stop=stop, init_from=parent)
  finally:
    stop.restore()
  return stop.exit_code


if __name__ == "__main__":
  process.run_main(main)
