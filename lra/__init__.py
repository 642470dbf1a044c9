"""Everything between the raw files of a task and the table of results, in six rooms.

Imports go one way: system <- data <- training <- runs <- reporting, and runs <- sweeps. The table of
allowed edges is in tests/test_architecture.py, the way of a batch in docs/architecture.md.
"""
