"""ListOps: the value of a nested list expression; 10 classes, 500 to 2,000 tokens.

python train.py --config configs/lra/listops_cosformer.py[:official|:small|:quick]
"""

from ml_collections import ConfigDict

from configs.lra.base import published, recipes, shell, small


def _default(config: ConfigDict) -> None:
  """Below the published figure: cosFormer has the rule of the root operator, 36 % on validation, from
  step 2,000 to the last. 1e-4 (`:small`) takes 5,000 steps to 31 %, 5e-4 has the rule from 3,000 on.
  """
  shell(config)
  config.optim.update(learning_rate=1e-3, warmup_steps=1000)
  config.train.update(steps=10_000, batch_size=32, eval_every=1000)


def _official(config: ConfigDict) -> None:
  published(config)
  config.train.update(steps=5000, eval_every=50, eval_batch_size=32)


def _small(config: ConfigDict) -> None:
  small(config)
  config.optim.warmup_steps = 1000
  config.train.update(steps=5000, batch_size=32, eval_every=250)


def _quick(config: ConfigDict) -> None:
  """Short expressions, of which a laptop learns more than the root operator in minutes."""
  config.task.update(min_length=4, max_length=48, max_depth=4, max_args=4)
  config.model.update(num_layers=2, num_heads=4, emb_dim=64, qkv_dim=64, mlp_dim=128, dropout=0.0)
  config.model.update(cls=False, pooling="masked_mean")
  config.optim.update(learning_rate=2e-3, warmup_steps=200, weight_decay=0.01)
  config.train.update(steps=3000, batch_size=64, eval_every=500, log_every=100)
  config.data.update(buckets=2, bucket_multiple=16)


PRESETS = {"default": _default, "official": _official, "small": _small, "quick": _quick}
make, cosformer, linear, softmax = recipes("listops", PRESETS)
