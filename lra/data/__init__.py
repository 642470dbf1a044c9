"""From raw files to batches on the device.

Owns: tasks, archives and downloads, prepared splits on disk, the plan of batches, their gathering.
Must not know: models, optimizers, runs. Tasks know no JAX.
"""
