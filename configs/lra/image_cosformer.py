"""Image with cosformer attention; presets in image.py."""

from configs.lra.image import cosformer as get_config
