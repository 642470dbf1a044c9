"""Reading the images of the LRA release."""

import json
import os
import tarfile

import numpy as np
import pytest
from PIL import Image

from few_images import images, prepare
from lra.data.tasks import pathfinder
from lra.data.tasks.task import SPLITS
from lra.system.errors import UserError

CHECK_BALANCE = pathfinder._check_balance


@pytest.fixture(autouse=True)
def of_any_size(monkeypatch):
  """Releases of a few examples are accepted."""
  monkeypatch.setattr(pathfinder, "_check_balance", lambda *_: None)


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
