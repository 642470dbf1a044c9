"""Retrieval with cosformer attention; presets in retrieval.py."""

from configs.lra.retrieval import cosformer as get_config
