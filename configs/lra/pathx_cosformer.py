"""Path-X with cosformer attention; presets in pathx.py."""

from configs.lra.pathx import cosformer as get_config
