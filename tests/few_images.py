"""Pathfinder data of a few images, for the tests of its task."""

from lra.data.tasks import pathfinder
from lra.data.tasks import pathfinder_raster as raster

HARD = raster.published_parameters(32, "hard")
OPTIONS = dict(
  resolution=32, difficulty="hard", train=40, validation=5, test=5, seed=0, lra_quirks=True
)


def prepare(tmp_path, raw_dir=None, report=lambda text: None, **options):
  return pathfinder.prepare(
    raw_dir=raw_dir, cache_dir=tmp_path / "cache", report=report, **OPTIONS | options
  )


def images(examples, side=32):
  return examples.tokens.reshape(-1, side, side)
