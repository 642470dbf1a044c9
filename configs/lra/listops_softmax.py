"""ListOps with softmax attention; presets in listops.py."""

from configs.lra.listops import softmax as get_config
