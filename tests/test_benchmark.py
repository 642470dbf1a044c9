"""The benchmarks' models are the project's: they build, and a step runs."""

from scripts import benchmark, benchmark_ablation


def test_a_step_runs():
  step, _ = benchmark.jax_step("cosformer", 16, 1)
  step()


def test_a_step_of_a_recipe_runs():
  recipe = "--config=configs/lra/retrieval_linear.py:quick"
  small = "--config.task.max_length=12", "--config.train.batch_size=8"
  step, examples = benchmark_ablation.recipe_step([recipe, *small])
  step()
  assert examples == 8
