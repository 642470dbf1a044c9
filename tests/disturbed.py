"""Runs a script and disturbs it in one place.

    python tests/disturbed.py MODULE:FUNCTION CALL WHAT SCRIPT ARGUMENTS

WHAT happens when the function is called for the CALL-th time (from 0): "full": from here on no file
grows, as on a full disk. "KILL 0.25", or another signal: another process sends it a quarter of a second
later.
"""

import functools
import importlib
import os
import resource
import runpy
import signal
import subprocess
import sys


def disturb(place, call, happen):
  """Lets `happen` come before that call of what `place` names."""
  module, _, path = place.partition(":")
  *inside, name = path.split(".")
  owner = functools.reduce(getattr, inside, importlib.import_module(module))
  original, left = getattr(owner, name), [call]

  @functools.wraps(original)
  def function(*arguments, **options):
    left[0] -= 1
    if left[0] == -1:
      happen()
    return original(*arguments, **options)

  setattr(owner, name, function)


def full():
  resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))


def later(sent, seconds):
  """A function that sends a signal to this process, so many seconds after it was called."""
  waits = subprocess.Popen(
    ["sh", "-c", f"read _ && sleep {seconds} && kill -s {sent} {os.getpid()}"],
    stdin=subprocess.PIPE,
    stdout=subprocess.DEVNULL,
    stderr=subprocess.DEVNULL,
    start_new_session=True,
  )

  def happen():
    waits.stdin.write(b"\n")
    waits.stdin.flush()

  return happen


def main():
  place, call, what, script, *arguments = sys.argv[1:]
  signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell ignores it in the background
  sys.path[0] = os.getcwd()
  sys.argv = [script, *arguments]
  disturb(place, int(call), full if what == "full" else later(*what.split()))
  if script == "train.py":  # imported, so that its own functions can be disturbed
    import train
    from lra.system import process

    process.run_main(train.main)
  runpy.run_path(script, run_name="__main__")


if __name__ == "__main__":
  main()
