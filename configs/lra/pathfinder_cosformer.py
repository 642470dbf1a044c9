"""Pathfinder with cosformer attention; presets in pathfinder.py."""

from configs.lra.pathfinder import cosformer as get_config
