"""Pathfinder with softmax attention; presets in pathfinder.py."""

from configs.lra import pathfinder


def get_config(preset: str = "default"):
  return pathfinder.make("softmax", preset)
