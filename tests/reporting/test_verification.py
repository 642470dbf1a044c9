"""Curves beside records: equal digits, tolerances, verdicts, and a run that is repeated."""

import json
import re
import shlex
import shutil
import subprocess
import sys

import pytest

import scripts.verify
import tiny
from lra.reporting import run_record, verification
from lra.runs import sealed_json
from lra.system.errors import UserError

LINES = [
  {"step": 4, "train/loss": 2.123456789, "train/accuracy": 0.25},
  {"step": 8, "train/loss": 1.987654321, "train/accuracy": 0.5},
  {"step": 8, "validation/loss": 2.0, "validation/accuracy": 0.375},
]
RECORD = {
  "curve": {
    "train": {"step": [4, 8, 12], "loss": [2.1235, 1.9877, 1.5], "accuracy": [0.25, 0.5, 0.6]},
    "validation": {"step": [8, 16], "loss": [2.0, 1.9], "accuracy": [0.375, 0.5]},
  },
  "data": {"digest": "a" * 64},
  "environment": {"device": "cpu", "devices": 1, "platform": "cpu", "packages": {"jax": "1"}},
}


def changed(**changes):
  return [line | {k: v for k, v in changes.items() if k in line} for line in LINES]


def test_equal_digits_agree_on_any_machine():
  columns = verification.compare(RECORD, LINES)
  assert [(c.points, c.equal) for c in columns] == [(2, 2), (2, 2), (1, 1), (1, 1)]
  assert columns[0].last_equal == 8 and all(c.within for c in columns)
  for exact in (True, False):
    agrees, sentence = verification.verdict(columns, exact)
    assert agrees and "all 5 recorded digits of all 6 figures" in sentence


@pytest.mark.parametrize(
  "changes, exact, agrees, said",
  [
    ({"validation/loss": 2.001}, True, False, "same kind of machine and revision, yet 1 of 6"),
    (
      {"validation/loss": 2.001},
      False,
      True,
      "agrees within 5% of a loss, 5 points of accuracy; 5",
    ),
    ({"validation/loss": 2.2}, False, False, "differs by more than .* in validation/loss"),
    ({"validation/accuracy": 0.3}, False, False, "differs by more than .* in validation/accuracy"),
    ({"train/loss": float("nan")}, False, False, "in train/loss"),
  ],
)
def test_differences_are_judged_by_the_machine(changes, exact, agrees, said):
  columns = verification.compare(RECORD, changed(**changes))
  found, sentence = verification.verdict(columns, exact)
  assert found is agrees
  assert re.search(said, sentence), sentence


def test_nothing_to_compare_is_no_agreement():
  assert verification.verdict(verification.compare(RECORD, []), False)[0] is False


def test_machines_differ_by_devices_and_packages_data_and_revision():
  same = RECORD["environment"] | {"data": "a" * 64}
  assert verification.differing(RECORD, same) == []
  other = same | {"devices": 8, "packages": {"jax": "2"}, "data": "b" * 64, "revision": "1234567"}
  assert verification.differing(RECORD, other) == [
    *("devices 1, here 8", "jax 1, here 2", "data aaaaaaaaaaaa, here bbbbbbbbbbbb"),
    "revision None, here 1234567",
  ]


def verify(monkeypatch, *arguments):
  monkeypatch.setattr(sys, "argv", ["verify.py", *map(str, arguments)])
  return scripts.verify.main()


def test_a_record_is_repeated_to_the_last_digit(
  whole, space, one_device, tmp_path, monkeypatch, capsys
):
  run = shutil.copytree(whole[0], tmp_path / "run")
  kept = sealed_json.read(run / "environment.json")
  typed = [f"--config.{key}={value}" for key, value in tiny.SMALL.items()]
  kept["command"] = shlex.join(["train.py", "--config", tiny.RECIPE, *typed])
  sealed_json.write(run / "environment.json", kept)
  record = run_record.write(run_record.make(run), tmp_path)
  given = ("--data_dir", space / "data", "--workdir", tmp_path / "again")
  assert verify(monkeypatch, record, *given, "--steps", 9) == 0
  out = capsys.readouterr().out
  assert "train/loss" in out and "3 of 3 figures equal" in out and "as this one" in out
  assert tiny.metrics(tmp_path / "again")[-1]["step"] == 12
  assert verify(monkeypatch, record, *given) == 0
  assert "agrees in all 5 recorded digits of all 18 figures" in capsys.readouterr().out
  with pytest.raises(UserError, match="--steps must be at least 1"):
    verify(monkeypatch, record, "--steps", 0)


@pytest.mark.slow
def test_first_steps_of_a_committed_record_are_repeated(tmp_path):
  """In a process, as typed; the data are made for it."""
  record = tiny.ROOT / "results/listops_cosformer-quick-seed0.json"
  done = subprocess.run(
    [sys.executable, "scripts/verify.py", str(record), "--steps", "100"]
    + ["--data_dir", str(tmp_path / "data"), "--workdir", str(tmp_path / "run")],
    cwd=tiny.ROOT,
    capture_output=True,
    text=True,
    timeout=300,
  )
  assert done.returncode == 0, done.stdout + done.stderr
  assert "train/loss" in done.stdout and "of 1 figures equal" in done.stdout
  lines = (tmp_path / "run/metrics.jsonl").read_text().splitlines()
  assert json.loads(lines[-1])["step"] == 100
  shutil.rmtree(tmp_path / "data")
