"""Attention mechanisms, the encoder and its heads: pure functions and Flax modules, no task, no file."""
