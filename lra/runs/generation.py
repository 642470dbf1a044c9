"""Text from a trained language model, one token at a time; see models/recurrent.py."""

import dataclasses
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from lra.runs import trained_run
from lra.system.errors import UserError
from models import recurrent

BYTES = ("lm", "text", "retrieval")  # tasks whose tokens are bytes
AT_ONCE = 32  # tokens a dispatch


@dataclasses.dataclass
class Speed:
  """How long reading and writing took, compilation apart."""

  read: int = 0  # tokens
  written: int = 0
  reading: float = 0.0  # seconds
  writing: float = 0.0
  state_bytes: int = 0


def load(folder: Path) -> trained_run.TrainedRun:
  """The best parameters of a run that can continue a text. Raises UserError for any other run."""
  loaded = trained_run.load_best(folder)
  config, task = loaded.config, loaded.parts.task
  if config.train.objective != "next":
    raise UserError(
      f"{folder} is a run of objective {config.train.objective}; one of objective next continues a "
      "text: train.py --config configs/lm/bytes_cosformer.py:quick"
    )
  if task.name not in BYTES:
    raise UserError(
      f"{folder} is a run of task {task.name}, which is no text; those of {', '.join(BYTES)} are"
    )
  try:
    recurrent.check(loaded.parts.model, loaded.best.params)
  except ValueError as error:
    raise UserError(f"{folder}: {error}") from None
  return loaded


def generate(
  loaded: trained_run.TrainedRun,
  prompt: bytes,
  tokens: int | None,
  *,
  temperature: float,
  seed: int,
  speed: Speed,
) -> Iterator[bytes]:
  """The bytes that follow `prompt`, some at a time; fills in `speed`.

  tokens: how many; None: 400, or what the model has positions for. temperature: 0 takes the most
  likely one. Raises UserError for a prompt or a count that does not fit the model.
  """
  model, params, most = loaded.parts.model, loaded.best.params, loaded.parts.longest
  offset, free = loaded.parts.task.id_offset, most - len(prompt)
  if not prompt:
    raise UserError("--prompt needs at least one byte to go on from")
  if free < 1 or (tokens or 0) > free:
    raise UserError(
      f"the model has positions for {most:,} bytes and the prompt has {len(prompt):,}: "
      + (f"--tokens is at most {free:,}" if free > 0 else "shorten it")
    )
  tokens = min(400, free) if tokens is None else tokens
  ids = jnp.asarray(np.frombuffer(prompt, np.uint8).astype(np.int32) + offset)
  state, key = recurrent.init_state(model, 1), jax.random.key(seed)
  speed.state_bytes = recurrent.state_bytes(state)
  reader = jax.jit(lambda p, s, x: read(model, p, s, x)).lower(params, state, ids).compile()
  begin = time.monotonic()
  state, logits = jax.block_until_ready(reader(params, state, ids))
  speed.reading, speed.read = time.monotonic() - begin, len(prompt)
  writer = jax.jit(lambda p, s, x, k: write(model, p, s, x, k, temperature))
  writer = writer.lower(params, state, logits, key).compile()
  while speed.written < tokens:
    begin = time.monotonic()
    state, logits, ids, key = writer(params, state, logits, key)
    made = np.asarray(ids)[: tokens - speed.written]
    speed.writing += (time.monotonic() - begin) * len(made) / AT_ONCE
    speed.written += len(made)
    yield (made - offset).astype(np.uint8).tobytes()


def read(
  model: Any, params: Any, state: recurrent.State, ids: Int[Array, "n"]
) -> tuple[recurrent.State, Float[Array, "v"]]:
  """The state after a text and the logits of what follows it."""
  body = lambda s, token: recurrent.step(model, params, s, token[None])
  state, logits = jax.lax.scan(body, state, ids)
  return state, logits[-1, 0]


def write(
  model: Any,
  params: Any,
  state: recurrent.State,
  logits: Float[Array, "v"],
  key: Key[Array, ""],
  temperature: float,
) -> tuple[recurrent.State, Float[Array, "v"], Int[Array, "n"], Key[Array, ""]]:
  """AT_ONCE tokens, each drawn from the logits of those before it; id 0 is padding, never drawn."""

  def body(carry: tuple, _: None) -> tuple[tuple, Int[Array, ""]]:
    state, logits, key = carry
    key, now = jax.random.split(key)
    logits = logits.at[0].set(-jnp.inf)
    if temperature:
      token = jax.random.categorical(now, logits / temperature)
    else:
      token = logits.argmax()
    state, after = recurrent.step(model, params, state, token[None])
    return (state, after[0], key), token

  (state, logits, key), ids = jax.lax.scan(body, (state, logits, key), None, length=AT_ONCE)
  return state, logits, ids, key
