"""Attention matrices by layer and head, and the weight by distance."""

from collections.abc import Sequence

import matplotlib
import numpy as np
from matplotlib import colors
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lra.reporting.attention_maps import Layer
from lra.reporting.pictures.style import FIXED, OTHERS, STYLE

FLOOR = 0.1  # of the scale of weights: smaller ones look like it
LOOKS = [*FIXED.values(), *OTHERS]  # of heads


@matplotlib.rc_context(STYLE | {"axes.grid": False})
def draw(layers: Sequence[Layer], about: str) -> Figure:
  """A row a layer: the matrix of every head (1 = uniform), and the mean weight by distance."""
  heads = len(layers[0].matrices)
  figure = Figure(figsize=(1.55 * heads + 4.2, 1.6 * len(layers) + 1.3))
  grid = figure.subplots(len(layers), heads + 1, squeeze=False, width_ratios=[*[1] * heads, 1.9])
  every = np.array([m for layer in layers for m in layer.matrices])
  top = max(3.0, float(np.percentile(abs(every), 99.9)))
  signed = every.min() < -FLOOR / 10  # of feature maps that are not positive
  norm = colors.SymLogNorm(FLOOR, vmin=-top, vmax=top) if signed else colors.LogNorm(FLOOR, top)
  shown = {"norm": norm, "cmap": "PuOr" if signed else "cividis", "interpolation": "nearest"}
  for axes, layer in zip(grid, layers):
    extent = (0, layer.length, layer.length, 0)
    for h, (ax, matrix) in enumerate(zip(axes, layer.matrices)):
      seen = matrix if signed else np.maximum(matrix, FLOOR)
      picture = ax.imshow(seen, **shown, extent=extent)
      ax.set_xticks([0, layer.length], ["0", f"{layer.length:,}"], fontsize=6.5)
      ax.set_yticks([])
      if layer is layers[0]:
        ax.set_title(f"head {h}", fontsize=8.5)
    axes[0].set_ylabel(f"layer {layer.index}", fontsize=8.5)
    _profile(axes[-1], layer)
  plain = "" if layers[0].plain is None else "\n(grey: without the cosine)"
  grid[0, -1].set_title(f"weight by distance i − j, a line a head{plain}", fontsize=8.5)
  bar = figure.colorbar(
    picture, ax=grid[:, :-1], location="bottom", shrink=0.5, aspect=40, pad=0.02
  )
  bar.set_label("weight × keys (1 = uniform); query i down, key j across", fontsize=8)
  ticks = [x for x in (FLOOR, 0.3, 1, 3, 10, 30, 100, 300, 1000, 3000) if x <= top]
  labels = [f"{x:,g}" for x in ticks]
  if signed:
    ticks = [*(-x for x in ticks[:1:-1]), 0, *ticks[2:]]
    labels = [*(f"−{x}" for x in labels[:1:-1]), "0", *labels[2:]]
  else:
    labels[0] = f"≤ {labels[0]}"
  bar.set_ticks(ticks, labels=labels, minor=False)
  bar.minorticks_off()
  figure.suptitle(about, fontsize=9.5)
  return figure


def _profile(ax: Axes, layer: Layer) -> None:
  for h, profile in enumerate(layer.profiles):
    color, _, line = LOOKS[h % len(LOOKS)]
    ax.plot(layer.distances, profile, linestyle=line, color=color, linewidth=0.9)
  if layer.plain is not None:
    ax.plot(layer.distances, layer.plain, color="#555555", linewidth=2, alpha=0.6)
  ax.axhline(1, color="#777777", linewidth=0.7, linestyle=(0, (1, 2)))
  ax.yaxis.tick_right()
  ax.tick_params(labelsize=7)
  common = abs(layer.distances) < 0.9 * layer.length  # farther, a few pairs would set the scale
  lines = [*layer.profiles, *([] if layer.plain is None else [layer.plain])]
  low = min(np.nanmin(line[common], initial=0) for line in lines)
  high = max(np.nanmax(line[common], initial=1) for line in lines)
  ax.set_ylim(1.1 * low, 1.1 * high)
