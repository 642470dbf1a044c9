"""Pathfinder with softmax attention; presets in pathfinder.py."""

from configs.lra.pathfinder import softmax as get_config
