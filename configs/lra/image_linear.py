"""Image with linear attention; presets in image.py."""

from configs.lra import image


def get_config(preset: str = "default"):
  return image.make("linear", preset)
