"""Records of finished runs, one JSON file each in results/: made, checked, written, read."""

import json
import math
import re
import shlex
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from flax.traverse_util import flatten_dict

from configs.lra.base import complete, recipe_path
from lra.runs import command, run_directory, run_result, sealed_json
from lra.runs.sealed_json import digest
from lra.system import files
from lra.system.errors import UserError

FORMAT = 1
POINTS = 200  # of a curve
RESULT = (
  *("test", "validation", "plateau", "restarts", "baselines", "steps", "parameters", "data"),
  *("time", "peak_memory_gigabytes"),
)
CURVES = {
  "train": ("train/loss", "train/accuracy"),
  "validation": ("validation/loss", "validation/accuracy"),
}


def make(folder: Path) -> dict[str, Any]:
  """The record of a run. Raises UserError if it is unfinished or its files disagree."""
  try:
    return _make(folder)
  except (LookupError, TypeError, AttributeError, ValueError, OverflowError) as error:
    raise UserError(
      f"{folder}: its files are damaged ({repr(error)[:200]}); run it again"
    ) from error


def _make(folder: Path) -> dict[str, Any]:
  config, environment = (_read(folder / name) for name in ("config.json", "environment.json"))
  result = run_directory.read_result(folder)
  if result is None:
    raise UserError(f"{folder} is not finished; the same train.py continues it")
  metrics = _metrics(folder / "metrics.jsonl")
  if missing := [key for key in RESULT if key not in result]:
    raise UserError(f"{folder / 'result.json'} has no {', '.join(missing)}; run it again")
  values = _flags(folder, environment)
  recipe, preset = command.recipe(values)
  made = {
    "format": FORMAT,
    "name": command.default_workdir(values).name,
    "task": config["task"]["name"],
    "attention": config["model"]["attention"],
    "preset": preset or "default",
    "seed": config["seed"],
    "overrides": command.overrides(values),
    "command": _command(values, recipe, preset),
    **{key: result[key] for key in RESULT},
    **{key: result[key] for key in ("baseline_bits", "parent") if key in result},
    "config": config,
    "environment": {k: v for k, v in environment.items() if k != "command"},
    "curve": {
      name: _columns(thin([m for m in metrics if keys[0] in m]), keys)
      for name, keys in CURVES.items()
    },
  }
  compared = made | {"config": complete(config)}
  wrong = disagreements(compared, result, metrics, json.loads(values.config.to_json()))
  if environment.get("data", result["data"]["digest"]) != result["data"]["digest"]:
    wrong.append("the data of result.json are not those of environment.json")
  if len(list(folder.glob("metrics.attempt*.jsonl"))) != result.get("restarts", 0):
    wrong.append("the restarts in result.json are not those of the metrics files")
  if wrong:
    raise UserError(f"{folder}: its files disagree: {'; '.join(wrong)[:1000]}; run it again")
  if private := _private(made):
    raise UserError(f"{folder}: {private} names this machine; a record must not")
  made["sha256"] = digest(made)
  return made


def disagreements(
  made: Mapping[str, Any],
  result: Mapping[str, Any],
  metrics: Sequence[Mapping[str, Any]],
  typed: Mapping[str, Any],
) -> list[str]:
  """Contradictions between the files of a run, in words; `typed`: the config of its command now."""
  config, wrong = made["config"], []
  for key in ("task", "attention", "seed"):
    if made[key] != result[key]:
      wrong.append(f"{key} is {made[key]!r} in config.json, {result[key]!r} in result.json")
  if result["steps"] != config["train"]["steps"]:
    wrong.append(f"{result['steps']} steps of {config['train']['steps']} in config.json")
  ran, now = (flatten_dict(dict(c), sep=".") for c in (config, typed))
  for key in (key for key in ran if key in now and ran[key] != now[key]):
    wrong.append(f"config.{key} is {ran[key]!r}, but the run's command gives {now[key]!r} now")
  tokens = "tokens" in result["test"]
  by, sign = ("validation/loss", -1) if tokens else ("validation/accuracy", 1)
  evaluations = {m["step"]: m for m in metrics if "validation/accuracy" in m}
  if [m["step"] for m in metrics] != sorted(m["step"] for m in metrics):
    wrong.append("the steps of metrics.jsonl do not rise")
  if max((m["step"] for m in metrics), default=0) != result["steps"]:
    wrong.append("metrics.jsonl does not end where result.json does")
  rates = run_result.rates(metrics).items()
  if not all(math.isclose(result["time"].get(name, 0), rate, rel_tol=1e-6) for name, rate in rates):
    wrong.append("the speed of result.json is not the median of metrics.jsonl")
  selected = evaluations.get(result["validation"]["step"])
  if selected is None:
    wrong.append(f"no evaluation at step {result['validation']['step']} in metrics.jsonl")
  elif not math.isclose(
    selected["validation/accuracy"], result["validation"]["accuracy"], abs_tol=1e-6
  ):
    wrong.append("the validation accuracy of result.json is not that of metrics.jsonl")
  elif config["train"]["select"] == "best" and any(
    sign * m[by] > sign * selected[by] + 1e-6 for m in evaluations.values()
  ):
    wrong.append("metrics.jsonl has a better evaluation than the one selected")
  if not 0 <= result["test"]["accuracy"] <= 1 or not math.isfinite(result["test"]["loss"]):
    wrong.append("the test result is impossible")
  count = result["test"]["tokens" if tokens else "examples"]
  right = result["test"]["accuracy"] * count
  if abs(right - round(right)) > 0.01:
    wrong.append(f"{count} test {'tokens' if tokens else 'examples'} cannot give such an accuracy")
  if made["environment"].get("parent") != made.get("parent"):
    wrong.append("the run it started from is not the same in result.json and environment.json")
  return wrong


def thin(lines: Sequence[Any], points: int = POINTS) -> list[Any]:
  """At most `points` of them, evenly spaced, the first and the last included."""
  if len(lines) <= points:
    return list(lines)
  return [lines[round(i * (len(lines) - 1) / (points - 1))] for i in range(points)]


def text(made: Mapping[str, Any]) -> str:
  """JSON text of a record, a line for each key, so that two records can be compared."""
  lines = [
    f" {json.dumps(key)}: {json.dumps(value, sort_keys=True)}" for key, value in made.items()
  ]
  return "{\n" + ",\n".join(lines) + "\n}\n"


def write(made: Mapping[str, Any], folder: Path, *, replace: bool = False) -> Path:
  """Writes a record to <folder>/<name>.json. Raises UserError if another one is there."""
  path = folder / f"{made['name']}.json"
  if path.exists() and path.read_text() != text(made) and not replace:
    raise UserError(f"{path} holds another run of the same command; --replace puts this one there")
  folder.mkdir(parents=True, exist_ok=True)
  files.write(path, text(made))
  return path


def read(path: Path) -> dict[str, Any]:
  """The record in a file, or of a run directory. Raises UserError for anything else."""
  if path.is_dir():
    return make(path)
  try:
    data = path.read_bytes()
    made = json.loads(data)
  except OSError:
    raise UserError(f"there is no {path}") from None
  except (ValueError, RecursionError):
    raise UserError(f"{path} is not JSON") from None
  sealed = isinstance(made, dict) and made.get("format") == FORMAT
  if not sealed or made.get("sha256") != digest(made) or data != text(made).encode():
    raise UserError(f"{path} is not as scripts/export_run.py wrote it; export the run again")
  return made | {"config": complete(made["config"])}


def read_all(paths: Sequence[Path], presets: Sequence[str] | None = None) -> list[dict[str, Any]]:
  """The records of files, of run directories, and of folders of either (finished runs only).

  presets: of these alone. Raises UserError if there are only others.
  """
  found = []
  for path in paths:
    if path.is_dir() and not (path / "config.json").exists():
      inside = [*path.glob("*.json"), *(p.parent for p in path.glob("*/result.json"))]
      found += [read(p) for p in sorted(inside)]
    else:
      found.append(read(path))
  kept = [r for r in found if not presets or r["preset"] in presets]
  if found and not kept:
    there = ", ".join(sorted({r["preset"] for r in found}))
    raise UserError(f"no run of preset {', '.join(presets)}; there are runs of {there}")
  return kept


def _flags(folder: Path, environment: Mapping[str, Any]) -> Any:
  """The flags of the run's command."""
  program, *arguments = shlex.split(environment.get("command", "'something unknown'"))
  if program != "train.py":
    raise UserError(f"{folder} was made by {program[:80]}; only runs of train.py can be exported")
  arguments = [re.sub(r"^(--?config=)?[^=]*/(configs/l(?:ra|m)/)", r"\1\2", a) for a in arguments]
  try:
    return command.read(arguments)
  except UserError as error:
    raise UserError(
      f"{folder}: its command cannot be read ({str(error)[:500]}); check out revision "
      f"{environment['revision']} and export it there"
    ) from None


def _command(values: Any, recipe: str, preset: str) -> str:
  """The shortest command that makes the same run."""
  given = {"seed": values.config.seed} | command.overrides(values)
  folder = recipe_path(values.config.task.name).rpartition("/")[0]
  config = f"{folder}/{recipe}.py" + (f":{preset}" if preset else "")
  settings = [f"--config.{key}={value}" for key, value in given.items()]
  if values.init_from:
    settings.append(f"--init_from=runs/{Path(values.init_from).name}")
  return shlex.join(["python", "train.py", "--config", config, *settings])


def _columns(lines: Sequence[Mapping[str, float]], keys: Sequence[str]) -> dict[str, list]:
  columns = {key.partition("/")[2]: [float(f"{m[key]:.5g}") for m in lines] for key in keys}
  return {"step": [m["step"] for m in lines]} | columns


def _private(made: Any) -> str | None:
  """The first string that holds an absolute path or the name of this host."""
  if isinstance(made, Mapping):
    return next(filter(None, map(_private, [*made.keys(), *made.values()])), None)
  if isinstance(made, list):
    return next(filter(None, map(_private, made)), None)
  if not isinstance(made, str):
    return None
  host = socket.gethostname()
  named = len(host) > 3 and re.search(rf"\b{re.escape(host)}\b", made)
  return repr(made) if named or re.search(r"(^|[\s=:'\"])[/~\\]\w", made) else None


def _metrics(path: Path) -> list[dict[str, Any]]:
  if not path.exists() or not path.read_bytes().endswith(b"\n"):
    raise UserError(f"{path} is missing or broken; run it again")
  return run_directory.parse_metrics(path)


def _read(path: Path) -> dict[str, Any]:
  try:
    return sealed_json.read(path)
  except OSError:
    raise UserError(f"there is no {path}") from None
