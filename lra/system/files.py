"""Files that appear whole or not at all, whatever ends the process or fills the disk."""

import os
from pathlib import Path


def write(path: Path, content: str | bytes) -> None:
  """Writes beside `path` and renames; OSError leaves what was there before, and nothing else."""
  temporary = path.with_name(path.name + ".tmp")
  data = content.encode() if isinstance(content, str) else content
  try:
    with open(temporary, "wb") as file:
      file.write(data)
      file.flush()
      os.fsync(file.fileno())
    temporary.replace(path)
  except OSError:
    temporary.unlink(missing_ok=True)
    raise
