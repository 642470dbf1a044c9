"""Path-X with softmax attention; presets in pathx.py."""

from configs.lra import pathx


def get_config(preset: str = "default"):
  return pathx.make("softmax", preset)
