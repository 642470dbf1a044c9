"""One device and eight give the same numbers; what the number of devices cannot divide is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tiny
from lra.system import devices
from lra.system.errors import UserError


def test_mesh_is_all_devices_on_one_axis():
  mesh = devices.data_mesh()
  assert mesh.shape == {"data": jax.device_count()}
  x = jax.device_put(np.zeros((2, 16)), devices.along(mesh, 1))
  assert x.sharding.shard_shape(x.shape) == (2, 16 // jax.device_count())
  assert jax.device_put(np.zeros(3), devices.replicated(mesh)).is_fully_replicated


def test_eight_devices_train_as_one_does(space, tmp_path, request):
  if jax.device_count() == 1:
    pytest.skip("there is one device only")
  many, _ = tiny.run(space, tmp_path / "many")
  folder, one, _ = request.getfixturevalue("whole")
  lines = [tiny.metrics(tmp_path / "many"), tiny.metrics(folder)]
  assert len(lines[0]) == len(lines[1]) == 9
  for a, b in zip(*lines, strict=True):
    assert a == pytest.approx(b, rel=1e-5)
  assert many["test"] == pytest.approx(one["test"], rel=1e-5)
  assert many["validation"] == pytest.approx(one["validation"])


def test_each_process_builds_what_its_devices_hold(monkeypatch):
  """As in several processes, where no sharding is fully addressable."""
  mesh, asked = devices.data_mesh(), []
  index = np.arange(32, dtype=np.int32).reshape(2, 16)

  def build(index):
    asked.append(index.shape[1])
    return index * 2, np.stack([index, -index], -1)

  whole = devices.built(build, index, mesh)
  monkeypatch.setattr(jax.sharding.NamedSharding, "is_fully_addressable", False)
  parts = devices.built(build, index, mesh)
  put = devices.put((index, np.int32(3)), devices.replicated(mesh))
  monkeypatch.undo()
  assert asked == [16, *[16 // mesh.size] * mesh.size]
  for a, b in zip((*whole, index, np.int32(3)), (*parts, *put), strict=True):
    np.testing.assert_array_equal(a, b)
  assert [x.sharding for x in whole] == [x.sharding for x in parts]


@pytest.mark.parametrize("backend", devices.OPTIONS)
def test_compiler_knows_the_options(backend):
  assert jax.jit(lambda: 1, compiler_options=devices.OPTIONS[backend])() == 1


@pytest.mark.parametrize("key", ["batch_size", "eval_batch_size"])
def test_batch_that_the_devices_cannot_share_is_refused(space, tmp_path, key):
  if jax.device_count() == 1:
    pytest.skip("one device divides everything")
  wanted = f"config.train.{key} 12 is not a multiple of the {jax.device_count()} devices"
  with pytest.raises(UserError, match=wanted):
    tiny.run(space, tmp_path / "run", **{f"train__{key}": 12})
  assert not (tmp_path / "run").exists()


def test_activations_are_float32_on_a_cpu_and_as_told():
  wanted = "float32" if jax.default_backend() == "cpu" else "bfloat16"
  assert devices.activation_dtype("auto") == jnp.dtype(wanted)
  assert devices.activation_dtype("bfloat16") == jnp.bfloat16
  with pytest.raises(UserError, match="unknown dtype 'float16'; .*auto, float32 or bfloat16"):
    devices.activation_dtype("float16")
