"""From batches to parameters.

Owns: what a config asks for (set-up), the training step, the optimizer, evaluation, checkpoints.
Must not know: command lines, run directories, what is printed. Only checkpoint.py knows orbax.
"""
