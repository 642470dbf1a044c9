"""Run directories and records made by hand: what a run would leave, without the run."""

import json

from lra.reporting import run_record
from lra.runs import command

RESULT = {
  "plateau": False,
  "restarts": 0,
  "baselines": {"majority class": 0.1, "mode given the root operator": 0.2},
  "parameters": 1000,
  "data": {"digest": "d" * 64, "origin": "generated"},
  "time": {"seconds": 60.0, "examples_per_second": 100.0, "tokens_per_second": 1000.0},
  "peak_memory_gigabytes": 1.0,
}
ENVIRONMENT = {
  "python": "3.11.0",
  "packages": {"jax": "0.10.2"},
  "platform": "cpu",
  "device": "2 CPU cores",
  "devices": 1,
  "hosts": 1,
  "revision": "0123456789abcdef",
  "modified": False,
}


def arguments(task="listops", attention="cosformer", seed=0, preset="quick", *more):
  """The arguments of train.py."""
  suffix = "" if preset == "default" else f":{preset}"
  return f"--config=configs/lra/{task}_{attention}.py{suffix}", f"--config.seed={seed}", *more


def run_folder(folder, *given, accuracy=0.5, **changes):
  """Fills `folder` as a finished run would; `changes` are keys of result.json."""
  config = json.loads(command.read(given).config.to_json())
  steps, every = config["train"]["steps"], config["train"]["eval_every"]
  result = RESULT | {
    "task": config["task"]["name"],
    "attention": config["model"]["attention"],
    "seed": config["seed"],
    "steps": steps,
    "test": {"accuracy": accuracy, "examples": 2000, "loss": 1.5},
    "validation": {"accuracy": 0.55, "step": steps},
  }
  lines = []
  for t in range(config["train"]["log_every"], steps + 1, config["train"]["log_every"]):
    rates = {"time/examples_per_second": 100.0, "time/tokens_per_second": 1000.0}
    train = {"train/loss": 2.0 - t / steps, "train/accuracy": 0.5 * t / steps}
    lines.append({"step": t, **train, **rates})
    if t % every == 0:
      lines.append({"step": t, "validation/loss": 1.6, "validation/accuracy": 0.55})
  folder.mkdir(parents=True)
  environment = ENVIRONMENT | {"command": " ".join(["train.py", *given])}
  for name, content in (
    ("config", config),
    ("environment", environment),
    ("result", result | changes),
  ):
    (folder / f"{name}.json").write_text(json.dumps(content))
  (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
  return folder


def record(task, attention, seed, accuracy, *, preset="quick", **changes):
  """A record as far as tables read it."""
  made = RESULT | {
    "format": run_record.FORMAT,
    "name": f"{task}_{attention}-{preset}-seed{seed}",
    "task": task,
    "attention": attention,
    "preset": preset,
    "seed": seed,
    "overrides": {},
    "test": {"accuracy": accuracy, "examples": 2000, "loss": 1.5},
    "config": {"seed": seed, "task": {"name": task, "max_length": 9}, "preset": preset},
    "environment": ENVIRONMENT,
  }
  return made | changes
