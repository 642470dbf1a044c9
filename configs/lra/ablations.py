"""Ablations: rows of the accuracy table that a sweep runs together, `scripts/sweep.py --ablation NAME`.

A row is a mechanism and the keys that it changes; the table names it after them.
"""

from collections.abc import Mapping
from typing import NamedTuple

from configs.lra.base import TASKS

IMAGES = tuple(task for task, options in TASKS.items() if "resolution" in options)


class Row(NamedTuple):
  """One row of an ablation."""

  attention: str
  changes: Mapping[str, str] = {}  # by key of the config, as one types them
  tasks: tuple[str, ...] = tuple(TASKS)  # those it fits


def _reweight(name: str, **more: str) -> dict[str, str]:
  return _options(reweight=name, **more)


def _options(**options: str) -> dict[str, str]:
  return {f"model.attention_options.{key}": value for key, value in options.items()}


_CONVOLUTION = {"model.convolution": "5"}
_NORM = {"model.output_norm": "True"}
ABLATIONS = {
  "paper": (  # cosFormer, arXiv 2202.08791, tables 1 and 6: feature maps without the cosine, and with it
    Row("cosformer"),
    *(
      Row("cosformer", _reweight("none", feature_map=name))
      for name in ("relu", "leaky_relu", "identity")
    ),
    Row("softmax"),
  ),
  "locality": (
    Row("cosformer"),
    Row("cosformer", _reweight("multiscale")),
    Row("cosformer", _reweight("multiscale", frequencies="learned")),
    Row("cosformer", _reweight("cos2d"), IMAGES),
    Row("cosformer", _reweight("decay")),
    Row("cosformer", _options(rope="True")),
    Row("cosformer", _CONVOLUTION),
    Row("cosformer", _NORM),
    Row("cosformer", _reweight("decay") | _CONVOLUTION),
    Row("cosformer", _options(rope="True") | _CONVOLUTION),
    Row("cosformer", _reweight("decay", rope="True") | _CONVOLUTION),
    Row("cosformer", _reweight("decay") | _CONVOLUTION | _NORM),
    Row("cosformer", _reweight("decay", rope="True") | _CONVOLUTION | _NORM),
    *(
      Row(attention, changes)
      for attention in ("softmax", "linear")
      for changes in ({}, _CONVOLUTION, _NORM, _CONVOLUTION | _NORM)
    ),
    Row("linear", _options(rope="True")),
    Row("linear", _options(rope="True") | _CONVOLUTION),
  ),
}
