"""Text from a trained model: greedy bytes are those of the parallel form; what does not fit is said."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tiny
import train
from configs.lm import bytes as recipe
from lra.runs import generation
from lra.system.errors import UserError
from tiny import space  # noqa: F401

# ruff: noqa: F811
pytestmark = pytest.mark.usefixtures("one_device")


@pytest.fixture(scope="module")
def trained(space):
  """The folder of a tiny language model of a text that repeats itself."""
  raw, folder = space / "raw", space / "lm"
  if not (folder / "result.json").exists():
    raw.mkdir(exist_ok=True)
    (raw / "a.txt").write_bytes(b"abcdefgh" * 400)
    config = recipe.make("linear", "quick")
    small = {k: v for k, v in tiny.SMALL.items() if k.startswith(("model.", "train.", "data."))}
    config.update_from_flattened_dict(
      small | {"task.max_length": 32, "model.dropout": 0.0, "optim.learning_rate": 0.02}
    )
    where = {"data_dir": space / "data", "raw_dir": raw, "stop": tiny.Never()}
    train.train(config, folder, **where)
  return folder


def write(loaded, prompt, tokens=None, temperature=0.0, seed=0):
  speed = generation.Speed()
  pieces = generation.generate(
    loaded, prompt, tokens, temperature=temperature, seed=seed, speed=speed
  )
  return b"".join(pieces), speed


def test_greedy_text_is_that_of_the_parallel_form(trained):
  loaded = generation.load(trained)
  made, speed = write(loaded, b"cdefg", 20)
  ids = np.zeros((1, 1, 32), np.int32)
  ids[0, 0, :25] = np.frombuffer(b"cdefg" + made, np.uint8) + 1
  apply = jax.jit(lambda p, x: loaded.parts.model.apply({"params": p}, x, length, train=False))
  length = jnp.full((1, 1), 25)
  logits = np.array(apply(loaded.best.params, ids))[0, 0, 4:24]
  logits[:, 0] = -np.inf
  assert (logits.argmax(-1) - 1).astype(np.uint8).tobytes() == made
  assert speed.read == 5 and speed.written == 20 and speed.state_bytes > 0
  assert write(loaded, b"cdefg")[1].written == 27  # what fits


def test_drawn_text_depends_on_the_seed_alone(trained):
  loaded = generation.load(trained)
  texts = [write(loaded, b"a", temperature=5.0, seed=seed)[0] for seed in (0, 0, 1)]
  assert texts[0] == texts[1] != texts[2] and len(texts[0]) == 31


def test_what_does_not_fit_is_one_line(trained, whole):
  loaded = generation.load(trained)
  for prompt, tokens, answer in (
    (b"", 5, "--prompt needs at least one byte"),
    (b"ab", 31, "positions for 32 bytes and the prompt has 2: --tokens is at most 30"),
    (b"a" * 32, None, "shorten it"),
  ):
    with pytest.raises(UserError, match=answer):
      write(loaded, prompt, tokens)
  with pytest.raises(UserError, match="of objective classify; one of objective next"):
    generation.load(whole[0])
