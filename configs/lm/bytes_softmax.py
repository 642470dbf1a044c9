"""Language modelling by bytes with softmax attention; presets in bytes.py."""

from configs.lm.bytes import softmax as get_config
