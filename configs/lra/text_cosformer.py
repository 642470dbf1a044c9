"""Text with cosformer attention; presets in text.py."""

from configs.lra.text import cosformer as get_config
