"""Path-X with softmax attention; presets in pathx.py."""

from configs.lra.pathx import softmax as get_config
