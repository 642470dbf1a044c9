"""ListOps with linear attention; presets in listops.py."""

from configs.lra import listops


def get_config(preset: str = "default"):
  return listops.make("linear", preset)
