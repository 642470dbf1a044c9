"""The training step, its optimizer, evaluation and checkpoints."""
