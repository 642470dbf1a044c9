"""One run of train.py: its command line and its directory.

Owns: flags, the session of a run, config.json, metrics.jsonl, result.json, messages, trained runs.
Must not know: tables, pictures, sweeps. Only event_file.py knows TensorBoard.
"""
