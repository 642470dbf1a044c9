"""The examples of docs/extending.md, as they stand there."""

import re
import types
from pathlib import Path

DOCS = Path(__file__).parent.parent / "docs/extending.md"


def attention() -> types.ModuleType:
  """The module of the attention example."""
  (code,) = re.findall(r"^```python\n(.*?)^```", DOCS.read_text(), re.M | re.S)
  module = types.ModuleType("documented_attention", "")
  exec(compile(code, str(DOCS), "exec"), module.__dict__)
  return module
