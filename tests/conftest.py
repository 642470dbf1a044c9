"""Eight virtual CPU devices and quick compilation for every test, float64 for those that ask for it."""

import importlib.metadata
import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")  # JAX_PLATFORMS=cuda pytest -m gpu
flags = [os.environ.get("XLA_FLAGS", ""), "--xla_force_host_platform_device_count=8"]
if os.environ["JAX_PLATFORMS"] == "cpu":
  # Without LLVM's optimizations, in one piece; XLA's own, which decide what is computed, stay.
  flags += ["--xla_backend_optimization_level=0", "--xla_llvm_disable_expensive_passes=true"]
  flags += ["--xla_cpu_parallel_codegen_split_count=1"]
  if importlib.metadata.version("jaxlib").startswith("0.10."):  # later ones end at a flag unknown
    flags += ["--xla_cpu_use_fusion_emitters=false"]  # a third of the time to compile
os.environ["XLA_FLAGS"] = " ".join(flags)

import jax
import pytest


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
  """-n: the tests of a file share what they compile and train, so one worker runs them."""
  from xdist.scheduler import LoadFileScheduling

  return LoadFileScheduling(config, log)


@pytest.fixture
def x64():
  """float64 in JAX for the length of a test."""
  with jax.enable_x64(True):
    yield


pytest_plugins = ["tiny"]  # fixtures of tiny runs
