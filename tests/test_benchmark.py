"""The benchmark's model is the project's: it builds, and a step runs."""

from scripts import benchmark


def test_a_step_runs():
  step, _ = benchmark.jax_step("cosformer", 16, 1)
  step()
