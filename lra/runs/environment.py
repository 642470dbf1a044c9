"""The environment of a run: versions, devices, revision of the code, command line, peak memory."""

import importlib.metadata
import platform
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from lra.system import cores


def describe() -> dict[str, Any]:
  """The content of environment.json: versions, devices, revision of the code, command line."""
  packages = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "numba")
  device, count = jax.local_devices()[0], len(cores.available())
  of_cpu = f"{count} CPU core{'s' if count > 1 else ''}"
  return {
    "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
    "python": platform.python_version(),
    "packages": {name: importlib.metadata.version(name) for name in packages},
    "platform": device.platform,
    "device": device.device_kind if device.platform != "cpu" else of_cpu,
    "devices": jax.device_count(),
    "hosts": jax.process_count(),
    "revision": _git("rev-parse", "HEAD"),
    "modified": bool(_git("status", "--porcelain", "--untracked-files=no")),
  }


def peak_memory_gigabytes(metrics: Sequence[Mapping[str, float]] = ()) -> float:
  """Peak memory of the first device, or of this process on a CPU, or what `metrics` had before."""
  before = max((line.get("time/peak_memory_gigabytes", 0.0) for line in metrics), default=0.0)
  return max(before, _peak_memory() / 1e9)


def _peak_memory() -> int:
  stats = jax.local_devices()[0].memory_stats()
  if stats and "peak_bytes_in_use" in stats:
    return stats["peak_bytes_in_use"]
  import resource

  return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _git(*args: str) -> str | None:
  root = Path(__file__).parents[2]
  try:
    done = subprocess.run(["git", *args], cwd=root, capture_output=True, text=True, timeout=10)
  except (OSError, subprocess.TimeoutExpired):
    return None
  return done.stdout.strip() if done.returncode == 0 else None
