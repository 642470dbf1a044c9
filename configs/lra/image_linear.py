"""Image with linear attention; presets in image.py."""

from configs.lra.image import linear as get_config
