"""Draws Pathfinder images (Linsley et al., 2018; the two-snake version that Long Range Arena used).

Re-states the distribution of drewlinsley/pathfinder at ab9c130, from tables of pre-drawn stamps
(pathfinder_raster.py). Image i is a function of (parameters, seed, i) alone.

Two target snakes grow dash by dash from seeds at a fixed distance, without touching; an attempt
that gets stuck starts anew. Short distractors follow where there is room. Two markers sit on both
ends of one snake (label 1), or on the first end of one and the last end of the other (label 0).

Published quirks, kept by `parameters.quirks`: first ends only where the restricted seeding allows
them (make_stamps), no occupancy check for second seeds, distractors that may cross the last dash
of snake 0, and distractors brighter than targets (published_parameters).
"""

import collections
import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from numba import njit

from lra.data.tasks.pathfinder_raster import (
  SCALE,
  Parameters,
  lanczos_weights,
  make_stamps,
  mark,
  paste,
)
from lra.system import cores

VERSION = 1  # changes whenever a seed comes to stand for other images
_TRIES = 3  # to place a seed or an extension
_DISTRACTOR_TRIES = 5
_FREE = 76  # occupancy is in units of 1/255; up to 0.3 a pixel can take a seed
_COLLISION = 459  # a dash collides where its mask and the occupancy add up to 1.8


class Scenes(NamedTuple):
  """n images, their labels, and statistics of their drawing; positions are (row, col)."""

  images: np.ndarray  # uint8 [n, side, side]
  labels: np.ndarray  # uint8 [n]
  markers: np.ndarray  # int32 [n, 2, 2]; a first end, then a last end
  seeds: np.ndarray  # int32 [n, 3]; degree and tail of the first dash of snake 0
  attempts: np.ndarray  # int32 [n]; at the target snakes, counted once the first seed is placed
  distractors: np.ndarray  # int32 [n]; how many found room


def generate(first: int, count: int, *, seed: int, parameters: Parameters) -> Scenes:
  """Images first .. first + count - 1 of the endless series that `seed` stands for."""
  side = parameters.side
  scenes = Scenes(
    images=np.zeros((count, side, side), np.uint8),
    labels=np.zeros(count, np.uint8),
    markers=np.zeros((count, 2, 2), np.int32),
    seeds=np.zeros((count, 3), np.int32),
    attempts=np.zeros(count, np.int32),
    distractors=np.zeros(count, np.int32),
  )
  stamps = tuple(make_stamps(parameters, margin) for margin in parameters.margins)
  weights = lanczos_weights(side * SCALE, side)
  _draw(first, np.uint64(seed), parameters, stamps, weights, scenes)
  return scenes


def stream(
  count: int, *, seed: int, parameters: Parameters, workers: int | None = None
) -> Iterator[Scenes]:
  """Images 0 .. count - 1 in order, in chunks of well under a second. One thread per worker."""
  size = max(2**18 // parameters.side**2, 4)

  def draw(first):
    return generate(first, min(size, count - first), seed=seed, parameters=parameters)

  workers = workers or len(cores.available())
  with ThreadPoolExecutor(workers) as pool:
    ahead = collections.deque()  # a few chunks, so that little is drawn in vain after an interrupt
    for first in range(0, count, size):
      ahead.append(pool.submit(draw, first))
      if len(ahead) > 2 * workers:
        yield ahead.popleft().result()
    while ahead:
      yield ahead.popleft().result()


@njit
def _mix(z):
  """The output function of splitmix64."""
  z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
  z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
  return z ^ (z >> np.uint64(31))


@njit
def _uniform(rng):
  rng[0] += np.uint64(0x9E3779B97F4A7C15)
  return (_mix(rng[0]) >> np.uint64(11)) * 2.0**-53


@njit
def _below(rng, n):
  return int(_uniform(rng) * n)


@njit
def _is_inside(image, row, col):
  return 0 <= row < image.shape[0] and 0 <= col < image.shape[1]


@njit
def _is_free(occupied, s, o, row, col):
  """Whether a seed of degree o may start here; what lies outside the image does not count."""
  for k in range(s.first_cell[o], s.first_cell[o + 1]):
    r, c = row + s.cells[k, 0], col + s.cells[k, 1]
    if _is_inside(occupied, r, c) and occupied[r, c] > _FREE:
      return False
  return True


@njit
def _collides(occupied, masks, dash):
  mask, row, col = masks[dash[0]], dash[1], dash[2]
  reach = len(mask) // 2
  for r in range(max(row - reach, 0), min(row + reach + 1, len(occupied))):
    for c in range(max(col - reach, 0), min(col + reach + 1, len(occupied))):
      if np.int64(occupied[r, c]) + mask[r - row + reach, c - col + reach] >= _COLLISION:
        return True
  return False


@njit
def _place_seed(occupied, s, o, row, col, dash):
  """Writes the first dash of a snake; False where its head or pivot leaves the image."""
  head_row, head_col = math.ceil(row + s.heads[o, 0]), math.ceil(col + s.heads[o, 1])
  pivot_row = math.ceil(head_row + s.pivots[o, 0])
  pivot_col = math.ceil(head_col + s.pivots[o, 1])
  dash[0], dash[1], dash[2], dash[3], dash[4] = o, row, col, pivot_row, pivot_col
  return _is_inside(occupied, head_row, head_col) and _is_inside(occupied, pivot_row, pivot_col)


@njit
def _extend(rng, s, occupied, last, new):
  """Writes the dash that follows `last` and occupies the place of `last`; False when stuck."""
  o = last[0]
  row, col = math.ceil(last[3] + s.advance[o, 0]), math.ceil(last[4] + s.advance[o, 1])
  cumulative = np.empty(len(s.candidates))
  total = 0.0
  for k in range(len(s.candidates)):
    r, c = row + s.candidates[k, 0], col + s.candidates[k, 1]
    if s.turns[o, k] > 1e-9 and _is_inside(occupied, r, c):
      near = np.uint8(0)
      for h in range(len(s.halo)):
        y, x = r + s.halo[h, 0], c + s.halo[h, 1]
        if _is_inside(occupied, y, x):
          near = max(near, occupied[y, x])
      total += s.turns[o, k] * (1 - near / 255)
    cumulative[k] = total
  if total < 1e-4:
    return False
  for _ in range(_TRIES):
    threshold = _uniform(rng) * total
    k = 0
    while cumulative[k] < threshold or cumulative[k] == 0:
      k += 1
    new[0], new[1], new[2] = 360 + k, row + s.candidates[k, 0], col + s.candidates[k, 1]
    new[3], new[4] = row, col
    if not _collides(occupied, s.masks, new):
      paste(occupied, s.masks, last)
      return True
  return False


@njit
def _grow_targets(rng, p, s, occupied, snakes):
  """One attempt at both target snakes. snakes: int64 [2, contour_length, 5], a dash being
  (orientation, row and col of its stamp, row and col of its pivot)."""
  occupied[:] = 255
  occupied[p.padding : p.side - p.padding, p.padding : p.side - p.padding] = 0
  while True:  # as published, up to rejections before anything is drawn
    start = s.starts[_below(rng, len(s.starts))]
    row, col = start[1] + _below(rng, start[3]), start[2] + _below(rng, start[4])
    if _place_seed(occupied, s, start[0], row, col, snakes[0, 0]):
      break
  for attempt in range(_TRIES + 1):
    if attempt == _TRIES:
      return False
    o, angle = _below(rng, 360), _below(rng, 360) * math.pi / 180
    row2 = round(row + p.seed_distance * math.sin(angle))
    col2 = round(col + p.seed_distance * math.cos(angle))
    if _place_seed(occupied, s, o, row2, col2, snakes[1, 0]):
      if p.quirks or _is_free(occupied, s, o, row2, col2):
        break
  for k in range(1, p.contour_length):
    for n in range(2):
      if not _extend(rng, s, occupied, snakes[n, k - 1], snakes[n, k]):
        return False
  if not p.quirks:
    paste(occupied, s.masks, snakes[0, p.contour_length - 1])
  paste(occupied, s.masks, snakes[1, p.contour_length - 1])
  return True


@njit
def _free_pixel(rng, s, occupied, o):
  """Any pixel where a seed of degree o may start, each equally likely, or (-1, -1)."""
  side = len(occupied)
  for _ in range(100):  # a shortcut: the full search below would do alone
    row, col = _below(rng, side), _below(rng, side)
    if _is_free(occupied, s, o, row, col):
      return row, col
  free = [i for i in range(side**2) if _is_free(occupied, s, o, i // side, i % side)]
  if len(free) == 0:
    return -1, -1
  return divmod(free[_below(rng, len(free))], side)


@njit
def _grow_distractor(rng, p, s, occupied, snake):
  """One attempt at a distractor; leaves traces in `occupied` even when it fails."""
  available = 0
  for value in occupied.flat:
    available += value <= _FREE
  for attempt in range(_TRIES + 1):
    o = _below(rng, 360)
    if attempt == _TRIES or not s.usable[o] or available < 0.01 * occupied.size:
      return False
    row, col = _free_pixel(rng, s, occupied, o)
    if row < 0:
      return False
    if _place_seed(occupied, s, o, row, col, snake[0]):
      break
  for k in range(1, p.distractor_length):
    if not _extend(rng, s, occupied, snake[k - 1], snake[k]):
      return False
  paste(occupied, s.masks, snake[p.distractor_length - 1])
  return True


@njit(nogil=True)
def _draw(first, seed, p, stamps, weights, scenes):
  rng = np.empty(1, np.uint64)
  canvas = np.empty((p.side, p.side))
  occupied = np.empty((p.side, p.side), np.uint8)
  snakes = np.empty((2, p.contour_length, 5), np.int64)
  distractor = np.empty((p.distractor_length, 5), np.int64)
  for i in range(len(scenes.labels)):
    rng[0] = _mix(_mix(seed) + np.uint64(first + i))
    label, s = _below(rng, 2), stamps[_below(rng, 2)]
    scenes.labels[i] = label
    scenes.attempts[i] = 1
    while not _grow_targets(rng, p, s, occupied, snakes):
      scenes.attempts[i] += 1
    scenes.seeds[i, 0] = snakes[0, 0, 0] - 180
    scenes.seeds[i, 1], scenes.seeds[i, 2] = snakes[0, 0, 1], snakes[0, 0, 2]
    canvas[:] = 0
    for n in range(2):
      for k in range(p.contour_length):
        paste(canvas, s.targets, snakes[n, k])
    for _ in range(p.distractors):
      for _ in range(_DISTRACTOR_TRIES):
        trial = occupied.copy()
        if _grow_distractor(rng, p, s, trial, distractor):
          occupied = trial
          scenes.distractors[i] += 1
          for k in range(p.distractor_length):
            paste(canvas, s.distractors, distractor[k])
          break
    origin = _below(rng, 2)
    terminal = origin if label == 1 else 1 - origin
    for m in range(2):
      end = snakes[origin, 0] if m == 0 else snakes[terminal, p.contour_length - 1]
      scenes.markers[i, m, 0], scenes.markers[i, m, 1] = end[1], end[2]
      mark(canvas, weights, end[1], end[2], p.marker_radius)
    brightness = 255 / canvas.max()
    for r in range(p.side):
      for c in range(p.side):
        scenes.images[i, r, c] = int(canvas[r, c] * brightness + 0.5)
