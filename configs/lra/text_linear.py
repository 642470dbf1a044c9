"""Text with linear attention; presets in text.py."""

from configs.lra.text import linear as get_config
