"""Language modelling by bytes with linear attention; presets in bytes.py."""

from configs.lm import bytes as recipe


def get_config(preset: str = "default"):
  return recipe.make("linear", preset)
