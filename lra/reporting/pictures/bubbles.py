"""Accuracy against speed, peak memory as area: the form of figure 1 of the cosFormer paper."""

import math
import textwrap
from collections.abc import Mapping, Sequence

import matplotlib
from matplotlib import ticker
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lra.reporting import table_text
from lra.reporting.grouping import tasks_of
from lra.reporting.pictures import series
from lra.reporting.pictures.series import Point
from lra.reporting.pictures.style import STYLE, Key, Look, legend, looks, title


@matplotlib.rc_context(STYLE)
def speed(records: series.Records, about: str) -> Figure:
  """Accuracy against speed, averaged over tasks: figure 1 of the cosFormer paper."""
  points, shared = series.average_points(records)
  if not points:  # a task outside the average, alone
    shared = tasks_of(records)[:1]
    points = series.task_points(records, shared[0])
  look = looks(series.rows(records))
  figure = Figure(figsize=(6.2, 4.4))
  ax = figure.subplots()
  _bubbles(ax, points, look, largest=2600)
  names = ", ".join(map(table_text.name, shared))
  many = len(shared) > 1
  drawn = {(p.attention, p.overrides): f"{p.accuracy:.1f} %, {p.gigabytes:.1f} GB" for p in points}
  rest = [title(key) for key in look if key not in drawn]
  without = [f"without {', '.join(rest)}: not all of these tasks"] if rest else []
  lines = [textwrap.fill(line, 68) for line in (names, about, *without)]
  ax.set_title("\n".join(lines), loc="left")
  ax.set_xlabel(f"training speed, examples/s{' (geometric mean)' if many else ''}")
  ax.set_ylabel(f"test accuracy, %{' (average)' if many else ''}")
  seen = {key: look[key] for key in drawn}
  legend(figure, seen, "area of a bubble: peak memory", lines=False, values=drawn)
  return figure


@matplotlib.rc_context(STYLE)
def speed_by_task(records: series.Records, about: str) -> Figure:
  """Accuracy against speed, a panel a task."""
  names, look = tasks_of(records), looks(series.rows(records))
  columns = min(len(names), 3)
  lines = math.ceil(len(names) / columns)
  figure = Figure(figsize=(2.9 * columns + 0.3, 2.7 * lines + 0.8))
  axes = figure.subplots(lines, columns, squeeze=False).ravel()
  for ax, task in zip(axes, names):
    _bubbles(ax, series.task_points(records, task), look, largest=900)
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
  ax: Axes, points: Sequence[Point], look: Mapping[Key, Look], *, largest: float
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
