"""Retrieval: does one paper cite the other? 2 classes, two documents of up to 4,000 bytes.

python train.py --config configs/lra/retrieval_cosformer.py[:official|:small|:quick]
"""

from ml_collections import ConfigDict

from configs.lra.base import published, recipes, shell, small


def _default(config: ConfigDict) -> None:
  """128,000 pairs. Means over thousands of bytes hardly differ: cosFormer leaves 50 % after 25,000 pairs
  with this, at 1e-3 in batches of 32 after 60,000, with `shell`'s embeddings and positions never.
  """
  shell(config)
  config.model.update(num_layers=1, positions="sinusoidal", embedding_std=1.0, dropout=0.0)
  config.optim.update(schedule="cosine", learning_rate=3e-3, warmup_steps=200, weight_decay=0.01)
  config.optim.update(beta2=0.98, eps=1e-9)
  config.train.update(steps=2000, batch_size=64, eval_every=1000)


def _official(config: ConfigDict) -> None:
  published(config)
  config.model.update(num_heads=4, emb_dim=128, qkv_dim=128, mlp_dim=512)
  config.model.update(cls=False, interaction="concat")
  config.optim.warmup_steps = 8000
  config.train.update(steps=5000, batch_size=32, eval_every=100)


def _small(config: ConfigDict) -> None:
  small(config)
  config.optim.warmup_steps = 800
  config.train.update(steps=30_000, batch_size=32, eval_every=1000)


def _quick(config: ConfigDict) -> None:
  """The first 256 bytes of a paper: its title and the beginning of its abstract."""
  config.task.max_length = 256
  config.model.update(num_layers=1, num_heads=2, emb_dim=64, qkv_dim=64, mlp_dim=128, dropout=0.0)
  config.model.update(cls=False, pooling="masked_mean")
  config.optim.update(learning_rate=2e-3, warmup_steps=200, weight_decay=0.01)
  config.train.update(steps=3000, eval_every=1500, eval_batch_size=128, log_every=100)
  config.data.update(buckets=1)


PRESETS = {"default": _default, "official": _official, "small": _small, "quick": _quick}
make, cosformer, linear, softmax = recipes("retrieval", PRESETS)
