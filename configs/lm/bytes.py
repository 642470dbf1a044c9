"""Language modelling: each next byte of a text; WikiText-103, your own *.txt, or IMDB's reviews.

python train.py --config configs/lm/bytes_cosformer.py[:quick]
"""

from ml_collections import ConfigDict

from configs.lra.base import recipes


def _default(config: ConfigDict) -> None:
  """Four layers of width 256 on blocks of 1,024 bytes: for an accelerator, and not run yet."""
  config.train.objective = "next"
  config.model.update(num_layers=4, num_heads=4, emb_dim=256, qkv_dim=256, mlp_dim=1024)
  config.model.update(dropout=0.1, embedding_std=0.02, cls=False, pooling="masked_mean")
  config.optim.update(learning_rate=1e-3, warmup_steps=1000)
  config.train.update(steps=30_000, batch_size=32, eval_every=2500)
  config.data.update(buckets=1)


def _quick(config: ConfigDict) -> None:
  """Blocks of 256 bytes, two layers of width 64."""
  _default(config)
  config.task.max_length = 256
  config.model.update(num_layers=2, num_heads=2, emb_dim=64, qkv_dim=64, mlp_dim=128, dropout=0.0)
  config.optim.update(learning_rate=3e-3, warmup_steps=100, weight_decay=0.01)
  config.train.update(steps=3000, eval_every=1000, eval_batch_size=128, log_every=100)


PRESETS = {"default": _default, "quick": _quick}
make, cosformer, linear, softmax = recipes("lm", PRESETS)
