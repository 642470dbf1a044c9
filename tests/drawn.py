"""Records with curves, as far as pictures read them."""

import numpy as np

from handmade import ENVIRONMENT, RESULT, record
from lra.reporting import grouping

SPEED = {"softmax": 40.0, "linear": 150.0, "cosformer": 130.0}
MEMORY = {"softmax": 6.0, "linear": 1.4, "cosformer": 1.6}
GAIN = {"softmax": 0.02, "linear": 0.0, "cosformer": 0.03}


def curve(steps, final, seed):
  """Curves that rise to `final` with a little noise."""
  rng = np.random.default_rng(seed)

  def columns(n, noise):
    step = np.linspace(steps / n, steps, n).astype(int)
    rise = final * (1 - 0.7 * np.exp(-4 * step / steps)) + noise * rng.normal(size=n)
    return {"step": step.tolist(), "loss": (2.3 - 1.8 * rise).tolist(), "accuracy": rise.tolist()}

  return {"train": columns(100, 0.02), "validation": columns(10, 0.006)}


def full(attentions=tuple(SPEED), seeds=(0, 1, 2), tasks=grouping.TASKS, **changes):
  """Records of every task, mechanism and seed."""
  made = []
  for i, task in enumerate(tasks):
    for a in attentions:
      for s in seeds:
        score = 0.4 + 0.08 * i + GAIN[a] + 0.01 * np.sin(3 * s + i)
        more = {
          "data": {"digest": task * 12, "origin": "generated"},
          "time": RESULT["time"] | {"examples_per_second": SPEED[a] * (1 + 0.3 * i)},
          "peak_memory_gigabytes": MEMORY[a] * (1 + 0.2 * i),
          "curve": curve(2000, score, s),
          "steps": 2000,
          "command": f"python train.py --config configs/lra/{task}_{a}.py:quick --config.seed={s}",
          "environment": ENVIRONMENT,
        }
        made.append(record(task, a, s, float(score), **more | changes))
  return made


def scaling(exponent, n=(1024, 2048, 4096, 8192)):
  """The rows of scripts/benchmark.py scaling --json."""
  return [
    {"n": i, "seconds": 1e-5 * i**exponent, "peak_bytes": 4e3 * i, "compile_seconds": 1.0}
    for i in n
  ]
