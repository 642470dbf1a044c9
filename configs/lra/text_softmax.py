"""Text with softmax attention; presets in text.py."""

from configs.lra.text import softmax as get_config
