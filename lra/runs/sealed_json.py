"""JSON files that hold their own digest, so that a byte which changed since is found.

Two keys say so: "format" and "sha256". A file with neither is of an earlier revision and is taken as
it is; with one alone it is damaged.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lra.system import files
from lra.system.errors import UserError

FORMAT = 1


def digest(content: Mapping[str, Any]) -> str:
  """SHA-256 of a JSON object without its own digest."""
  content = {key: value for key, value in content.items() if key != "sha256"}
  return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def write(path: Path, content: Mapping[str, Any]) -> None:
  """Writes a JSON object with its digest, whole or not at all."""
  made = {**content, "format": FORMAT}
  files.write(path, _text(made | {"sha256": digest(made)}))


def read(path: Path) -> dict[str, Any]:
  """The object in a file, without its digest.

  Raises FileNotFoundError, and UserError for what is damaged: no JSON object, or another digest.
  """
  data = path.read_bytes()
  try:
    content = json.loads(data)
    if not isinstance(content, dict):
      raise ValueError
    own = {key: content[key] for key in ("format", "sha256") if key in content}
    if own and (own.get("sha256") != digest(content) or data != _text(content).encode()):
      raise ValueError
  except (ValueError, RecursionError):
    raise UserError(f"{path} is damaged; delete it, or the folder it is in") from None
  return {key: value for key, value in content.items() if key not in own}


def _text(content: Mapping[str, Any]) -> str:
  return json.dumps(content, indent=1, sort_keys=True) + "\n"
