"""Style of all pictures, and their PNG and SVG files. Only this folder knows matplotlib.

Colours are those of Okabe and Ito, told apart by all readers; markers and line styles say the
same again.
"""

import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from lra.reporting import table_text
from lra.system import files

STYLE = {
  "font.size": 9,
  "axes.titlesize": 9.5,
  "axes.spines.top": False,
  "axes.spines.right": False,
  "axes.grid": True,
  "axes.axisbelow": True,
  "grid.color": "#dddddd",
  "grid.linewidth": 0.6,
  "legend.frameon": False,
  "svg.hashsalt": "lra",  # the same picture is the same file
  "figure.constrained_layout.use": True,
}
FIXED = {  # colour, marker, line
  "softmax": ("#D55E00", "s", "--"),
  "linear": ("#0072B2", "^", "-."),
  "cosformer": ("#009E73", "o", "-"),
}
OTHERS = [  # without the yellow, which is hard to see on white
  (color, marker, line)
  for line in (":", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (8, 2, 1, 2)))
  for color, marker in zip(("#CC79A7", "#E69F00", "#56B4E9", "#000000"), "DvPX")
]
FORMATS = ("png", "svg")
Key = tuple[str, str]  # mechanism, overrides
Look = tuple[str, str, object]  # colour, marker, line


def encode(figure: Figure, format: str) -> bytes:
  """The file of a figure, without the time it was made."""
  out = io.BytesIO()
  metadata = {"Date": None} if format == "svg" else None
  with matplotlib.rc_context(STYLE):
    figure.savefig(out, format=format, dpi=160, metadata=metadata)
  return out.getvalue()


def write(figure: Figure, path: Path) -> list[Path]:
  """Writes <path>.png and <path>.svg."""
  path.parent.mkdir(parents=True, exist_ok=True)
  made = []
  for format in FORMATS:
    made.append(path.with_name(f"{path.name}.{format}"))
    files.write(made[-1], encode(figure, format))
  return made


def looks(keys: Iterable[Key]) -> dict[Key, Look]:
  """The same look for a mechanism in every picture; others in the order given."""
  keys = list(keys)
  rest = [key for key in dict.fromkeys(keys) if key[1] or key[0] not in FIXED]
  found = {key: OTHERS[i % len(OTHERS)] for i, key in enumerate(rest)}
  return {key: found.get(key) or FIXED[key[0]] for key in keys}


def title(key: Key) -> str:
  """The name of a row in a legend."""
  return table_text.name(key[0]) + (f" ({key[1]})" if key[1] else "")


def legend(
  figure: Figure,
  look: Mapping[Key, Look],
  heading: str,
  *,
  lines: bool = True,
  values: Mapping[Key, str] | None = None,
  more: Sequence[tuple[Line2D, str]] = (),
) -> None:
  """One legend below all axes, where the figure grows if it needs over an inch, and a heading above.

  lines: as they are drawn, or markers alone. values: texts below the names.
  """
  shown = []
  for key, (c, m, line) in look.items():
    handle = Line2D([], [], color=c, marker=m, linestyle=line if lines else "none", markersize=5)
    shown.append((handle, title(key) + (f"\n{values[key]}" if values else "")))
  shown += more
  figure.suptitle(heading, fontsize=9.5)
  for columns in range(min(len(shown), 4), 0, -1):
    made = figure.legend(*zip(*shown), loc="outside lower center", ncols=columns)
    box = made.get_window_extent()
    if columns == 1 or box.width < 0.98 * figure.bbox.width:
      figure.set_figheight(figure.get_figheight() + max(box.height / figure.dpi - 1, 0))
      return
    made.remove()
