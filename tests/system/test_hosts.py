"""Two processes train as one does, stop together, and hand a run over to one process and back."""

import json
import signal

import jax
import numpy as np
import pytest

import pair
import tiny
from lra.runs import trained_run
from lra.system import hosts
from lra.system.errors import UserError

STEPS = {"train.steps": 36, "train.eval_every": 18, "train.checkpoint_seconds": 0}


@pytest.mark.slow
def test_two_processes_train_as_one_does_and_hand_over(space, one_device, tmp_path, monkeypatch):
  """Stopped by a signal to one of the two, continued by one process, then again by two."""
  first, second = pair.start(space, monkeypatch, tmp_path / "two", **STEPS)
  pair.until(first, "step")
  second.send_signal(signal.SIGTERM)
  out, _ = pair.ends(first)
  silent, _ = pair.ends(second, 128 + signal.SIGTERM)
  assert "another process is to stop" in out and "step" not in silent
  assert list((tmp_path / "two/checkpoints").glob("[0-9]*"))
  changes = {key.replace(".", "__"): value for key, value in STEPS.items()}
  result, output = tiny.run(space, tmp_path / "two", tiny.After(2), **changes)
  assert result is None and "continuing after step" in output
  for process in pair.start(space, monkeypatch, tmp_path / "two", **STEPS):
    out, errors = pair.ends(process)
    assert not errors
  assert json.loads((tmp_path / "two/environment.json").read_text())["hosts"] == 2
  result, _ = tiny.run(space, tmp_path / "one", **changes)
  again = tiny.read_result(tmp_path / "two")
  assert again["test"] == pytest.approx(result["test"], rel=1e-5)
  assert again["test"]["examples"] == 40 and again["validation"] == result["validation"]
  for a, b in zip(*(tiny.metrics(tmp_path / name) for name in ("two", "one")), strict=True):
    assert a == pytest.approx(b, rel=1e-4)
  params = [
    trained_run.load(tmp_path / name, space / "data", None, print).best.params
    for name in ("two", "one")
  ]
  for a, b in zip(*map(jax.tree.leaves, params), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5)
  assert not list((tmp_path / "two").glob("*.tmp")) and not (tmp_path / "two/.lock").exists()


@pytest.mark.parametrize(
  "given, answer",
  [
    ({"JAX_COORDINATOR_ADDRESS": "a:1"}, "JAX_COORDINATOR_ADDRESS set, but not all of"),
    (dict(zip(hosts.OWN, ("a:1", "two", "0"))), "are HOST:PORT and two numbers, not a:1"),
    (dict(zip(hosts.OWN, ("a", "2", "0"))), "are HOST:PORT and two numbers, not a,"),
    (dict(zip(hosts.OWN, ("a:1", "2", "2"))), "JAX_PROCESS_ID 2 is not less than"),
  ],
)
def test_incomplete_variables_are_one_line(given, answer):
  with pytest.raises(UserError, match=answer) as raised:
    hosts.join(given)
  assert "\n" not in str(raised.value)


def joined(environment, monkeypatch):
  """What JAX was asked for in such an environment, or None."""
  asked = []
  monkeypatch.setattr(hosts.aborts, "install", lambda: None)
  monkeypatch.setattr(jax.distributed, "initialize", lambda **options: asked.append(options))
  hosts.join(environment)
  return asked[0] if asked else None


def test_environments_of_several_processes_are_joined_and_no_others(monkeypatch):
  assert joined({}, monkeypatch) is None
  assert joined({"SLURM_STEP_NUM_TASKS": "1", "SLURM_NTASKS": "8"}, monkeypatch) is None
  assert joined({"TPU_WORKER_HOSTNAMES": "a"}, monkeypatch) is None
  for name in hosts.SIZES:
    assert "coordinator_address" not in joined({name: "8"}, monkeypatch)
  assert joined({"TPU_WORKER_HOSTNAMES": "a,b"}, monkeypatch) is not None
  own = joined(dict(zip(hosts.OWN, ("a:1", "2", "1"))), monkeypatch)
  assert (
    own["coordinator_address"] == "a:1" and own["process_id"] == 1 and own["num_processes"] == 2
  )


def test_one_process_agrees_with_itself_at_once():
  agree = hosts.Agreement(jax.make_mesh((1,), ("data",), devices=jax.devices()[:1]))
  assert agree(True, False) == (True, False) and agree(False, False) == (False, False)
  hosts.check_same("00", "data")
  assert hosts.first() and not hosts.lost(RuntimeError("Gloo"))
