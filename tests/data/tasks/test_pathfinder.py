"""Preparing without a release, baselines, pictures."""

import json
import os

import numpy as np
import pytest

from few_images import HARD, OPTIONS, images, prepare
from lra.data.tasks import pathfinder, pathfinder_markers
from lra.data.tasks import pathfinder_generator as generator
from lra.data.tasks import pathfinder_raster as raster
from lra.data.tasks.task import SPLITS
from lra.system.errors import UserError


def test_prepare_generates(tmp_path):
  prepared = prepare(tmp_path)
  scenes = generator.generate(0, 50, seed=0, parameters=HARD)
  start = 0
  for split, size in zip(SPLITS, (40, 5, 5), strict=True):
    examples = prepared.splits[split]
    np.testing.assert_array_equal(images(examples), scenes.images[start : start + size])
    np.testing.assert_array_equal(examples.labels, scenes.labels[start : start + size])
    np.testing.assert_array_equal(examples.offsets, np.arange(size + 1) * 1024)
    np.testing.assert_array_equal(examples.documents, np.arange(size)[:, None])
    dtypes = [array.dtype.name for array in examples]
    assert dtypes == ["uint8", "int64", "int32", "uint8"]
    start += size
  source = json.loads(json.dumps(prepared.source))
  assert source["origin"] == "generated" and source["generator_version"] == generator.VERSION
  assert source["parameters"]["contour_length"] == 14 and source["seed"] == 0


def test_tokens_are_in_a_file_that_has_no_name(tmp_path):
  examples = prepare(tmp_path).splits["train"]
  assert isinstance(examples.tokens, np.memmap)
  assert os.listdir(tmp_path / "cache") == []


@pytest.mark.parametrize(
  "options,message",
  [
    (dict(resolution=48), "resolution 48"),
    (dict(difficulty="brutal"), "brutal"),
  ],
)
def test_impossible_options(tmp_path, options, message):
  with pytest.raises(UserError, match=message):
    prepare(tmp_path, **options)


def test_progress_about_once_a_second(tmp_path, monkeypatch):
  clock = iter(np.arange(0, 100, 0.25))
  monkeypatch.setattr(pathfinder.time, "monotonic", lambda: next(clock))
  lines = []
  drawn = [np.zeros((2, 2), np.uint8)] * 12
  pathfinder._pack(drawn, [0] * 12, {"train": 2000}, tmp_path, lines.append)
  assert lines == [
    "pathfinder: 4 / 2,000 images, 4/s, 8 min left",
    "pathfinder: 8 / 2,000 images, 4/s, 8 min left",
  ]


@pytest.mark.parametrize("side,exact", [(32, 0.75), (64, 0.6), (128, 0.95)])
def test_markers_are_found(side, exact):
  p = raster.published_parameters(side, "easy")
  scenes = generator.generate(0, 100, seed=0, parameters=p)
  found, true = pathfinder_markers.find_markers(scenes.images), scenes.markers
  off = np.minimum(abs(found - true).max((1, 2)), abs(found - true[:, ::-1]).max((1, 2)))
  assert (off == 0).mean() > exact and (off <= 1).mean() > 0.93


def test_neighbours_do_not_mind_the_order():
  markers = np.array([[[0, 0], [9, 9]], [[0, 9], [9, 0]]] * 5)
  labels = np.array([0, 1] * 5)
  queries = np.array([[[9, 8], [1, 0]], [[8, 0], [0, 9]]])
  assert pathfinder_markers.nearest_neighbours(markers, labels, queries, k=5).tolist() == [0, 1]


def test_baselines(tmp_path):
  splits = prepare(tmp_path, train=2000, validation=1000, test=1).splits
  scores = pathfinder.TASK.baselines(splits["train"], splits["validation"])
  majority = np.mean(splits["validation"].labels == (splits["train"].labels.mean() > 0.5))
  assert scores["majority class"] == majority
  assert 0.57 < scores["marker position (45-NN)"] < 0.70


def test_contact_sheet():
  tiles = np.arange(3 * 16, dtype=np.uint8).reshape(3, 4, 4)
  sheet = pathfinder.contact_sheet(tiles, columns=2, scale=2)
  assert sheet.shape == (24, 24) and sheet.dtype == np.uint8
  small = sheet[::2, ::2]
  np.testing.assert_array_equal(sheet, small.repeat(2, 0).repeat(2, 1))
  np.testing.assert_array_equal(small[1:5, 1:5], tiles[0])
  np.testing.assert_array_equal(small[1:5, 7:11], tiles[1])
  np.testing.assert_array_equal(small[7:11, 1:5], tiles[2])
  assert (small[6:, 6:] == 80).all() and (small[0] == 80).all() and (small[:, 5:7] == 80).all()


def test_pathx_is_the_same_task_at_128(tmp_path):
  assert (pathfinder.TASK.name, pathfinder.PATHX.name) == ("pathfinder", "pathx")
  assert pathfinder.PATHX.longest(OPTIONS | {"resolution": 128}) == 128 * 128
  splits = pathfinder.PATHX.prepare(
    raw_dir=None,
    cache_dir=tmp_path,
    report=lambda text: None,
    **OPTIONS | dict(resolution=128, train=2, validation=1, test=1),
  ).splits
  p = raster.published_parameters(128, "hard")
  expected = generator.generate(0, 4, seed=0, parameters=p).images
  np.testing.assert_array_equal(images(splits["train"], 128), expected[:2])
  np.testing.assert_array_equal(images(splits["test"], 128), expected[3:])
