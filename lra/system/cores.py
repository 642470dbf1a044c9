"""The CPU cores of this machine: which this process may use, and how runs share them."""

import contextlib
import os
from collections.abc import Iterator, Sequence

# NPROC is XLA's, which otherwise goes by the affinity.
LIBRARIES = ("OMP", "OPENBLAS", "MKL", "NUMBA")
THREADS = ("NPROC", *(f"{name}_NUM_THREADS" for name in LIBRARIES))


def available() -> list[int]:
  """Numbers of the cores this process may use; without affinity in the OS, $NPROC of them or all."""
  if hasattr(os, "sched_getaffinity"):
    return sorted(os.sched_getaffinity(0))
  given = os.environ.get("NPROC", "")
  return list(range((int(given) if given.isdecimal() else 0) or os.cpu_count() or 1))


def share(slot: int, jobs: int, cores: Sequence[int]) -> list[int]:
  """Cores of job number `slot` of `jobs`: as many for each, or one in turn if there are too few.

  What is left over stays idle, so that the speeds of runs can be compared.
  """
  each = max(1, len(cores) // jobs)
  begin = slot * each % len(cores)
  return list(cores[begin : begin + each])


def environment(cores: Sequence[int]) -> dict[str, str]:
  """Environment variables that limit the threads of libraries to one a core."""
  return dict.fromkeys(THREADS, str(len(cores))) if cores else {}


@contextlib.contextmanager
def only(cores: Sequence[int]) -> Iterator[None]:
  """Processes started inside run on these; on any if there are none, or the OS has no affinity."""
  if not cores or not hasattr(os, "sched_setaffinity"):
    yield
    return
  before = os.sched_getaffinity(0)
  os.sched_setaffinity(0, cores)
  try:
    yield
  finally:
    os.sched_setaffinity(0, before)


def plan(jobs: int, cores: Sequence[int]) -> str:
  """The distribution of cores by `share`, in words."""
  each = len(share(0, jobs, cores))
  count = "one core" if each == 1 else f"{each} cores"
  if jobs == 1:
    return f"one run at a time, on {count}"
  shared = f", {len(cores)} in all" if jobs > len(cores) else ""
  return f"{jobs} runs at a time, {count} each{shared} (a run on all cores: --jobs 1)"
