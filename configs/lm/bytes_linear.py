"""Language modelling by bytes with linear attention; presets in bytes.py."""

from configs.lm.bytes import linear as get_config
