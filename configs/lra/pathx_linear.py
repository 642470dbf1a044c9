"""Path-X with linear attention; presets in pathx.py."""

from configs.lra.pathx import linear as get_config
