"""Path-X with cosformer attention; presets in pathx.py."""

from configs.lra import pathx


def get_config(preset: str = "default"):
  return pathx.make("cosformer", preset)
