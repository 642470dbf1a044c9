"""The lines that a run prints: opening, progress, evaluations, summary."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from lra.runs import environment
from lra.runs.run_result import parameter_count
from lra.system.progress import Clock, duration
from lra.training.setup import Data
from lra.training.step import Best, State


def opening(config: ConfigDict, model: Any, state: State, data: Data, workdir: Path) -> str:
  """The first lines of a session: what runs, on what, where."""
  here, manifest = environment.describe(), data.store.manifest
  origin, train = manifest["source"]["origin"], manifest["splits"]["train"]
  lines = [
    f"{config.task.name}: {config.model.attention} attention, {parameter_count(state):,} parameters, "
    f"{model.encoder.dtype} on {here['devices']} x {here['device']} ({here['platform']})",
    f"data: {origin}, {train['examples']:,} training examples, "
    f"padded to {', '.join(map(str, data.buckets))} tokens",
    f"run:  {workdir}",
  ]
  if step := int(state.step):
    lines.append(f"continuing after step {step:,} of {config.train.steps:,}")
  return "\n".join(lines)


def progress_line(
  step: int, steps: int, begin: int, values: Mapping[str, float], clock: Clock
) -> str:
  """The live line: step, means of the last window, time left; `begin`: the session's first step."""
  if not values:
    return f"step {step:,}/{steps:,}"
  left = (clock.total - clock.pauses["compilation"]) / (step - begin) * (steps - step)
  return (
    f"step {step:,}/{steps:,}  {score(values, 'train/')}  "
    f"{values['time/examples_per_second']:,.0f} examples/s  "
    f"{values['time/tokens_per_second']:,.0f} real tokens/s  {duration(left)} left"
  )


def score(values: Mapping[str, float], prefix: str = "") -> str:
  """Loss and accuracy; over tokens, bits a token, perplexity and accuracy."""
  accuracy = f"accuracy {values[f'{prefix}accuracy']:.4f}"
  if f"{prefix}bits_per_token" not in values:
    return f"loss {values[f'{prefix}loss']:.4f}  {accuracy}"
  bits, perplexity = values[f"{prefix}bits_per_token"], values[f"{prefix}perplexity"]
  return f"{bits:.4f} bits/token  perplexity {perplexity:.3f}  {accuracy}"


def evaluation_line(step: int, measured: Mapping[str, float], best: Best) -> str:
  """The line of one evaluation."""
  return f"step {step:,}  validation {score(measured)}" + (
    "  (kept)" if int(best.step) == step else ""
  )


def plateau_line(step: int, best: Best, again: bool) -> str:
  """The line of a plateau; `again`: the run starts again from another seed."""
  return (
    f"plateau: after step {step:,} the best validation accuracy, {float(best.score):.4f}, is no "
    "better than always answering the commonest label; "
    + ("starting again from another seed" if again else "no config.train.restarts left")
  )


def not_finite(bad: int, window: tuple[int, int], kept: int | None, folder: Path) -> str:
  """The line of a loss that is none, of step `bad` in a window of steps; `kept`: the checkpoint's."""
  return (
    f"the loss is not finite at step {bad:,} (steps {window[0]:,} to {window[1]:,}); lower "
    "config.optim.learning_rate or set config.optim.clip_norm and start a new run; last good "
    f"checkpoint in {folder}: {'none' if kept is None else f'step {kept:,}'}"
  )


def summary(result: Mapping[str, Any], workdir: Path) -> str:
  """The last lines of a run."""
  baselines = ", ".join(f"{name} {value:.4f}" for name, value in result["baselines"].items())
  test, validation, time = result["test"], result["validation"], result["time"]
  bits = []
  if "bits_per_token" in test:
    others = ", ".join(f"{k} {v:.4f}" for k, v in result.get("baseline_bits", {}).items())
    bits = [
      f"bits/token      {test['bits_per_token']:.4f} (perplexity {test['perplexity']:.3f}) on "
      f"{test['tokens']:,} tokens; {others}"
    ]
  return "\n".join(
    [
      *bits,
      f"test accuracy   {test['accuracy']:.4f} on {test['examples']:,} examples "
      f"(step {validation['step']:,}, validation {validation['accuracy']:.4f})",
      f"baselines       {baselines}",
      f"wall time       {duration(time['seconds'])}; {time['examples_per_second']:,.0f} examples/s, "
      f"{time['tokens_per_second']:,.0f} real tokens/s in training",
      *(
        ["plateau         nothing was learned: see config.train.restarts"]
        if result["plateau"]
        else []
      ),
      f"everything in   {workdir}",
    ]
  )
