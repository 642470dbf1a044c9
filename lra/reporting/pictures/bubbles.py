"""Accuracy against speed, peak memory as area: the form of figure 1 of the cosFormer paper."""

import math
import textwrap
from collections.abc import Mapping, Sequence

import matplotlib
from matplotlib import ticker
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lra.reporting import table_text
from lra.reporting.pictures import series
from lra.reporting.pictures.series import Point
from lra.reporting.pictures.style import STYLE, Key, Look, legend, looks, title


@matplotlib.rc_context(STYLE)
def speed(records: series.Records, about: str) -> Figure:
  """Accuracy against speed, averaged over tasks: figure 1 of the cosFormer paper."""
  points, shared = series.average_points(records)
  if not points:  # a task outside the average, alone
    shared = series.tasks(records)[:1]
    points = series.task_points(records, shared[0])
  figure = Figure(figsize=(6.2, 4.4))
  ax = figure.subplots()
  _bubbles(ax, points, looks(series.rows(records)), largest=2600, labels=True)
  names = ", ".join(map(table_text.name, shared))
  many = len(shared) > 1
  drawn = {(point.attention, point.overrides) for point in points}
  rest = [title(key) for key in series.rows(records) if key not in drawn]
  without = [f"without {', '.join(rest)}: not all of these tasks"] if rest else []
  lines = [textwrap.fill(line, 68) for line in (names, about, *without)]
  ax.set_title("\n".join(lines), loc="left")
  ax.set_xlabel(f"training speed, examples/s{' (geometric mean)' if many else ''}")
  ax.set_ylabel(f"test accuracy, %{' (average)' if many else ''}")
  figure.supxlabel("area of a bubble: peak memory", fontsize=8, color="#555555")
  return figure


@matplotlib.rc_context(STYLE)
def speed_by_task(records: series.Records, about: str) -> Figure:
  """Accuracy against speed, a panel a task."""
  names, look = series.tasks(records), looks(series.rows(records))
  columns = min(len(names), 3)
  lines = math.ceil(len(names) / columns)
  figure = Figure(figsize=(2.9 * columns + 0.3, 2.7 * lines + 0.8))
  axes = figure.subplots(lines, columns, squeeze=False).ravel()
  for ax, task in zip(axes, names):
    _bubbles(ax, series.task_points(records, task), look, largest=900, labels=False)
    ax.set_title(table_text.name(task), loc="left")
  for ax in axes[len(names) :]:
    ax.set_axis_off()
  for i, ax in enumerate(axes[: len(names)]):
    if i + columns >= len(names):
      ax.set_xlabel("training speed, examples/s")
    if i % columns == 0:
      ax.set_ylabel("test accuracy, %")
  legend(figure, look, f"{about}; area of a bubble: peak memory", lines=False)
  return figure


def _bubbles(
  ax: Axes, points: Sequence[Point], look: Mapping[Key, Look], *, largest: float, labels: bool
) -> None:
  top = max(p.gigabytes for p in points)
  for p in points:
    color, marker, _ = look[p.attention, p.overrides]
    area = largest * p.gigabytes / top
    ax.scatter(p.speed, p.accuracy, area, color=color, alpha=0.3, linewidth=0)
    ax.scatter(p.speed, p.accuracy, area, facecolor="none", edgecolor=color, linewidth=1.2)
    spread = {"yerr": p.std, "xerr": p.speed_std, "capsize": 2}
    ax.errorbar(p.speed, p.accuracy, **spread, color=color, marker=marker, markersize=5)
  speeds = [p.speed + (p.speed_std or 0) for p in points]
  speeds += [max(p.speed - (p.speed_std or 0), p.speed / 4) for p in points]
  if max(speeds) > 8 * min(speeds):
    ax.set_xscale("log")
    factor = (max(speeds) / min(speeds)) ** 0.25
    ax.set_xlim(min(speeds) / factor, max(speeds) * factor)
  else:
    room = 0.3 * (max(speeds) - min(speeds) or max(speeds))
    ax.set_xlim(max(min(speeds) - room, 0), max(speeds) + 1.8 * room)
  low = min(p.accuracy - (p.std or 0) for p in points)
  high = max(p.accuracy + (p.std or 0) for p in points)
  room = 0.3 * max(high - low, 1)
  ax.set_ylim(low - room, high + room)
  ax.xaxis.set_major_formatter(ticker.FuncFormatter(lambda x, _: f"{x:,.4g}"))
  ax.xaxis.set_minor_formatter(ticker.NullFormatter())
  if labels:
    _label(ax, points, [(largest * p.gigabytes / top / math.pi) ** 0.5 for p in points], look)


def _label(
  ax: Axes, points: Sequence[Point], radii: Sequence[float], look: Mapping[Key, Look]
) -> None:
  """Names the bubbles, each where it covers no other (radii in points)."""
  figure = ax.get_figure(root=True)
  figure.draw_without_rendering()
  scale = figure.dpi / 72
  centers = [ax.transData.transform((p.speed, p.accuracy)) for p in points]
  taken = [
    (x - r * scale, y - r * scale, x + r * scale, y + r * scale)
    for (x, y), r in zip(centers, radii)
  ]
  bars = []
  for p, (x, _) in zip(points, centers):
    ends = [ax.transData.transform((p.speed, p.accuracy + s * (p.std or 0)))[1] for s in (-1, 1)]
    bars.append((x - 3 * scale, ends[0], x + 3 * scale, ends[1]))
  frame = ax.get_window_extent().extents
  for i, (p, r) in enumerate(zip(points, radii)):
    best = None
    for dx, dy in ((1, 0), (0, 1), (0, -1), (-1, 0), (1, 1), (1, -1), (-1, 1), (-1, -1)):
      shift = (r + 3) / (math.hypot(dx, dy))
      text = ax.annotate(
        f"{title((p.attention, p.overrides))}\n{p.accuracy:.1f} %, {p.gigabytes:.1f} GB",
        *((p.speed, p.accuracy), (dx * shift, dy * shift)),
        textcoords="offset points",
        ha=("right", "center", "left")[dx + 1],
        va=("top", "center", "bottom")[dy + 1],
        fontsize=8.5,
      )
      text.set_in_layout(False)
      box = text.get_window_extent().extents
      covered = sum(_overlap(box, other) for j, other in enumerate(taken) if j != i)
      covered += sum(_overlap(box, bar) for bar in bars)
      covered += 3 * (_area(box) - _overlap(box, frame))
      if best is None or covered < best[0] - 1:
        if best is not None:
          best[1].remove()
        best = covered, text, box
      else:
        text.remove()
    taken.append(best[2])


def _area(box: Sequence[float]) -> float:
  return (box[2] - box[0]) * (box[3] - box[1])


def _overlap(a: Sequence[float], b: Sequence[float]) -> float:
  width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
  return max(width, 0) * max(height, 0)
