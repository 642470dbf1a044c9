"""Language modelling by bytes with cosformer attention; presets in bytes.py."""

from configs.lm.bytes import cosformer as get_config
