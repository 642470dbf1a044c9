"""Text with softmax attention; presets in text.py."""

from configs.lra import text


def get_config(preset: str = "default"):
  return text.make("softmax", preset)
