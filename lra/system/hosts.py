"""Several processes that are one run: how they join, and what they have to agree on.

One process is the common case, in which nothing here does or costs anything.
"""

import collections
import os
import sys
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from lra.system import aborts
from lra.system.errors import UserError

OWN = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
SIZES = ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE")  # of what srun and mpirun have started
LOST = ("Gloo", "NCCL", "coordination service", "UNAVAILABLE", "Connection closed", "DEADLINE")


def join(environment: Mapping[str, str] = os.environ) -> None:
  """Makes this process a part of what its environment says, before JAX is first used.

  That is: the variables of `OWN`, a job step of Slurm or a run of Open MPI of more than one process,
  or a TPU pod. Raises UserError if the variables are incomplete.
  """
  given = [name for name in OWN if environment.get(name)]
  pod = len(environment.get("TPU_WORKER_HOSTNAMES", "").split(",")) > 1
  several = pod or any(environment.get(name, "1") not in ("", "1") for name in SIZES)
  if not given and not several:
    return
  options: dict[str, Any] = {}
  if given:
    if len(given) < len(OWN):
      raise UserError(f"{', '.join(given)} set, but not all of {', '.join(OWN)}")
    address, *numbers = (environment[name] for name in OWN)
    if not all(number.isdecimal() for number in numbers) or ":" not in address:
      raise UserError(f"{', '.join(OWN)} are HOST:PORT and two numbers, not {address}, {numbers}")
    count, number = map(int, numbers)
    if number >= count:
      raise UserError(f"JAX_PROCESS_ID {number} is not less than JAX_NUM_PROCESSES {count}")
    options = {"coordinator_address": address, "num_processes": count, "process_id": number}
    options["cluster_detection_method"] = "deactivate"  # all of this process's devices are its own
  aborts.install()
  jax.config.update("jax_enable_preemption_service", False)  # it would take SIGTERM for itself
  try:
    jax.distributed.initialize(**options, shutdown_timeout_seconds=60)
  except (RuntimeError, ValueError) as error:
    raise UserError(
      f"cannot join the other processes of this run: {str(error).splitlines()[0]}"
    ) from error


def first() -> bool:
  """Whether this process is the one that writes."""
  return jax.process_index() == 0


def wait(what: str) -> None:
  """Until all processes have come here."""
  if jax.process_count() > 1:
    multihost_utils.sync_global_devices(what)


def check_same(digest: str, what: str) -> None:
  """Raises UserError, in every process, unless all have the same hexadecimal digest of `what`."""
  if jax.process_count() > 1:
    own = np.frombuffer(bytes.fromhex(digest[:32]), np.int32)
    if len(np.unique(multihost_utils.process_allgather(own), axis=0)) > 1:
      raise UserError(f"the {jax.process_count()} processes of this run have not the same {what}")


def lost(error: BaseException) -> bool:
  """Whether `error` is what the end of another process looks like from here."""
  return _joined() and any(word in str(error) for word in LOST)


def leave() -> None:
  """Ends this process after an error, where there are others, at once: they need not be waited for."""
  if _joined() and jax.process_count() > 1:
    sys.stderr.flush()
    sys.stdout.flush()
    os._exit(1)


def _joined() -> bool:
  return jax.distributed.is_initialized()


class Agreement:
  """What at least one process wishes, known to all of them at the same call.

  One process knows at once. Of several, each learns it `DELAY` calls later, so that none waits for
  what its devices have still to do.
  """

  DELAY = 2

  def __init__(self, mesh: Mesh) -> None:
    self._split = NamedSharding(mesh, PartitionSpec("data"))
    self._any = jax.jit(lambda x: x.any(0), out_shardings=NamedSharding(mesh, PartitionSpec()))
    self._posted = collections.deque()

  def __call__(self, *wishes: bool) -> tuple[bool, ...]:
    if jax.process_count() == 1:
      return wishes
    shape, own = (self._split.mesh.size, len(wishes)), np.array([wishes])
    self._posted.append(self._any(jax.make_array_from_callback(shape, self._split, lambda _: own)))
    if len(self._posted) <= self.DELAY:
      return (False,) * len(wishes)
    return tuple(np.array(self._posted.popleft()).tolist())

  def forget(self) -> None:
    """What was wished before; in all processes at the same call."""
    self._posted.clear()
