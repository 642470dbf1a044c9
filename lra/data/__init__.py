"""From raw files to batches: tasks, prepared splits on disk, buckets and gathers."""
