"""Dashes, masks, markers, seeding: against Pillow, and against slow re-statements."""

import numpy as np
import pytest
from PIL import Image, ImageDraw

from lra.data.tasks import pathfinder_raster as raster

COLUMNS = [(32, 1), (64, 1), (128, 2), (128, 3), (256, 3)]  # (side, margin)


def pil_line(side, start, end, width):
  image = Image.new("L", (side, side))
  ImageDraw.Draw(image).line([tuple(start[::-1]), tuple(end[::-1])], fill=255, width=width)
  return np.asarray(image)


@pytest.mark.parametrize("side,margin", COLUMNS)
@pytest.mark.parametrize("degree", [-180, -121, -67, 0, 13, 45, 90])
def test_dash_and_mask(side, margin, degree):
  p = raster.published_parameters(side, "hard")
  angle = degree * np.pi / 180
  reach = p.length + int(np.ceil(p.thickness)) + margin
  fine = 4 * reach + 1
  end = [int(np.ceil(2 * reach + 2 * p.length * f(angle))) for f in (np.sin, np.cos)]
  line = pil_line(fine, (2 * reach, 2 * reach), end, int(2 * p.thickness))
  fat = np.zeros_like(line)
  on = np.argwhere(line)
  for y, x in np.ndindex(fine, fine):
    fat[y, x] = 255 * (((on - (y, x)) ** 2).sum(1).min() <= 4 * margin**2)
  small = (2 * reach + 1, 2 * reach + 1)
  dash, mask = raster.draw_dash(angle, p, margin)
  for stamp, canvas in ((dash, line), (mask, fat)):
    expected = Image.fromarray(canvas).resize(small, Image.Resampling.LANCZOS)
    np.testing.assert_array_equal(stamp, np.asarray(expected))


@pytest.mark.parametrize("side", [32, 128])
@pytest.mark.parametrize("where", [(16, 16), (0, 9), (31, 2), (1, 30)])
def test_marker(side, where):
  radius = raster.published_parameters(side, "hard").marker_radius
  y, x = np.ogrid[: 2 * side, : 2 * side]
  disk = (y - 2 * where[0]) ** 2 + (x - 2 * where[1]) ** 2 <= (2 * radius) ** 2
  canvas = Image.fromarray(disk.astype(np.uint8) * 255)
  expected = canvas.resize((side, side), Image.Resampling.LANCZOS)
  image = np.zeros((side, side))
  raster.mark(image, raster.lanczos_weights(2 * side, side), *where, radius)
  np.testing.assert_array_equal(image, np.asarray(expected) / 255)


@pytest.mark.parametrize(
  "side,margin,degrees,pixels",
  [(32, 1, 30, 7.8), (64, 1, 95, 159), (128, 2, 354, 1811), (128, 3, 360, 1642)],
)
def test_published_seeding_is_restricted(side, margin, degrees, pixels):
  # Reference: counted with OpenCV's dilation, the origin of the restriction.
  starts = raster.make_stamps(raster.published_parameters(side, "hard"), margin).starts
  assert len(starts) == degrees
  assert (starts[:, 3] * starts[:, 4]).mean() == pytest.approx(pixels, rel=0.005)
  if side == 32:
    assert (starts[:, 0] - 180).tolist() == list(range(-150, -120))
    assert starts[:, 1:3].min() == 14 and (starts[:, 1:3] + starts[:, 3:]).max() == 17


@pytest.mark.parametrize("side,margin", COLUMNS)
def test_free_seeding_is_not(side, margin):
  p = raster.published_parameters(side, "hard", quirks=False)
  stamps = raster.make_stamps(p, margin)
  assert stamps.usable.all() and len(stamps.starts) == 360
  inner = side - 2 * p.padding
  reach = p.length + 2 * margin + 1
  assert (stamps.starts[:, 3:] >= inner - reach).all()
