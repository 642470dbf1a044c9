"""Language modelling by bytes with cosformer attention; presets in bytes.py."""

from configs.lm import bytes as recipe


def get_config(preset: str = "default"):
  return recipe.make("cosformer", preset)
