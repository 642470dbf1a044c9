import json
import os
import tarfile

import numpy as np
import pytest
from PIL import Image, ImageDraw

from lra.data.tasks import pathfinder, pathfinder_markers
from lra.data.tasks import pathfinder_generator as generator
from lra.data.tasks import pathfinder_raster as raster
from lra.data.tasks.task import SPLITS
from lra.system.errors import UserError

HARD = raster.published_parameters(32, "hard")
COLUMNS = [(32, 1), (64, 1), (128, 2), (128, 3), (256, 3)]  # (side, margin)
OPTIONS = dict(
  resolution=32, difficulty="hard", train=40, validation=5, test=5, seed=0, lra_quirks=True
)


CHECK_BALANCE = pathfinder._check_balance


@pytest.fixture(autouse=True)
def of_any_size(monkeypatch):
  """Releases of a few examples are accepted."""
  monkeypatch.setattr(pathfinder, "_check_balance", lambda *_: None)


def prepare(tmp_path, raw_dir=None, report=lambda text: None, **options):
  return pathfinder.prepare(
    raw_dir=raw_dir, cache_dir=tmp_path / "cache", report=report, **OPTIONS | options
  )


def images(examples, side=32):
  return examples.tokens.reshape(-1, side, side)


# Raster: against Pillow, and against slow re-statements.


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


# Growth.


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


# Images.


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


# Preparing without a release.


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


# Reading a release.


@pytest.fixture
def release(tmp_path):
  """32 hard images as released: the first pixel is the number of the image, text metadata."""
  folder = tmp_path / "raw/lra_release/lra_release/pathfinder32/curv_contour_length_14"
  (folder / "metadata").mkdir(parents=True)
  for batch in range(2):
    (folder / f"imgs/{batch}").mkdir(parents=True)
    lines = []
    for i in range(16):
      number = 16 * batch + i
      pixels = np.full((32, 32), 100, np.uint8)
      pixels[0, 0] = number
      Image.fromarray(pixels).save(folder / f"imgs/{batch}/sample_{i}.png")
      lines.append(f"imgs/{batch} sample_{i}.png {i} {number % 3 % 2} 1.0 14 4 2 0.5 1 1\n")
    (folder / f"metadata/{batch}.npy").write_text("".join(lines))
  return folder


def read(tmp_path, **options):
  return prepare(tmp_path, raw_dir=tmp_path / "raw", **options)


def numbers(prepared):
  return {split: images(prepared.splits[split])[:, 0, 0].tolist() for split in SPLITS}


def test_release_is_read_and_split(release, tmp_path):
  prepared = read(tmp_path)
  found = numbers(prepared)
  assert {split: len(found[split]) for split in SPLITS} == dict(train=26, validation=3, test=3)
  assert sorted(sum(found.values(), [])) == list(range(32))
  assert found["train"] != sorted(found["train"])
  for split in SPLITS:
    expected = [number % 3 % 2 for number in found[split]]
    assert prepared.splits[split].labels.tolist() == expected
    assert (images(prepared.splits[split])[:, 1:] == 100).all()
  assert prepared.source["origin"] == "released files" and prepared.source["images"] == 32
  assert prepared.source == json.loads(json.dumps(prepared.source)) == read(tmp_path).source
  other = read(tmp_path, seed=1)
  assert numbers(other) != found and other.source["sha256"] != prepared.source["sha256"]


@pytest.mark.parametrize("labels", [[0, 1] * 50_000, [1] * 200_000])
def test_half_a_release_or_one_of_one_class_is_refused(tmp_path, labels):
  CHECK_BALANCE(tmp_path, [0, 1] * 99_999)
  with pytest.raises(UserError, match="of them joined, instead of about 200,000 and a half"):
    CHECK_BALANCE(tmp_path, labels)


def test_smaller_train_split_leaves_the_others_alone(release, tmp_path):
  small, full = numbers(read(tmp_path, train=7)), numbers(read(tmp_path))
  assert small["train"] == full["train"][:7]
  assert small["validation"] == full["validation"] and small["test"] == full["test"]


def test_hash_sees_pixels_and_labels(release, tmp_path):
  before = read(tmp_path).source["sha256"]
  pixels = np.full((32, 32), 100, np.uint8)
  pixels[0, 0], pixels[9, 9] = 3, 101
  Image.fromarray(pixels).save(release / "imgs/0/sample_3.png")
  changed = read(tmp_path).source["sha256"]
  metadata = release / "metadata/0.npy"
  metadata.write_text(metadata.read_text().replace("sample_5.png 5 0", "sample_5.png 5 1"))
  assert len({before, changed, read(tmp_path).source["sha256"]}) == 3


@pytest.mark.parametrize("dtype", ["U", "S"])
def test_metadata_may_be_a_real_array(release, tmp_path, dtype):
  before = numbers(read(tmp_path))
  for batch in range(2):
    file = release / f"metadata/{batch}.npy"
    np.save(file, np.array([line.split() for line in file.read_text().splitlines()], dtype))
    assert file.read_bytes().startswith(b"\x93NUMPY")
  assert numbers(read(tmp_path)) == before


@pytest.mark.parametrize("folder", ["", "lra_release", "pathfinder"])
def test_release_may_lie_less_deep(release, tmp_path, folder):
  (tmp_path / "raw" / folder).mkdir(exist_ok=True)
  os.rename(release.parent, tmp_path / "raw" / folder / "pathfinder32")
  assert read(tmp_path).source["origin"] == "released files"


def test_release_is_read_from_its_archive(release, tmp_path):
  before = read(tmp_path)
  packed = tmp_path / "packed"
  packed.mkdir()
  with tarfile.open(packed / "lra_release.gz", "w:gz") as tar:
    tar.add(tmp_path / "raw/lra_release", "lra_release")
  prepared = prepare(tmp_path, raw_dir=packed)
  assert numbers(prepared) == numbers(before)
  assert prepared.source["sha256"] == before.source["sha256"]
  easy = prepare(tmp_path, raw_dir=packed, difficulty="easy")
  assert easy.source["origin"] == "generated"
  assert not list((tmp_path / "cache").iterdir())
  (release / "imgs/0/sample_3.png").write_bytes(b"")
  with tarfile.open(packed / "lra_release.gz", "w:gz") as tar:
    tar.add(tmp_path / "raw/lra_release", "lra_release")
  with pytest.raises(UserError, match="packed/lra_release.gz/pathfinder32/.*/sample_3.png: empty"):
    prepare(tmp_path, raw_dir=packed)


def test_what_a_mac_adds_is_no_metadata(release, tmp_path):
  before = read(tmp_path).source
  (release / "metadata/._0.npy").write_bytes(b"\x00\x05\x16\x07\xff")
  assert read(tmp_path).source == before


def test_release_without_this_difficulty_is_not_used(release, tmp_path):
  lines = []
  assert read(tmp_path, difficulty="easy", report=lines.append).source["origin"] == "generated"
  assert "curv_baseline" in lines[0]
  lines.clear()
  assert read(tmp_path, lra_quirks=False, report=lines.append).source["origin"] == "generated"
  assert "lra_quirks" in lines[0]


def truncate(path):
  path.write_bytes(path.read_bytes()[:60])


def corrupt(path):
  data = bytearray(path.read_bytes())
  data[50] ^= 255
  path.write_bytes(data)


@pytest.mark.parametrize(
  "damage,message",
  [
    (lambda path: path.write_bytes(b""), "empty file"),
    (lambda path: path.write_bytes(b"GIF? no"), "not a readable PNG"),
    (truncate, "not a readable PNG"),
    (corrupt, "not a readable PNG"),
    (lambda path: path.unlink(), "no such file"),
    (lambda path: Image.new("L", (32, 31)).save(path), "32 x 31 L instead"),
    (lambda path: Image.new("RGB", (32, 32)).save(path), "32 x 32 RGB instead"),
  ],
)
def test_damaged_image(release, tmp_path, damage, message):
  damage(release / "imgs/1/sample_4.png")
  with pytest.raises(UserError, match=message) as error:
    read(tmp_path)
  assert str(release / "imgs/1/sample_4.png") in str(error.value)
  assert str(release / "metadata/1.npy:5") in str(error.value)
  assert "\n" not in str(error.value)


@pytest.mark.parametrize(
  "line", ["imgs/1 sample_2.png 2", "imgs/1 sample_2.png 2 7 1.0 14", "", "?"]
)
def test_malformed_metadata_line(release, tmp_path, line):
  file = release / "metadata/1.npy"
  lines = file.read_text().splitlines()
  lines[2] = line
  file.write_text("\n".join(lines))
  with pytest.raises(UserError, match="1.npy:3: "):
    read(tmp_path)


@pytest.mark.parametrize("content", [b"\x93NUMPY\x01\x00", b"\xff\xfe\xfd"])
def test_unreadable_metadata(release, tmp_path, content):
  (release / "metadata/0.npy").write_bytes(content)
  with pytest.raises(UserError, match="0.npy: unreadable"):
    read(tmp_path)


def test_known_empty_file_is_skipped(release, tmp_path):
  easy = release.parent / "curv_baseline"
  os.rename(release, easy)
  metadata = easy / "metadata/0.npy"
  metadata.write_text(metadata.read_text().replace("sample_7.png", "sample_172.png"))
  (easy / "imgs/0/sample_172.png").write_bytes(b"")
  lines = []
  prepared = read(tmp_path, difficulty="easy", report=lines.append)
  assert prepared.source["images"] == 31
  assert prepared.source["skipped"] == ["imgs/0/sample_172.png"]
  assert sorted(sum(numbers(prepared).values(), [])) == [n for n in range(32) if n != 7]
  assert any("sample_172.png is empty" in line for line in lines)


def test_no_metadata(release, tmp_path):
  for file in (release / "metadata").iterdir():
    file.unlink()
  with pytest.raises(UserError, match="no .npy files"):
    read(tmp_path)


# Baselines and pictures.


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
