"""Stopping, killing and continuing a run changes nothing: the numbers are those of a whole one."""

import os
import random
import signal
import time

import pytest

import tiny
from lra.system import process

pytestmark = pytest.mark.usefixtures("one_device")


@pytest.mark.parametrize("dispatches", [[1], [3, 2]])
def test_stopped_run_continues_bit_for_bit(space, whole, tmp_path, dispatches):
  for n in dispatches:
    result, output = tiny.run(space, tmp_path, tiny.After(n))
    assert result is None and "stopped after step" in output and "(a test)" in output
    assert not (tmp_path / "result.json").exists()
  _, output = tiny.run(space, tmp_path)
  assert "continuing after step" in output
  tiny.same_as(whole, tmp_path)
  lines = [x for x in tiny.metrics(tmp_path, timeless=False) if "time/tokens_per_second" in x]
  for x in lines:  # the window of the first line began in the session before, its time did not
    longest = x["time/examples_per_second"] * tiny.SMALL["task.max_length"]
    assert 0 < x["time/tokens_per_second"] <= longest


def test_what_was_logged_after_the_checkpoint_is_logged_once(space, whole, tmp_path):
  """As after a kill between a log line and the next checkpoint, in the middle of a line."""
  tiny.run(space, tmp_path, tiny.After(4))
  with open(tmp_path / "metrics.jsonl", "a") as file:
    file.write('{"step": 23, "train/loss": 9.0}\n{"step": 24, "tra')
  tiny.run(space, tmp_path)
  tiny.same_as(whole, tmp_path)


def handlers():
  return [signal.getsignal(s) for s in (signal.SIGTERM, signal.SIGINT)]


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT])
def test_signal_is_a_request_and_the_next_one_is_not(sent):
  stop, before = process.StopRequest(), handlers()
  assert stop.reason is None and stop.exit_code == 0
  try:
    stop.listen()
    assert handlers() != before
    os.kill(os.getpid(), sent)
    assert handlers() == before
  finally:
    stop.restore()
  assert stop.reason == sent.name and stop.exit_code == 128 + sent


def test_signal_in_the_middle_stops_the_run_cleanly(space, whole, tmp_path):
  stop = process.StopRequest()

  class Sent(tiny.After):
    """Sends the signal, once, where After would stop."""

    def listen(self):
      stop.listen()

    @property
    def reason(self):
      if super().reason and stop.reason is None:
        os.kill(os.getpid(), signal.SIGTERM)
      return stop.reason

  try:
    result, output = tiny.run(space, tmp_path, Sent(4))
  finally:
    stop.restore()
  assert result is None and "(SIGTERM); the same command continues" in output
  tiny.run(space, tmp_path)
  tiny.same_as(whole, tmp_path)


def test_time_limit_is_a_reason_to_stop():
  stop = process.StopRequest(0.0)
  assert stop.reason == "--max_seconds is over" and stop.exit_code == 0
  assert process.StopRequest(None).reason is None


@pytest.mark.slow
def test_killed_process_continues_bit_for_bit(space, whole, tmp_path):
  """SIGKILL right after the first evaluation, then at any moment, then a process to the end."""
  rng, killed, times = random.Random(10), 0, 10
  for n in range(100):
    process = tiny.start(space, "--workdir", str(tmp_path))
    if n < times:
      for line in process.stdout:
        if line.startswith("step" if n == 0 else "run:"):
          break
      time.sleep(rng.uniform(0, 2) if n else 0)
      process.kill()
    _, errors = process.communicate(timeout=120)
    if process.returncode == 0:
      break
    assert process.returncode == -signal.SIGKILL, errors
    killed += 1
  assert killed > 0
  tiny.same_as(whole, tmp_path)
