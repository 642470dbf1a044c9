"""Parameters of the Pathfinder generator and the stamps it pastes: dashes, their masks, markers.

Re-states the raster semantics of drewlinsley/pathfinder at ab9c130: lines as PIL draws them on a
canvas of twice the resolution, reduced by PIL's 8-bit Lanczos filter. A dash depends on its
orientation alone, and orientations come from a finite set, so all of them are drawn beforehand.
"""

import functools
import math
from typing import NamedTuple

import numpy as np
from numba import njit
from PIL import Image, ImageDraw
from scipy import ndimage

CONTOUR_LENGTHS = {"easy": 6, "intermediate": 9, "hard": 14}
SCALE = 2  # anti-aliasing: canvas pixels per image pixel
_BITS = 22  # fixed-point digits of PIL's 8-bit resampling weights


class Parameters(NamedTuple):
  """One column of the published table. Lengths and distances are pixels of the image."""

  side: int
  padding: int  # border that counts as occupied
  margins: tuple[int, int]  # half the gap between dashes; each image draws one of the two
  seed_distance: int  # between the first ends of the two target snakes
  marker_radius: float
  length: int  # of a dash
  thickness: float
  continuity: float  # turns between dashes stay below 90 / continuity degrees
  target_contrast: float
  distractor_contrast: float
  contour_length: int  # dashes of a target snake
  distractor_length: int  # dashes of a distractor
  distractors: int  # requested, not all of them find room
  quirks: bool


_PUBLISHED = {  # side: padding .. continuity, paddle and snake contrast, dashes of all distractors
  32: (1, (1, 1), 7, 1.5, 2, 0.5, 1.0, 0.75, 2.0, 20),
  64: (1, (1, 1), 12, 2.5, 5, 1.0, 1.8, 1.0, 0.8, 22),
  128: (1, (2, 3), 20, 3.0, 5, 1.5, 1.8, 1.0, 0.9, 35),
  256: (22, (3, 3), 27, 5.0, 5, 2.0, 1.8, 1.0, 1.0, 30),
}


def published_parameters(side: int, difficulty: str, quirks: bool = True) -> Parameters:
  """The values LRA documents for this image side and difficulty; KeyError for others.

  Distractors are published brighter than targets, because the paddle contrast is applied to
  targets alone; without `quirks` both are equally bright.
  """
  *geometry, paddle_contrast, snake_contrast, dashes = _PUBLISHED[side]
  target = paddle_contrast * snake_contrast
  contour = CONTOUR_LENGTHS[difficulty]
  return Parameters(
    side,
    *geometry,
    target,
    snake_contrast if quirks else target,
    contour,
    contour // 3,
    dashes // (contour // 3),
    quirks,
  )


class Stamps(NamedTuple):
  """Everything about the dashes of one margin. Orientation o is an index: 0..359 are the whole
  degrees -180..179 of a seed, 360 + c points from a pivot to candidate c of the next head."""

  targets: np.ndarray  # float32 [o, s, s]; brightness of a target's dash, its start in the centre
  distractors: np.ndarray  # float32 [o, s, s]; that of a distractor's
  masks: np.ndarray  # uint8 [o, s, s]; the same dash fattened by the margin
  heads: np.ndarray  # float64 [360, 2]; tail -> head of a seed; rounded up on arrival
  pivots: np.ndarray  # float64 [360, 2]; head -> pivot, `margin` behind the tail
  advance: np.ndarray  # float64 [o, 2]; pivot -> pivot of the next dash
  candidates: np.ndarray  # int64 [c, 2]; pivot -> possible next heads
  turns: np.ndarray  # float64 [o, c]; weight of turning from o to candidate c
  halo: np.ndarray  # int64 [k, 2]; disk of radius margin
  cells: np.ndarray  # int64 [m, 2]; tail -> pixels that must be free for a seed, all degrees
  first_cell: np.ndarray  # int64 [361]; those of degree o are cells[first_cell[o]:first_cell[o+1]]
  usable: np.ndarray  # bool [360]; whether a distractor may start with this degree
  starts: np.ndarray  # int64 [d, 5]; o, top, left, height, width: where the first tail may lie


def lanczos_weights(size: int, target: int) -> np.ndarray:
  """PIL's fixed-point weights for resizing `size` pixels to `target`. int64 [target, size]"""
  scale = size / target
  weights = np.zeros((target, size))
  for i in range(target):
    centre = (i + 0.5) * scale
    low, high = max(int(centre - 3 * scale + 0.5), 0), min(int(centre + 3 * scale + 0.5), size)
    x = (np.arange(low, high) - centre + 0.5) / scale
    taps = np.where((x >= -3) & (x < 3), np.sinc(x) * np.sinc(x / 3), 0)
    weights[i, low:high] = taps / taps.sum()
  return np.trunc(weights * (1 << _BITS) + np.copysign(0.5, weights)).astype(np.int64)


def reduce(image: np.ndarray, size: int) -> np.ndarray:
  """A square image resized by PIL's Lanczos filter. uint8 [n, n] -> uint8 [size, size]"""
  return np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling.LANCZOS))


def disk(radius: int) -> np.ndarray:
  """Offsets (row, col) within `radius` of the origin. int64 [k, 2]"""
  grid = np.mgrid[-radius : radius + 1, -radius : radius + 1].reshape(2, -1).T
  return np.ascontiguousarray(grid[(grid**2).sum(1) <= radius**2])


def _moves(angles: np.ndarray, distance: int) -> np.ndarray:
  """Displacements (row, col); the sum with the start is rounded up by who moves. [n, 2]"""
  return np.array([[distance * math.sin(a), distance * math.cos(a)] for a in angles])


def _reverse(angle: np.ndarray) -> np.ndarray:
  return np.where(angle < 0, angle + np.pi, angle - np.pi)


def draw_dash(angle: float, parameters: Parameters, margin: int) -> tuple[np.ndarray, np.ndarray]:
  """A dash that starts in the centre, and its mask. uint8 [s, s] twice"""
  reach = parameters.length + math.ceil(parameters.thickness) + margin
  centre, side = reach * SCALE, 2 * reach * SCALE + 1
  row, col = np.ceil(centre + _moves(np.array([angle]), parameters.length * SCALE)[0])
  canvas = Image.new("L", (side, side))
  pen, width = ImageDraw.Draw(canvas), round(parameters.thickness * SCALE)
  pen.line([(centre, centre), (int(col), int(row))], fill=255, width=width)
  line, radius = np.asarray(canvas), margin * SCALE
  round_brush = np.hypot(*np.ogrid[-radius : radius + 1, -radius : radius + 1]) <= radius
  fat = ndimage.maximum_filter(line, footprint=round_brush, mode="constant")
  return reduce(line, 2 * reach + 1), reduce(fat, 2 * reach + 1)


@functools.cache
def make_stamps(parameters: Parameters, margin: int) -> Stamps:
  """The tables of one margin.

  Published seeding tests the pixels of the fully opaque part of a dash's mask, one pixel too far
  down and right, and cannot use a degree at all where some corner of the image would see only
  pixels outside it. With `quirks` off a seed needs the dash's mask to be free, nothing else.
  """
  p, step = parameters, parameters.length + margin
  degrees = np.arange(-180, 180) * np.pi / 180
  arc = np.arange(math.ceil(2 * np.pi * step)) / step
  rim = np.floor(step * np.stack([np.sin(arc), np.cos(arc)], 1)).astype(np.int64)
  candidates = np.unique(rim, axis=0)
  angles = np.concatenate([degrees, np.arctan2(candidates[:, 0], candidates[:, 1])])
  apart = np.abs(angles[:, None] - angles[None, 360:])
  apart = np.minimum(np.minimum(apart, 2 * np.pi - apart) * p.continuity, np.pi / 2)
  drawn = np.concatenate([degrees, _reverse(angles[360:])])  # extensions point back to the pivot
  lines, masks = map(np.stack, zip(*(draw_dash(a, p, margin) for a in drawn), strict=True))

  edge = 2 * p.seed_distance if p.quirks else p.padding
  cells, usable, starts = [], np.ones(360, bool), []
  for o in range(360):
    if p.quirks:
      cell = np.argwhere(masks[o] == 255) - masks.shape[1] // 2 + 1
      cell = cell[np.abs(cell).max(1) <= step]
      signs = [(1, 1), (1, -1), (-1, 1), (-1, -1)]
      usable[o] = all((cell * sign >= 0).all(1).any() for sign in signs)
    else:
      cell = np.argwhere(masks[o] >= 0.8 * 255) - masks.shape[1] // 2
    cells.append(cell)
    if usable[o]:
      corner = edge - cell.min(0)
      room = p.side - edge - cell.max(0) - corner
      if room.min() > 0:
        starts.append([o, *corner, *room])
  return Stamps(
    targets=(lines / 255 * p.target_contrast).astype(np.float32),
    distractors=(lines / 255 * p.distractor_contrast).astype(np.float32),
    masks=masks,
    heads=_moves(degrees, p.length),
    pivots=_moves(_reverse(degrees), step),
    advance=_moves(angles, p.length + 2 * margin),
    candidates=candidates,
    turns=np.cos(apart) ** 2,
    halo=disk(margin),
    cells=np.ascontiguousarray(np.concatenate(cells)),
    first_cell=np.cumsum([0] + [len(c) for c in cells]),
    usable=usable,
    starts=np.array(starts),
  )


@njit
def paste(image, stamps, dash):
  """Raises the image to the stamp of a dash (orientation, row, col, ...), clipped to the image."""
  stamp, row, col = stamps[dash[0]], dash[1], dash[2]
  reach = len(stamp) // 2
  for r in range(max(row - reach, 0), min(row + reach + 1, len(image))):
    for c in range(max(col - reach, 0), min(col + reach + 1, len(image))):
      image[r, c] = max(image[r, c], stamp[r - row + reach, c - col + reach])


@njit
def mark(image, weights, row, col, radius):
  """Raises the image to a disk of brightness 1; weights are lanczos_weights(side * SCALE, side)."""
  side, fine, half = len(image), len(image) * SCALE, 1 << (_BITS - 1)
  inner, reach = int(radius * SCALE), int(radius) + 4
  low, high = max(row * SCALE - inner, 0), min(row * SCALE + inner + 1, fine)
  left, right = max(col - reach, 0), min(col + reach + 1, side)
  rows = np.zeros((fine, right - left), np.int64)  # the disk, reduced along its rows
  for y in range(low, high):
    chord = int(math.sqrt((radius * SCALE) ** 2 - (y - row * SCALE) ** 2))
    for c in range(left, right):
      total = half
      for x in range(max(col * SCALE - chord, 0), min(col * SCALE + chord + 1, fine)):
        total += weights[c, x] * 255
      rows[y, c - left] = min(max(total >> _BITS, 0), 255)
  for r in range(max(row - reach, 0), min(row + reach + 1, side)):
    for c in range(left, right):
      total = half
      for y in range(low, high):
        total += weights[r, y] * rows[y, c - left]
      image[r, c] = max(image[r, c], min(max(total >> _BITS, 0), 255) / 255)
