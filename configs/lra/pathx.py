"""Path-X: Pathfinder at 128 x 128; 2 classes, 16,384 pixels. Published models stay at 50 %.

python train.py --config configs/lra/pathx_cosformer.py[:official|:small|:quick]
"""

from ml_collections import ConfigDict

from configs.lra.base import published, recipes, small


def _default(config: ConfigDict) -> None:
  config.model.update(num_layers=4, num_heads=4, emb_dim=64, qkv_dim=64, mlp_dim=64, dropout=0.1)
  config.model.update(positions="row_column", embedding_std=0.02, cls=False, pooling="masked_mean")
  config.optim.update(learning_rate=5e-4, warmup_steps=10_000, weight_decay=0.01)
  config.train.update(steps=250_000, batch_size=64, eval_batch_size=100, eval_every=2500)


def _official(config: ConfigDict) -> None:
  published(config)
  config.model.update(num_layers=1, num_heads=2, emb_dim=32, qkv_dim=16, mlp_dim=32, dropout=0.1)
  config.model.update(positions="learned", cls=False, pooling="mean", zero_is_padding=True)
  config.optim.update(schedule="lra_cosine", learning_rate=1e-3, warmup_steps=2500)
  config.optim.update(cycle_steps=500_000, weight_decay=0.0, clip_norm=1.0)
  config.train.update(steps=500_000, batch_size=64, eval_batch_size=100, eval_every=2500)


def _small(config: ConfigDict) -> None:
  small(config)
  config.optim.warmup_steps = 2500
  config.train.update(steps=250_000, batch_size=64, eval_batch_size=100, eval_every=2500)


def _quick(config: ConfigDict) -> None:
  """That it runs; nothing is learned in so few steps."""
  config.task.update(difficulty="easy", train=2000, validation=200, test=200)
  config.model.update(num_layers=1, num_heads=2, emb_dim=32, qkv_dim=32, mlp_dim=32, dropout=0.0)
  config.model.update(positions="row_column", cls=False, pooling="masked_mean")
  config.optim.update(learning_rate=1e-3, warmup_steps=50, weight_decay=0.01)
  config.train.update(steps=200, batch_size=8, eval_batch_size=20, eval_every=100, log_every=20)


PRESETS = {"default": _default, "official": _official, "small": _small, "quick": _quick}
make, cosformer, linear, softmax = recipes("pathx", PRESETS)
