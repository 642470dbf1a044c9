"""ListOps: 10 classes, expressions of 500 to 2,000 tokens. The file for all mechanisms.

python train.py --config configs/lra/listops_cosformer.py[:official|:quick]
"""

from configs.lra.base import base, unknown_preset

PRESETS = ("default", "official", "quick")


def make(attention: str, preset: str) -> "ConfigDict":
  """The config of a preset. Raises ValueError for an unknown one."""
  config = base("listops", attention)
  if preset == "official":  # google-research/long-range-arena, listops/configs
    config.optim.update(schedule="lra_rsqrt", learning_rate=0.05, decay="all", clip_norm=0.0)
    config.train.update(steps=5000, eval_every=50, eval_batch_size=32, select="last")
    config.model.attention_options.lra_padding = True
    if attention == "softmax":
      config.model.attention_options.dropout = 0.1
    config.data.bucketing = False
  elif preset == "quick":  # short expressions, so that a laptop sees more than the root operator
    config.task.update(min_length=4, max_length=48, max_depth=4, max_args=4)
    config.task.update(train=100_000, validation=2000, test=2000)
    config.model.update(num_layers=2, num_heads=4, emb_dim=64, qkv_dim=64, mlp_dim=128, dropout=0.0)
    config.optim.update(learning_rate=2e-3, warmup_steps=200)
    config.train.update(steps=3000, batch_size=64, eval_every=500, log_every=100)
    config.data.update(buckets=2, bucket_multiple=16)
  elif preset != "default":
    raise unknown_preset(preset, PRESETS)
  return config
