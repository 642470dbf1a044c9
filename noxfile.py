"""The tests on the oldest and the newest versions that the requirements admit: `uvx nox`.

    nox                                       every session, an hour on two cores
    nox -s oldest                             Python 3.11, the lower bounds of the requirements
    nox -s newest-3.14 -- tests/data -x       what follows -- goes to pytest

uv installs the packages, and interpreters that are not on this machine where it can download them;
sessions without an interpreter are skipped.
"""

import nox

nox.needs_version = ">=2024.10.9"
nox.options.default_venv_backend = "uv"
nox.options.error_on_missing_interpreters = False


@nox.session(python="3.11")
def oldest(session: nox.Session) -> None:
  """The lowest versions of what requirements.txt and requirements-dev.txt name."""
  tests(session, "lowest-direct")


@nox.session(python=["3.11", "3.12", "3.13", "3.14"])
def newest(session: nox.Session) -> None:
  """The newest versions of everything."""
  tests(session, "highest")


def tests(session: nox.Session, resolution: str) -> None:
  """pytest in a new environment."""
  files = "-r", "requirements.txt", "-r", "requirements-dev.txt"
  session.install("--resolution", resolution, *files)
  session.run("pytest", *(session.posargs or ["-n", "auto"]))
