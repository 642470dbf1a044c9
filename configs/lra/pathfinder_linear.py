"""Pathfinder with linear attention; presets in pathfinder.py."""

from configs.lra.pathfinder import linear as get_config
