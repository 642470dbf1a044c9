"""The result of a run: what counts as a plateau."""

import types

import pytest

from lra.runs import run_result


@pytest.mark.parametrize("accuracy, plateau", [(0.3, True), (0.64, True), (0.66, False)])
def test_plateau_is_within_three_standard_errors_of_the_commonest_label(accuracy, plateau):
  """Of 100 examples, half with either label, the standard error is 0.05."""
  data = types.SimpleNamespace(manifest={"splits": {"validation": {"labels": [50, 50]}}})
  assert run_result.plateau(types.SimpleNamespace(score=accuracy), data) is plateau
