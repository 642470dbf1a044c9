"""Language modelling by bytes with softmax attention; presets in bytes.py."""

from configs.lm import bytes as recipe


def get_config(preset: str = "default"):
  return recipe.make("softmax", preset)
