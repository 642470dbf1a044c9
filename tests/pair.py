"""Two processes that train one run, each with one CPU device."""

import socket

import pytest

import tiny
from lra.system import hosts


def start(space, monkeypatch, folder, **changes):
  """Two processes of one CPU device each, their collectives over TCP."""
  with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    address = f"127.0.0.1:{free.getsockname()[1]}"
  started, flags = [], [f"--config.{key}={value}" for key, value in changes.items()]
  for i in range(2):
    for name, value in zip(hosts.OWN, (address, "2", str(i)), strict=True):
      monkeypatch.setenv(name, value)
    started.append(tiny.start(space, "--workdir", str(folder), *flags))
  for name in hosts.OWN:
    monkeypatch.delenv(name)
  return started


def ends(process, code=0):
  """Output and errors of a process that ends with `code`; what the collectives say is left out."""
  out, errors = process.communicate(timeout=300)
  assert process.returncode == code, errors
  return out, tiny.said(errors)


def until(process, word):
  """Reads what a process prints until a line begins with `word`."""
  for line in process.stdout:
    if line.startswith(word):
      return
  pytest.fail(f"{word} never came: {process.stderr.read()}")
