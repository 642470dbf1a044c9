"""Pictures of runs, drawn with matplotlib from their records."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from lra.reporting.grouping import tasks_of
from lra.reporting.pictures import bubbles, curves, series


def of_records(records: series.Records, scaling: Sequence[Path] = ()) -> dict[str, Figure]:
  """All pictures of records by file name: for each preset and device two bubble charts and curves.

  scaling: files of `scripts/benchmark.py scaling --json`, for one more picture.
  """
  figures, groups = {}, series.settings(records)
  for (setting, device), group in groups.items():
    name = _slug(setting if len({s for s, _ in groups}) == len(groups) else f"{setting}-{device}")
    about = f"preset {setting}, on {device}"
    figures[f"speed-{name}"] = bubbles.speed(group, about)
    if len(tasks_of(group)) > 1:
      figures[f"speed-tasks-{name}"] = bubbles.speed_by_task(group, about)
    for task in tasks_of(group):
      figures[f"curves-{name}-{task}"] = curves.training(
        [r for r in group if r["task"] == task], about
      )
  if scaling:
    figures["scaling"] = curves.scaling(series.read_scaling(scaling))
  return figures


def _slug(text: str) -> str:
  return "".join(c if c.isalnum() or c in ".=" else "-" for c in text)[:120]
