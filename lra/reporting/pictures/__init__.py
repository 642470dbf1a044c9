"""Pictures of runs, drawn with matplotlib from their records."""

from matplotlib.figure import Figure

from lra.reporting.pictures import bubbles, curves, series


def of_records(records: series.Records) -> dict[str, Figure]:
  """All pictures of records by file name: for each preset and device two bubble charts and curves."""
  figures, groups = {}, series.settings(records)
  for (setting, device), group in groups.items():
    name = _slug(setting if len({s for s, _ in groups}) == len(groups) else f"{setting}-{device}")
    about = f"preset {setting}, on {device}"
    figures[f"speed-{name}"] = bubbles.speed(group, about)
    if len(series.tasks(group)) > 1:
      figures[f"speed-tasks-{name}"] = bubbles.speed_by_task(group, about)
    for task in series.tasks(group):
      figures[f"curves-{name}-{task}"] = curves.training(
        [r for r in group if r["task"] == task], about
      )
  return figures


def _slug(text: str) -> str:
  return "".join(c if c.isalnum() or c in ".=" else "-" for c in text)[:120]
