"""Retrieval with softmax attention; presets in retrieval.py."""

from configs.lra import retrieval


def get_config(preset: str = "default"):
  return retrieval.make("softmax", preset)
