"""What JAX writes before it aborts becomes one line, and everything else is forwarded."""

import subprocess
import sys

import pytest

from lra.system import aborts

LOG = (
  "E1125 19:24:41.315539   21206 coordination_service_agent.cc:289] Polled an error.\nmore of it\n"
)
FATAL = (
  "F1125 19:26:38.180117   22553 client.h:80] Terminating process because the JAX distributed service "
  "detected fatal errors. Status: UNAVAILABLE\n"
)
STACK = "\nRPC: /xla.coordination.CoordinationService/{}\n*** Check failure stack trace: ***\n"
LOST, ALONE = f"{aborts.LOST}\n", f"{aborts.ALONE}\n"


@pytest.mark.parametrize(
  "written, shown",
  [
    ("a\nb", "a\nb"),
    (FATAL + STACK.format("PollForError"), LOST),
    ("a warning\n" + LOG + FATAL + STACK.format("PollForError"), "a warning\n" + LOST),
    (LOST + LOG + FATAL, LOST),
    (LOG + LOST + FATAL, LOST),
    (LOG + LOST, LOST),
    (LOG + "Traceback\n", LOG + "Traceback\n"),
    (FATAL + STACK.format("RegisterTask"), ALONE),
  ],
)
def test_last_words(written, shown):
  done = subprocess.run(
    [sys.executable, "-I", "-S", aborts.__file__], input=written, capture_output=True, text=True
  )
  assert (done.returncode, done.stdout, done.stderr) == (0, "", shown)


def test_standard_error_of_a_process_that_aborts(tmp_path):
  code = (
    "import os, sys; sys.path.insert(0, '.'); from lra.system import aborts; aborts.install(); "
    f"print('a line', file=sys.stderr); os.write(2, {LOG + FATAL!r}.encode()); os.abort()"
  )
  done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
  assert done.returncode != 0 and done.stderr == "a line\n" + LOST
