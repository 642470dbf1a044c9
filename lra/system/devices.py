"""Devices as JAX sees them: mesh, shardings, activation dtype, compiler options."""

import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from lra.system.errors import UserError


def data_mesh() -> Mesh:
  """All devices of all processes on one axis, "data"."""
  # Auto: with the default Explicit axes every gather and einsum would have to name its sharding.
  return jax.make_mesh((jax.device_count(),), ("data",), axis_types=(AxisType.Auto,))


def replicated(mesh: Mesh) -> NamedSharding:
  """The same array on every device."""
  return NamedSharding(mesh, PartitionSpec())


def along(mesh: Mesh, axis: int) -> NamedSharding:
  """Array axis `axis` split over the devices."""
  return NamedSharding(mesh, PartitionSpec(*[None] * axis, "data"))


def put(tree: Any, sharding: NamedSharding) -> Any:
  """Arrays that every process has whole, where `sharding` wants them."""
  if sharding.is_fully_addressable:
    return jax.device_put(tree, sharding)
  whole = jax.tree.map(np.asarray, tree)
  return jax.tree.map(
    lambda x: jax.make_array_from_callback(x.shape, sharding, x.__getitem__), whole
  )


def shared(tree: Any, mesh: Mesh) -> Any:
  """`tree` with what is on this process's devices alone on those of all, for a checkpoint of all."""
  if jax.process_count() == 1:
    return tree
  everywhere = replicated(mesh)
  return jax.tree.map(lambda x: put(x, everywhere) if x.is_fully_addressable else x, tree)


def built(build: Callable[[np.ndarray], Any], index: np.ndarray, mesh: Mesh) -> Any:
  """`build(index)`, arrays split along axis 1 over the devices.

  A process builds what its own devices hold, one by one; build(index)[:, a:b] is
  build(index[:, a:b]).
  """
  sharding = along(mesh, 1)
  if sharding.is_fully_addressable:
    return jax.device_put(build(index), sharding)
  own = sharding.addressable_devices_indices_map(index.shape)
  parts = [jax.device_put(build(index[where]), device) for device, where in own.items()]

  def joined(*arrays: jax.Array) -> jax.Array:
    shape = (arrays[0].shape[0], index.shape[1], *arrays[0].shape[2:])
    return jax.make_array_from_single_device_arrays(shape, sharding, list(arrays))

  return jax.tree.map(joined, *parts)


def activation_dtype(name: str) -> jnp.dtype:
  """The dtype of activations; "auto" is bfloat16 on accelerators, float32 on a CPU."""
  if name == "auto":
    name = "float32" if jax.default_backend() == "cpu" else "bfloat16"
  if name not in ("float32", "bfloat16"):
    raise UserError(f"unknown dtype {name!r}; config.model.dtype is auto, float32 or bfloat16")
  return jnp.dtype(name)


def memory_limit() -> int | None:
  """Bytes that each device of this process may use, None if that cannot be told.

  Devices of a CPU share what the machine, or this process's control group, has.
  """
  stats = jax.local_devices()[0].memory_stats()
  if stats and "bytes_limit" in stats:
    return stats["bytes_limit"]
  if jax.default_backend() != "cpu" or "SC_PHYS_PAGES" not in os.sysconf_names:
    return None
  whole = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
  group = Path("/sys/fs/cgroup/memory.max")
  if group.is_file() and (given := group.read_text().strip()).isdecimal():
    whole = min(whole, int(given))
  return whole // jax.local_device_count()


def cache_programs(folder: Path) -> None:
  """On accelerators, keeps compiled programs in `folder`.

  Kernels are chosen there by timing them, so only the same program continues a run bit for bit.
  """
  if jax.default_backend() != "cpu":
    jax.config.update("jax_compilation_cache_dir", str(folder))


def jit(function: Callable[..., Any], **options: Any) -> Any:
  """`jax.jit` with the compiler options of this backend."""
  return jax.jit(function, compiler_options=_compiler_options(), **options)


OPTIONS: dict[str, dict[str, Any]] = {
  # No YNNPACK fusions: a training step takes 0.8 of the time without them (jax 0.10).
  "cpu": {"xla_cpu_experimental_ynn_fusion_type": ""},
  # What scatters there are add in a fixed order. On an H100 a step of the shell (cosFormer, 32 x 2,048)
  # takes 2.3 ms with it, 1.8 without; 5.0 with a scatter in place of the one-hot product of `lookup`.
  "gpu": {"xla_gpu_exclude_nondeterministic_ops": True},
}


@functools.cache
def _compiler_options() -> dict[str, Any] | None:
  """Compiler options of this backend, as far as its jaxlib has them."""
  options = OPTIONS.get(jax.default_backend())
  try:
    jax.jit(lambda: 0, compiler_options=options)()
  except jax.errors.JaxRuntimeError:  # a jaxlib without that option
    return None
  return options
