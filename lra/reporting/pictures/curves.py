"""Training curves over seeds, and how time and memory grow with length."""

from collections.abc import Mapping, Sequence

import matplotlib
from matplotlib import ticker
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from lra.reporting import table_text
from lra.reporting.pictures import series
from lra.reporting.pictures.series import Band, Growth
from lra.reporting.pictures.style import STYLE, Look, legend, looks

BASELINE = {"color": "#555555", "linewidth": 1.0, "linestyle": (0, (1, 1.5))}
QUANTITIES = {"seconds": ("time of a training step, s", 1), "peak_bytes": ("peak memory, GB", 1e9)}


@matplotlib.rc_context(STYLE)
def training(records: series.Records, about: str) -> Figure:
  """Accuracy and loss, train and validation, of one task."""
  look = looks(series.rows(records))
  figure = Figure(figsize=(7.2, 5.2))
  axes = figure.subplots(2, 2, sharex=True, sharey="row")
  name, share = max(records[0]["baselines"].items(), key=lambda item: item[1])
  for line, metric in zip(axes, series.METRICS):
    for ax, split in zip(line, series.SPLITS):
      for band in series.bands(records, split, metric):
        _band(ax, band, look[band.attention, band.overrides])
      if metric == "accuracy":
        ax.axhline(100 * share, **BASELINE)
        ax.set_title("training" if split == "train" else split, loc="left")
    line[0].set_ylabel("accuracy, %" if metric == "accuracy" else metric)
  for ax in axes[1]:
    ax.set_xlabel("step")
    ax.xaxis.set_major_formatter(ticker.FuncFormatter(lambda x, _: f"{x:,.0f}"))
  seeds = series.bands(records, "validation", "accuracy")
  spread = "mean ± standard deviation over seeds" if any(b.seeds > 1 for b in seeds) else "one seed"
  baseline = (Line2D([], [], **BASELINE), f"best trivial baseline ({name})")
  legend(figure, look, f"{table_text.name(records[0]['task'])}: {spread}; {about}", more=[baseline])
  return figure


def _band(ax: Axes, band: Band, look: Look) -> None:
  color, marker, line = look
  every = max(len(band.step) // 8, 1)
  ax.plot(
    *(band.step, band.mean),
    **{"color": color, "linestyle": line, "linewidth": 1.4},
    **{"marker": marker, "markevery": every, "markersize": 4},
  )
  if band.std is not None:
    ax.fill_between(
      *(band.step, band.mean - band.std, band.mean + band.std), color=color, alpha=0.2, linewidth=0
    )


@matplotlib.rc_context(STYLE)
def scaling(growths: Mapping[str, Sequence[Growth]]) -> Figure:
  """Time and memory of a step against length, log-log, with the power law fitted to each."""
  figure = Figure(figsize=(7.2, 3.5))
  for ax, (quantity, (label, unit)) in zip(figure.subplots(1, 2), QUANTITIES.items()):
    look = looks([(g.name, "") for g in growths[quantity]])
    for g in growths[quantity]:
      color, marker, line = look[g.name, ""]
      ax.plot(g.n, g.values / unit, marker, color=color, markersize=5)
      ax.plot(g.n, g.fitted / unit, linestyle=line, color=color, linewidth=1.2)
    ax.set_xscale("log", base=2)
    ax.set_yscale("log")
    ax.set_xlabel("sequence length n")
    ax.xaxis.set_major_formatter(ticker.FuncFormatter(lambda x, _: f"{x / 1024:g}K"))
    ax.set_title(label, loc="left")
    handles = [
      Line2D([], [], color=c, marker=m, linestyle=line, markersize=5)
      for c, m, line in (look[g.name, ""] for g in growths[quantity])
    ]
    texts = [f"{table_text.name(g.name)}: n$^{{{g.exponent:.2f}}}$" for g in growths[quantity]]
    ax.legend(handles, texts, loc="upper left")
  return figure
