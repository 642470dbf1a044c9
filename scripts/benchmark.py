"""Measures training steps: against PyTorch, and as a function of length.

    scripts/run scripts/benchmark.py pytorch     the same model and step in both, alternating
    scripts/run scripts/benchmark.py scaling     cosFormer from n = 1K to 64K: time, memory, exponents

`pytorch` needs torch (pip install torch; scripts/benchmark.py is all that uses it). Models: 4 layers,
width 256, 4 heads, MLP 1024, AdamW, float32. Compilation and warm-up are apart; times are medians.
On a busy machine trust ratios, not seconds.
"""

import json
import math
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

sys.path.insert(0, str(Path(__file__).parent.parent))

from configs.lra.base import base
from lra.runs import command
from lra.system import devices, files
from models import heads
from models.attention import ATTENTION

LAYERS, WIDTH, HEADS, MLP, VOCABULARY, CLASSES = 4, 256, 4, 1024, 257, 2


def jax_step(attention: str, n: int, batch: int) -> tuple[Callable[[], None], dict[str, float]]:
  """A function that makes one training step and waits for it; compile seconds and peak bytes."""
  config = base("text", attention).model.to_dict()
  config |= {"num_layers": LAYERS, "num_heads": HEADS, "emb_dim": WIDTH, "qkv_dim": WIDTH}
  config |= {"mlp_dim": MLP, "dropout": 0.0, "cls": False, "pooling": "masked_mean"}
  dtype = devices.activation_dtype(config.pop("dtype"))
  sizes = {"vocab_size": VOCABULARY, "num_classes": CLASSES, "max_length": n}
  model = heads.build(config, **sizes, dtype=dtype)
  ids = jax.random.randint(jax.random.key(0), (batch, 1, n), 1, VOCABULARY)
  lengths, labels = jnp.full((batch, 1), n), jnp.zeros(batch, jnp.int32)
  params = jax.jit(lambda key: model.init(key, ids, lengths, train=False))(jax.random.key(1))
  optimizer = optax.adamw(1e-3)

  def loss_fn(params):
    logits = model.apply(params, ids, lengths, train=False)
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

  def step(params, opt_state):
    loss, grads = jax.value_and_grad(loss_fn)(params)
    updates, opt_state = optimizer.update(grads, opt_state, params)
    return optax.apply_updates(params, updates), opt_state, loss

  state = (params, optimizer.init(params))
  start = time.perf_counter()
  compiled = devices.jit(step, donate_argnums=(0, 1)).lower(*state).compile()
  seconds = time.perf_counter() - start
  memory = compiled.memory_analysis()

  def run() -> None:
    nonlocal state
    *state, loss = compiled(*state)
    loss.block_until_ready()

  peak = memory.temp_size_in_bytes + memory.argument_size_in_bytes
  return run, {"compile_seconds": seconds, "peak_bytes": peak}


def torch_step(attention: str, n: int, batch: int) -> Callable[[], None]:
  """The same step in PyTorch: textbook cosFormer, or scaled_dot_product_attention."""
  import torch
  from torch.nn import functional as F

  device = "cuda" if torch.cuda.is_available() and jax.default_backend() == "gpu" else "cpu"

  def cosformer(q, k, v):
    angle = (math.pi / 2 * torch.arange(1, n + 1, device=device) / n)[:, None]
    q, k = (torch.cat([F.relu(x) * angle.sin(), F.relu(x) * angle.cos()], -1) for x in (q, k))
    state = torch.einsum("bhnd,bhne->bhde", k, v)
    normaliser = torch.einsum("bhnd,bhd->bhn", q, k.sum(2)).clamp_min(1e-6)
    return torch.einsum("bhnd,bhde,bhn->bhne", q, state, 1 / normaliser)

  attend = {"cosformer": cosformer, "softmax": F.scaled_dot_product_attention}[attention]

  class Block(torch.nn.Module):
    def __init__(self):
      super().__init__()
      self.norm1, self.norm2 = torch.nn.LayerNorm(WIDTH), torch.nn.LayerNorm(WIDTH)
      names = ("query", "key", "value", "out")
      self.projections = torch.nn.ModuleDict(
        {name: torch.nn.Linear(WIDTH, WIDTH, bias=False) for name in names}
      )
      self.up, self.down = torch.nn.Linear(WIDTH, MLP), torch.nn.Linear(MLP, WIDTH)

    def forward(self, x):
      y = self.norm1(x)
      q, k, v = (
        self.projections[name](y).view(batch, n, HEADS, -1).transpose(1, 2)
        for name in ("query", "key", "value")
      )
      y = attend(q, k, v).transpose(1, 2).reshape(batch, n, WIDTH)
      x = x + self.projections["out"](y)
      return x + self.down(F.gelu(self.up(self.norm2(x)), approximate="tanh"))

  class Model(torch.nn.Module):
    def __init__(self):
      super().__init__()
      self.embed, self.norm = torch.nn.Embedding(VOCABULARY, WIDTH), torch.nn.LayerNorm(WIDTH)
      self.blocks = torch.nn.Sequential(*(Block() for _ in range(LAYERS)))
      self.hidden, self.logits = torch.nn.Linear(WIDTH, MLP), torch.nn.Linear(MLP, CLASSES)
      self.register_buffer("positions", torch.randn(n, WIDTH))

    def forward(self, ids):
      x = self.norm(self.blocks(self.embed(ids) + self.positions))
      return self.logits(F.relu(self.hidden(x.mean(1))))

  model = Model().to(device)
  optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
  ids = torch.randint(1, VOCABULARY, (batch, n), device=device)
  labels = torch.zeros(batch, dtype=torch.long, device=device)

  def run() -> None:
    optimizer.zero_grad()
    F.cross_entropy(model(ids), labels).backward()
    optimizer.step()
    if device == "cuda":
      torch.cuda.synchronize()

  return run


def seconds(run: Callable[[], None]) -> float:
  """Wall time of one call."""
  start = time.perf_counter()
  run()
  return time.perf_counter() - start


def against_pytorch(repeats: int) -> list[dict]:
  """One row a case; the two sides alternate, so that a noisy machine hits both."""
  rows = []
  print(f"{'attention':10} {'n':>6} {'batch':>5} {'JAX s':>8} {'PyTorch s':>10} {'ratio':>6}")
  for attention, n, batch in (("cosformer", 4096, 2), ("cosformer", 2048, 2), ("softmax", 2048, 2)):
    jax_run, measured = jax_step(attention, n, batch)
    torch_run = torch_step(attention, n, batch)
    jax_run(), torch_run()  # warm-up
    pairs = np.array([(seconds(jax_run), seconds(torch_run)) for _ in range(repeats)])
    ours, theirs, ratio = np.median([*pairs.T, pairs[:, 0] / pairs[:, 1]], axis=1).tolist()
    print(f"{attention:10} {n:6} {batch:5} {ours:8.3f} {theirs:10.3f} {ratio:6.2f}", flush=True)
    row = {"attention": attention, "n": n, "batch": batch, "jax_seconds": ours}
    row |= {"pytorch_seconds": theirs, "ratio": ratio}
    rows.append(row | {"compile_seconds": measured["compile_seconds"]})
  return rows


def scaling(repeats: int, attention: str) -> list[dict]:
  """One row a length; then the exponents of a power law fitted by least squares in log-log."""
  rows = []
  print(f"{'n':>6} {'step s':>9} {'peak MB':>9} {'compile s':>9}")
  for n in 2 ** np.arange(10, 17):
    run, measured = jax_step(attention, int(n), 1)
    run()  # warm-up
    median = statistics.median(seconds(run) for _ in range(repeats))
    rows.append({"attention": attention, "n": int(n), "seconds": median, **measured})
    peak, compiling = measured["peak_bytes"] / 1e6, measured["compile_seconds"]
    print(f"{n:6} {median:9.3f} {peak:9.1f} {compiling:9.1f}", flush=True)
  for name in ("seconds", "peak_bytes"):
    slope = np.polyfit(np.log([r["n"] for r in rows]), np.log([r[name] for r in rows]), 1)[0]
    print(f"{name} grow like n^{slope:.2f}")
  return rows


def main() -> None:
  """Runs what the command line names."""
  parser = command.parser(__doc__)
  parser.add_argument("what", choices=("pytorch", "scaling"))
  parser.add_argument("--repeats", type=int, default=5, help="of which the median is taken")
  parser.add_argument(
    "--attention", choices=tuple(ATTENTION), default="cosformer", help="for scaling"
  )
  parser.add_argument("--json", type=Path, help="write the rows there, too")
  args = parser.parse_args()
  if args.what == "pytorch":
    try:
      import torch  # noqa: F401
    except ImportError:
      sys.exit("error: the comparison needs PyTorch; pip install torch")
    rows = against_pytorch(args.repeats)
  else:
    rows = scaling(args.repeats, args.attention)
  if args.json:
    files.write(args.json, json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
  main()
