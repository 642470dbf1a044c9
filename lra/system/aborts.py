"""One line for what JAX aborts a process of several with, and prints a page about.

When another process is lost, C++ code of JAX writes to the standard error and calls abort(): nothing in
this process can come between. So the standard error goes through a process of its own, which runs this
file, forwards what it reads, and has the last word.
"""

import os
import re
import subprocess
import sys

LOST = (
  "error: another process of this run has ended; the same command continues from the newest "
  "checkpoint"
)
ALONE = (
  "error: the other processes of this run did not come; start all of them at about the same time, with "
  "the address of the first one as all can reach it"
)
FATAL = b"JAX distributed service detected fatal errors"
BEFORE = re.compile(rb"[EWF]\d{4} [\d:.]+ +\d+ (coordination_service|preemption|client\.h)")
_readers = []


def install() -> None:
  """From here on, and in processes that this one starts, for what the standard error is told."""
  reader = subprocess.Popen(
    [sys.executable, "-I", "-S", __file__],
    stdin=subprocess.PIPE,
    stdout=subprocess.DEVNULL,
    start_new_session=True,  # out of reach of the terminal's Ctrl-C
  )
  os.dup2(reader.stdin.fileno(), 2)
  reader.stdin.close()
  _readers.append(reader)


def forward() -> None:
  """Standard input to standard error, line by line, until the other process has ended."""
  lines, out, forwarded, held, fatal = sys.stdin.buffer, sys.stderr.buffer, set(), [], b""
  for line in lines:
    if FATAL in line:
      fatal = line + lines.read()
    elif held or BEFORE.match(line):  # an abort may follow
      held.append(line)
    else:
      out.write(line)
      out.flush()
      forwarded.add(line)
  last = f"{ALONE if b'RegisterTask' in fatal else LOST}\n".encode()
  if last in forwarded:
    held = []
  elif fatal or last in held:
    held = [last]
  out.writelines(held)
  out.flush()


if __name__ == "__main__":
  forward()
