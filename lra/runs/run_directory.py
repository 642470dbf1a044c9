"""The directory of a run: config.json, environment.json, metrics.jsonl, result.json, event files.

Tables and pictures read the JSON files alone. These hold their own digests (lra.runs.sealed_json),
and result.json those of the metrics. Floats are written in full, so that two runs can be compared bit
for bit; keys under "time/" are measurements of the machine and never comparable.
"""

import contextlib
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flax.traverse_util import flatten_dict

from configs.lra.base import complete
from lra.runs import environment, sealed_json
from lra.runs.event_file import EventFile
from lra.system import files, hosts, locks
from lra.system.errors import UserError

METRICS = "metrics"  # of result.json: file name -> SHA-256; earlier revisions have none


class RunDirectory:
  """The directory of one run. Raises UserError when it belongs to another config.

  Of several processes the first one writes; the others see the same directory.
  """

  def __init__(self, folder: Path, config: Mapping[str, Any]) -> None:
    self.folder, self._config = folder, config
    self._events: EventFile | None = None
    self._lock = locks.FileLock(folder / ".lock")
    self._writes = hosts.first()
    self._check()

  def __enter__(self) -> "RunDirectory":
    """Locks the folder. Raises UserError when another process has it, or it cannot be written."""
    if not self._writes:
      return self
    try:
      self.folder.mkdir(parents=True, exist_ok=True)
      taken = self._lock.acquire()
    except OSError as error:
      raise UserError(
        f"cannot write to {self.folder}: {error.strerror}; choose another folder with --workdir"
      ) from error
    if not taken:
      raise UserError(
        f"another process is at the run in {self.folder}; wait for its end, or choose another --workdir"
      )
    return self

  def __exit__(self, *_: Any) -> None:
    if not self._writes:
      return
    self.close()
    self._lock.release()
    with contextlib.suppress(OSError):  # there is something in it
      self.folder.rmdir()

  def _check(self) -> None:
    """A folder in which nothing was trained is free for any config."""
    known = _read(self.folder / "config.json") if _trained(self.folder) else self._config
    if known is None:
      raise UserError(
        f"{self.folder} holds a run without its config.json; choose another --workdir, or delete it"
      )
    try:
      there = flatten_dict(complete(known), sep=".")
    except (LookupError, TypeError, AttributeError):
      raise UserError(
        f"{self.folder / 'config.json'} is damaged; choose another --workdir, or delete the folder"
      ) from None
    now = flatten_dict(json.loads(json.dumps(self._config)), sep=".")
    differing = [key for key in sorted({**there, **now}) if there.get(key) != now.get(key)]
    if differing:
      words = (f"config.{key}: there {there.get(key)!r}, now {now.get(key)!r}" for key in differing)
      raise UserError(
        f"{self.folder} holds a run of another config ({'; '.join(words)[:1000]}); "
        "choose another --workdir, or delete it to start anew"
      )

  @property
  def result(self) -> dict[str, Any] | None:
    """result.json, or None while the run is unfinished."""
    return read_result(self.folder)

  @property
  def attempt(self) -> int:
    """Number of restarts from another seed so far."""
    return len(list(self.folder.glob("metrics.attempt*.jsonl")))

  def restart(self) -> None:
    """Puts the metrics of this attempt aside; the checkpoints must be gone already."""
    if not self._writes:
      return
    self.close()
    (self.folder / "metrics.jsonl").rename(self.folder / f"metrics.attempt{self.attempt}.jsonl")

  def start(self, step: int, data: str, parent: Mapping[str, Any] | None = None) -> None:
    """Opens the logs to continue after `step`: what an interrupted session wrote later is dropped.

    data: its digest. parent: what the record says of the run that this one started from.
    Raises UserError if the steps before were trained on other data, or from other parameters.
    """
    if not self._writes:
      return
    self._check()  # now that nobody else is here
    if not _trained(self.folder):
      sealed_json.write(self.folder / "config.json", self._config)
      for left in self.folder.glob("events.out.tfevents.*"):
        left.unlink()
    before, now = (
      _read(self.folder / "environment.json") or {},
      environment.describe() | {"data": data} | ({"parent": parent} if parent else {}),
    )
    if (step or self.attempt) and before.get("data", data) != data:
      raise UserError(
        f"{self.folder} was trained on other data ({before['data'][:12]}) than is there now "
        f"({data[:12]}): set --data_dir and --raw_dir as they were, or choose another --workdir"
      )
    there, here = (
      f"{p['run']} ({p['digest'][:12]})" if p else "fresh parameters"
      for p in (before.get("parent"), parent)
    )
    if (step or self.attempt) and there != here:
      raise UserError(
        f"{self.folder} was started from {there}, now it is {here}: set --init_from as it was, or "
        "choose another --workdir"
      )
    session = {key: now[key] for key in ("revision", "modified", "device", "devices")}
    sessions = before.get("sessions", []) if step or self.attempt else []
    now["sessions"] = sessions if session in sessions else [*sessions, session]
    sealed_json.write(self.folder / "environment.json", now)
    path = self.folder / "metrics.jsonl"
    lines = zip(_lines(path), parse_metrics(path), strict=True)
    kept = [line for line, values in lines if values["step"] <= step]
    files.write(path, "".join(kept))
    self._events = EventFile(self.folder, purge=step + 1)

  def log(self, step: int, values: Mapping[str, float]) -> None:
    """One line of metrics.jsonl, and the same to TensorBoard."""
    if not self._writes:
      return
    with open(self.folder / "metrics.jsonl", "a") as file:
      print(json.dumps({"step": step, **values}), file=file)
    self._events.log(step, values)

  def metrics(self) -> list[dict[str, float]]:
    """All log lines of this attempt, those of sessions before this one included."""
    return parse_metrics(self.folder / "metrics.jsonl")

  def finish(self, result: Mapping[str, Any]) -> None:
    """Writes result.json, which marks the run as finished, and closes the logs."""
    if not self._writes:
      return
    self.close()
    sealed = {METRICS: _metrics_digests(self.folder)}
    sealed_json.write(self.folder / "result.json", {**result, **sealed})

  def close(self) -> None:
    """Closes the logs."""
    if self._events is not None:
      self._events.close()
      self._events = None


def _trained(folder: Path) -> bool:
  """Whether a run has left a checkpoint or a line of metrics there."""
  logs = folder.glob("metrics*.jsonl")
  return any(map(_lines, logs)) or any(p.name.isdigit() for p in folder.glob("checkpoints/*"))


def _lines(path: Path) -> list[str]:
  """Complete lines; the last one of a killed process may be half written."""
  if not path.exists():
    return []
  text = path.read_bytes().decode(errors="replace")
  return [f"{line}\n" for line in text.split("\n")[:-1]]


def parse_metrics(path: Path) -> list[dict[str, Any]]:
  """Values of each complete line of a metrics file. Raises UserError, which names a damaged line."""
  made = []
  for number, line in enumerate(_lines(path), 1):
    try:
      made.append(json.loads(line))
      if not isinstance(made[-1]["step"], int) or not all(
        isinstance(value, int | float) for value in made[-1].values()
      ):
        raise ValueError
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
      raise UserError(
        f"line {number} of {path} is damaged; delete the folder it is in to start the run anew"
      ) from None
  return made


def read_result(folder: Path) -> dict[str, Any] | None:
  """result.json of a run, None if there is none. Raises UserError if it, or the metrics, are damaged."""
  found = _read(folder / "result.json")
  if found is not None and (known := found.pop(METRICS, None)):
    now = _metrics_digests(folder)
    if changed := sorted(name for name in known | now if known.get(name) != now.get(name)):
      raise UserError(
        f"{folder / changed[0]} is damaged: it does not have the digest in result.json; delete the "
        "folder to start the run anew"
      )
  return found


def _metrics_digests(folder: Path) -> dict[str, str]:
  """File name -> SHA-256 of the metrics of all attempts."""
  return {
    path.name: hashlib.sha256(path.read_bytes()).hexdigest()
    for path in sorted(folder.glob("metrics*.jsonl"))
  }


def _read(path: Path) -> dict[str, Any] | None:
  return sealed_json.read(path) if path.exists() else None
