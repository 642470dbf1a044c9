"""These tests compile hundreds of small functions and hardly run them."""

import jax
import pytest


@pytest.fixture(autouse=True)
def quick_compilation():
  """Leaves LLVM's optimizations out; XLA's own, which decide what is computed, stay."""
  before = jax.config.read("jax_disable_most_optimizations")
  jax.config.update("jax_disable_most_optimizations", True)
  yield
  jax.config.update("jax_disable_most_optimizations", before)
