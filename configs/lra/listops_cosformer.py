"""ListOps with cosformer attention; presets in listops.py."""

from configs.lra.listops import cosformer as get_config
