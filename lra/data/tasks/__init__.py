"""The tasks of the Long Range Arena, and language modelling, by name.

A task is one module here and one line below.
"""

from lra.data.tasks import image, listops, lm, pathfinder, retrieval, text
from lra.data.tasks.task import SPLITS, Examples, Prepared, Task
from lra.system.errors import UserError

TASKS = {
  "listops": listops.TASK,
  "text": text.TASK,
  "retrieval": retrieval.TASK,
  "image": image.TASK,
  "pathfinder": pathfinder.TASK,
  "pathx": pathfinder.PATHX,
  "lm": lm.TASK,
}

__all__ = ["SPLITS", "TASKS", "Examples", "Prepared", "Task", "get"]


def get(name: str) -> Task:
  """The task of that name. Raises UserError naming those there are."""
  if name not in TASKS:
    raise UserError(f"unknown task {name!r}; config.task.name is one of {', '.join(sorted(TASKS))}")
  return TASKS[name]
