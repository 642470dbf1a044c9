"""Retrieval with linear attention; presets in retrieval.py."""

from configs.lra.retrieval import linear as get_config
