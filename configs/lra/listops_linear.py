"""ListOps with linear attention; presets in listops.py."""

from configs.lra.listops import linear as get_config
