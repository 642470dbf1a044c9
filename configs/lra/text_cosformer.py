"""Text with cosformer attention; presets in text.py."""

from configs.lra import text


def get_config(preset: str = "default"):
  return text.make("cosformer", preset)
