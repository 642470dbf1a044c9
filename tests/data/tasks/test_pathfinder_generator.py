"""Scenes: how snakes grow, statistics of whole images."""

import numpy as np
import pytest

from few_images import HARD
from lra.data.tasks import pathfinder_generator as generator
from lra.data.tasks import pathfinder_markers
from lra.data.tasks import pathfinder_raster as raster


def grow(parameters, margin, count=20):
  """Target snakes and the occupancy they leave: count x (int64 [2, dashes, 5], uint8 [h, w])."""
  rng = np.array([1234], np.uint64)
  stamps = raster.make_stamps(parameters, margin)
  grown = []
  while len(grown) < count:
    occupied = np.empty((parameters.side, parameters.side), np.uint8)
    snakes = np.empty((2, parameters.contour_length, 5), np.int64)
    if generator._grow_targets(rng, parameters, stamps, occupied, snakes):
      grown.append((snakes, occupied))
  return stamps, grown


def placed_mask(stamps, dash, side):
  mask = stamps.masks[dash[0]].astype(int)
  reach = len(mask) // 2
  canvas = np.zeros((side + 2 * reach, side + 2 * reach), int)
  canvas[dash[1] : dash[1] + 2 * reach + 1, dash[2] : dash[2] + 2 * reach + 1] = mask
  return canvas[reach:-reach, reach:-reach]


@pytest.mark.parametrize("quirks", [True, False])
def test_targets_do_not_touch(quirks):
  p = raster.published_parameters(32, "hard", quirks)
  stamps, grown = grow(p, 1)
  for snakes, occupied in grown:
    expected = np.full((32, 32), 255)
    expected[1:-1, 1:-1] = 0
    for k in range(1, 14):
      for snake in snakes:
        assert (expected + placed_mask(stamps, snake[k], 32)).max() < 1.8 * 255
        expected = np.maximum(expected, placed_mask(stamps, snake[k - 1], 32))
    expected = np.maximum(expected, placed_mask(stamps, snakes[1, 13], 32))
    if not quirks:
      expected = np.maximum(expected, placed_mask(stamps, snakes[0, 13], 32))
    np.testing.assert_array_equal(occupied, expected)


@pytest.mark.parametrize("side,margin,limit", [(32, 1, 90), (128, 2, 50), (64, 1, 50)])
def test_dashes_follow_each_other(side, margin, limit):
  p = raster.published_parameters(side, "easy")
  stamps, grown = grow(p, margin)
  angles = np.concatenate([np.arange(-180, 180), np.degrees(np.arctan2(*stamps.candidates.T))])
  for snakes, _ in grown:
    apart = snakes[0, 0, 1:3] - snakes[1, 0, 1:3]
    assert abs(np.hypot(*apart) - p.seed_distance) < 1
    for snake in snakes:
      turn = np.abs(np.diff(angles[snake[:, 0]]))
      assert np.minimum(turn, 360 - turn).max() < limit + 1e-6
      stride = np.hypot(*(snake[2:, 1:3] - snake[1:-1, 1:3]).T)
      assert (stride > margin).all() and (stride < p.length + 2 * margin + 4).all()


def test_extension_follows_the_weights():
  # Occupancy too faint for collisions, so that the weights alone decide.
  stamps = raster.make_stamps(HARD, 1)
  occupied = np.random.default_rng(0).integers(0, 200, (32, 32)).astype(np.uint8)
  last, pivot = np.array([200, 16, 16, 16, 16]), np.ceil(16 + stamps.advance[200]).astype(int)
  weights = []
  for step in stamps.candidates:
    row, col = pivot + step
    near = max(
      occupied[row, col],
      occupied[row - 1, col],
      occupied[row + 1, col],
      occupied[row, col - 1],
      occupied[row, col + 1],
    )
    turn = np.arctan2(*step) - np.radians(200 - 180)
    turn = min(abs(turn), 2 * np.pi - abs(turn))
    weights.append((1 - near / 255) * np.cos(min(turn, np.pi / 2)) ** 2)
  rng, drawn = np.array([5], np.uint64), np.zeros(len(weights))
  for _ in range(20_000):
    new = np.zeros(5, np.int64)
    assert generator._extend(rng, stamps, occupied.copy(), last, new)
    assert (new[3:] == pivot).all() and (new[1:3] == pivot + stamps.candidates[new[0] - 360]).all()
    drawn[new[0] - 360] += 1
  share = np.array(weights) / sum(weights)
  assert np.all(abs(drawn / 20_000 - share) <= 4.5 * np.sqrt(share / 20_000))


@pytest.mark.parametrize("density", [0.02, 0.3, 0.45, 1.0])
def test_distractors_start_on_any_free_pixel(density):
  stamps, o = raster.make_stamps(HARD, 1), 45
  assert stamps.usable[o]
  occupied = (np.random.default_rng(3).random((32, 32)) < density).astype(np.uint8) * 77
  cells = stamps.cells[stamps.first_cell[o] : stamps.first_cell[o + 1]]
  free = [
    (row, col)
    for row, col in np.ndindex(32, 32)
    if not any(occupied[r, c] for r, c in cells + (row, col) if 0 <= r < 32 and 0 <= c < 32)
  ]
  rng = np.array([5], np.uint64)
  draws = 20_000 if free else 20
  drawn = [generator._free_pixel(rng, stamps, occupied, o) for _ in range(draws)]
  assert set(drawn) == set(free or [(-1, -1)])
  counts = np.unique(drawn, axis=0, return_counts=True)[1]
  expected = draws / len(counts)
  assert abs(counts - expected).max() <= 5 * np.sqrt(expected)


def test_markers_tell_the_label():
  scenes = generator.generate(0, 60, seed=7, parameters=HARD)
  stamps = raster.make_stamps(HARD, 1)
  occupied, snakes = np.empty((32, 32), np.uint8), np.empty((2, 14, 5), np.int64)
  seen = set()
  for i in range(60):
    state = int(generator._mix(np.uint64(7))) + i
    rng = np.array([generator._mix(np.uint64(state % 2**64))], np.uint64)
    label, _ = generator._below(rng, 2), generator._below(rng, 2)
    while not generator._grow_targets(rng, HARD, stamps, occupied, snakes):
      pass
    first = [snake[0, 1:3].tolist() for snake in snakes].index(scenes.markers[i, 0].tolist())
    last = [snake[-1, 1:3].tolist() for snake in snakes].index(scenes.markers[i, 1].tolist())
    assert (first == last) == (scenes.labels[i] == 1) and label == scenes.labels[i]
    seen.add((first, last))
  assert len(seen) == 4


@pytest.fixture(scope="module")
def hard():
  return generator.generate(0, 3000, seed=7, parameters=HARD)


def test_reference_statistics_32(hard):
  # Reference: 200 images of the published generator; margins are three of its standard errors.
  assert (hard.images == 0).mean() == pytest.approx(0.660, abs=0.008)
  assert hard.images.mean() == pytest.approx(20.2, abs=0.4)
  assert hard.images.std() == pytest.approx(51.1, abs=0.6)
  assert (hard.images[:, 0, 0] == 0).all() and (hard.images.max((1, 2)) == 255).all()
  assert hard.attempts.mean() == pytest.approx(281 - 257, abs=5)
  assert hard.distractors.mean() == pytest.approx(1.21, abs=0.2)
  shares = np.bincount(hard.distractors, minlength=6)[:5] / len(hard.labels)
  np.testing.assert_allclose(shares, np.array([47, 83, 56, 10, 4]) / 200, atol=0.1)
  assert set(hard.seeds[:, 0]) == set(range(-150, -120))
  assert set(hard.seeds[:, 1:].ravel()) == {14, 15, 16}
  assert hard.labels.mean() == pytest.approx(0.5, abs=0.03)


def test_distractors_outshine_markers(hard):
  def outshone(scenes):
    at = scenes.markers[:, 0]
    return (scenes.images[np.arange(len(at)), at[:, 0], at[:, 1]] < 255).mean()

  assert outshone(hard) == pytest.approx(0.62, abs=0.1)
  free = raster.published_parameters(32, "hard", quirks=False)
  assert outshone(generator.generate(0, 200, seed=0, parameters=free)) == 0


def test_marker_positions_are_a_shortcut(hard):
  distance = np.hypot(*(hard.markers[:, 0] - hard.markers[:, 1]).T)
  assert distance[hard.labels == 1].mean() == pytest.approx(13.3, abs=0.8)
  assert distance[hard.labels == 0].mean() == pytest.approx(12.8, abs=0.8)
  guesses = pathfinder_markers.nearest_neighbours(
    hard.markers[:2000], hard.labels[:2000], hard.markers[2000:]
  )
  assert np.mean(guesses == hard.labels[2000:]) == pytest.approx(0.643, abs=0.045)


def test_reference_statistics_128():
  # Reference: 20 images of the published generator.
  p = raster.published_parameters(128, "hard")
  scenes = generator.generate(0, 60, seed=0, parameters=p)
  assert (scenes.images == 0).mean() == pytest.approx(0.862, abs=0.008)
  assert scenes.images.mean() == pytest.approx(8.0, abs=0.5)
  assert scenes.images.std() == pytest.approx(35.8, abs=1)
  assert scenes.distractors.mean() == pytest.approx(7.75, abs=0.3)
  assert (scenes.images.max((1, 2)) == 255).all()


@pytest.mark.parametrize(
  "difficulty,contour,requested", [("easy", 6, 10), ("intermediate", 9, 6), ("hard", 14, 5)]
)
def test_difficulties(difficulty, contour, requested):
  p = raster.published_parameters(32, difficulty)
  assert (p.contour_length, p.distractor_length, p.distractors) == (
    contour,
    contour // 3,
    requested,
  )
  scenes = generator.generate(0, 50, seed=0, parameters=p)
  _, grown = grow(p, 1, count=1)
  assert grown[0][0].shape == (2, contour, 5)
  assert 0 < scenes.distractors.max() <= requested


def test_free_seeding_starts_anywhere():
  free = raster.published_parameters(32, "hard", quirks=False)
  scenes = generator.generate(0, 500, seed=0, parameters=free)
  assert np.histogram(scenes.seeds[:, 0], 8, (-180, 180))[0].min() > 25
  quadrant = (scenes.seeds[:, 1] >= 16) * 2 + (scenes.seeds[:, 2] >= 16)
  assert np.bincount(quadrant, minlength=4).min() > 75
  assert scenes.distractors.mean() > 4


def test_image_is_a_function_of_seed_and_index():
  some = generator.generate(5, 3, seed=11, parameters=HARD)
  more = generator.generate(0, 8, seed=11, parameters=HARD)
  for a, b in zip(some, more, strict=True):
    np.testing.assert_array_equal(a, b[5:])
  other = generator.generate(5, 3, seed=12, parameters=HARD)
  assert (some.images != other.images).any((1, 2)).all()
  assert len(np.unique(more.images, axis=0)) == 8


def test_workers_change_nothing():
  one, three = (
    [scenes.images for scenes in generator.stream(600, seed=3, parameters=HARD, workers=workers)]
    for workers in (1, 3)
  )
  assert len(one) > 2
  np.testing.assert_array_equal(np.concatenate(one), np.concatenate(three))
  np.testing.assert_array_equal(
    np.concatenate(one)[-50:], generator.generate(550, 50, seed=3, parameters=HARD).images
  )
