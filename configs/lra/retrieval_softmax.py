"""Retrieval with softmax attention; presets in retrieval.py."""

from configs.lra.retrieval import softmax as get_config
