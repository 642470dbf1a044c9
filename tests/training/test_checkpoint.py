"""Checkpoints: the newest one, whole or not at all, and what a run says when there is none to be had."""

import errno
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tiny
from lra.system import devices
from lra.system.errors import UserError
from lra.training import checkpoint


def tree(value, dtype=jnp.float32):
  mesh = devices.data_mesh()
  made = {"a": jnp.full((8, 2), value, dtype), "b": {"step": jnp.int32(value)}}
  return {
    "a": jax.device_put(made["a"], devices.along(mesh, 0)),
    "b": jax.device_put(made["b"], devices.replicated(mesh)),
  }


@pytest.fixture
def checkpoints(tmp_path):
  made = checkpoint.Checkpoints(tmp_path / "checkpoints")
  yield made
  made.close()


def test_newest_is_kept_and_loaded_with_dtypes_and_shardings(checkpoints, tmp_path):
  assert checkpoints.latest is None
  for step in (1, 2, 5):
    checkpoints.save(step, tree(step, jnp.bfloat16))
    assert checkpoints.latest == step
  like = tree(0, jnp.bfloat16)
  loaded = checkpoint.Checkpoints(tmp_path / "checkpoints").load(like)
  for got, wanted, shape in zip(*map(jax.tree.leaves, (loaded, tree(5), like)), strict=True):
    np.testing.assert_array_equal(np.array(got, np.float32), np.array(wanted, np.float32))
    assert got.dtype == shape.dtype and got.sharding == shape.sharding
  kept = [p for p in (tmp_path / "checkpoints").iterdir() if any(c.isdigit() for c in p.name)]
  assert len(kept) == 1


def test_same_step_is_not_written_twice(checkpoints):
  checkpoints.save(3, tree(3))
  checkpoints.save(3, tree(4))
  assert int(checkpoints.load(tree(0))["b"]["step"]) == 3


def test_clear_removes_all_even_after_a_kill_in_the_middle(tmp_path):
  for _ in range(2):
    made = checkpoint.Checkpoints(tmp_path / "checkpoints")
    made.save(1, tree(1))
    left = tmp_path / "checkpoints.deleted"
    left.mkdir()
    (left / "half").write_text("")
    made.clear()
    assert list(tmp_path.iterdir()) == []


def test_full_disk_is_one_line_and_the_earlier_checkpoint_stays(checkpoints, tmp_path, monkeypatch):
  checkpoints.save(1, tree(1))

  def full(*_, **__):
    raise OSError(errno.ENOSPC, "No space left on device")

  with monkeypatch.context() as patch:
    patch.setattr(type(checkpoints._orbax), "save", full)
    with pytest.raises(UserError, match="step 2 .*No space left.*free some space.*kept: |step 1"):
      checkpoints.save(2, tree(2))
  assert checkpoints.latest == 1 and float(checkpoints.load(tree(0))["a"][0, 0]) == 1
  checkpoints.save(2, tree(2))
  assert checkpoints.latest == 2


def test_run_continues_after_a_full_disk(space, whole, tmp_path, monkeypatch):
  """The third save fails; the same command then comes to the result of an undisturbed run."""
  saved, save = [], checkpoint.ocp.training.Checkpointer.save

  def full(self, step, tree):
    saved.append(step)
    if len(saved) == 3:
      raise OSError(errno.ENOSPC, "No space left on device")
    return save(self, step, tree)

  with monkeypatch.context() as patch:
    patch.setattr(checkpoint.ocp.training.Checkpointer, "save", full)
    with pytest.raises(UserError, match="cannot write the checkpoint of step 24 .*step 16"):
      tiny.run(space, tmp_path)
  assert saved == [8, 16, 24]
  result, output = tiny.run(space, tmp_path)
  assert "continuing after step 16 of 24" in output
  assert tiny.comparable(result) == tiny.comparable(whole[1])
  assert tiny.metrics(tmp_path) == tiny.metrics(whole[0])


def _empty_files(folder):
  for path in folder.rglob("*"):
    if path.is_file() and path.stat().st_size:
      path.write_bytes(b"")


def _no_arrays(folder):
  for path in folder.rglob("ocdbt.process_0"):
    shutil.rmtree(path)


@pytest.mark.usefixtures("one_device")
@pytest.mark.parametrize("damage", [_empty_files, _no_arrays])
def test_damaged_checkpoint_is_a_user_error(space, tmp_path, damage):
  tiny.run(space, tmp_path, tiny.After(4))
  damage(tmp_path / "checkpoints")
  process = tiny.start(space, "--workdir", str(tmp_path))
  _, errors = process.communicate(timeout=120)
  (line,) = tiny.said(errors)
  assert process.returncode == 1 and len(line) < 500
  assert f"in {tmp_path / 'checkpoints'} cannot be read (" in line
  assert line.endswith("); delete that folder to start the run anew")


def test_a_flipped_byte_anywhere_is_found(checkpoints, tmp_path):
  checkpoints.save(3, tree(3))
  folder = tmp_path / "checkpoints/3"
  files = [path for path in folder.rglob("*") if path.is_file()]
  assert folder / checkpoint.SEAL in files and len(files) > 3
  for path in files:
    whole = path.read_bytes()
    for at in {0, len(whole) // 2, len(whole) - 1} if whole else ():
      path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
      with pytest.raises(UserError, match="step 3 in .* cannot be read .*damaged.*; mend it"):
        checkpoints.load(tree(0), "mend it")
    path.write_bytes(whole)
  assert int(checkpoints.load(tree(0))["b"]["step"]) == 3
  (folder / checkpoint.SEAL).unlink()  # as earlier revisions left a checkpoint
  assert int(checkpoints.load(tree(0))["b"]["step"]) == 3
