"""The memory of a step: what the compiled program says, and a refusal that names the key."""

import jax
import pytest

import tiny
from lra.system import devices
from lra.system.errors import UserError
from lra.training.memory import Need, check


@pytest.mark.parametrize(
  "need, answer",
  [
    (Need(1, 2, 10**10), "raise config.train.accumulate, now 2, or lower config.train.batch_size"),
    (Need(1, 2, 3, 10**10), "lower config.train.eval_batch_size"),
    (Need(1, 10**10, 2), "lower config.data.device_gigabytes"),
    (Need(10**10, 1, 2), "lower config.model.num_layers, emb_dim or mlp_dim"),
  ],
)
def test_more_than_there_is_names_the_key(need, answer):
  with pytest.raises(UserError, match=rf"takes 10.00 GB .*which has 8.00 GB: {answer}$") as raised:
    check(need, 8 * 10**9, 4096, 2)
  assert "\n" not in str(raised.value)
  assert "4,096" in check(need, 11 * 10**9, 4096, 2)
  assert check(need, None, 4096, 2).startswith("memory: 10.00 GB on each device")


@pytest.mark.usefixtures("one_device")
def test_run_says_what_it_takes_and_ends_before_its_first_step(space, tmp_path, monkeypatch):
  result, output = tiny.run(space, tmp_path / "run", tiny.After(0))
  assert result is None and output.count("memory: ") == 1
  for word in ("step ", "evaluation "):
    assert 0.01 < float(output.split(word)[1].split(" MB")[0]) < 50
  monkeypatch.setattr(devices, "memory_limit", lambda: 10_000)
  with pytest.raises(UserError, match="this run takes .* MB on each device .*config"):
    tiny.run(space, tmp_path / "other", tiny.After(0))
  assert not (tmp_path / "other/checkpoints").exists() or not list(
    (tmp_path / "other/checkpoints").iterdir()
  )


def test_memory_of_a_cpu_is_shared_by_its_devices():
  if jax.default_backend() != "cpu":
    pytest.skip("of a CPU")
  assert 1e8 < devices.memory_limit() < 1e14
