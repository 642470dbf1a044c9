"""Image with softmax attention; presets in image.py."""

from configs.lra.image import softmax as get_config
