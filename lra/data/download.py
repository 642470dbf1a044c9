"""Published raw files: their addresses, checksums and download.

A download resumes from NAME.part (HTTP Range) and takes its final name only after its checksum was
verified. tensorflow-datasets' own manager starts again from zero, so only its checksums are used.
"""

import dataclasses
import errno
import hashlib
import http.client
import os
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lra.data.archives import digest, locked
from lra.data.packed import BLOCK
from lra.system.errors import UserError
from lra.system.progress import once_a_second

TIMEOUT = 30.0  # seconds without a byte


@dataclasses.dataclass(frozen=True)
class Remote:
  """A published file. `algorithm` and `checksum` are empty where nobody published one."""

  name: str
  url: str
  algorithm: str = ""  # as hashlib names it
  checksum: str = ""
  instead: str = ""  # what else would do, for the message that asks the user for the file


LRA_RELEASE = Remote(
  name="lra_release.gz", url="https://storage.googleapis.com/long-range-arena/lra_release.gz"
)


def describe(path: Path, origin: str, *remotes: Remote, files: str = "**/*") -> dict[str, Any]:
  """Provenance of a raw file or folder, for `Prepared.source`.

  "published": whether it has the published checksum, None where there is none.

  Of a folder, the hash is that of the names and hashes of the files that match `files`.
  """
  if path.is_dir():
    lines = sorted(
      f"{digest(file)}  {file.relative_to(path).as_posix()}\n"
      for file in path.glob(files)
      if file.is_file()
    )
    whole = hashlib.sha256("".join(lines).encode()).hexdigest()
    return {"origin": origin, "file": path.name + "/", "sha256": whole, "published": None}
  known = [remote for remote in remotes if remote.name == path.name and remote.checksum]
  same = [digest(path, remote.algorithm) == remote.checksum for remote in known]
  published = any(same) if same else None
  return {"origin": origin, "file": path.name, "sha256": digest(path), "published": published}


def fetch(
  remote: Remote,
  *,
  raw_dir: str | Path | None,
  cache_dir: str | Path,
  report: Callable[[str], None],
) -> Path:
  """`cache_dir/NAME`, downloaded unless it is there and intact.

  Raises UserError when the file cannot be had, is not the published one, or has no known checksum;
  the message says what to put where.
  """
  checksum = f" ({remote.algorithm} {remote.checksum})" if remote.checksum else ""
  by_hand = (
    f"get {remote.name}{checksum} from {remote.url} yourself and put it in "
    f"{raw_dir or 'a folder of raw files'} (--raw_dir or $LRA_RAW_DIR){remote.instead}"
  )
  if not remote.checksum:  # several gigabytes that nothing could verify
    raise UserError(f"{remote.name} is not downloaded, since no checksum of it is known: {by_hand}")
  target = Path(cache_dir) / remote.name
  target.parent.mkdir(parents=True, exist_ok=True)
  with locked(target.with_name(f".{target.name}.lock"), report):
    if target.exists() and _intact(target, remote):
      return target
    part = target.with_name(target.name + ".part")
    try:
      _resume(remote.url, part, once_a_second(report))
    except (OSError, http.client.HTTPException, ValueError) as error:
      if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
        raise
      cause = f"cannot download {remote.url} ({error})"
      raise UserError(f"{cause}: run again to resume, or {by_hand}") from error
    if not _intact(part, remote):
      part.unlink()
      cause = f"what {remote.url} sent does not have the published checksum"
      raise UserError(f"{cause}: run again, or {by_hand}")
    os.replace(part, target)
  return target


def _intact(path: Path, remote: Remote) -> bool:
  return digest(path, remote.algorithm) == remote.checksum


def _resume(url: str, part: Path, say: Callable[[str], None]) -> None:
  """Brings `part` to the length of the file at `url`, for as long as every request adds to it."""
  while True:
    have = part.stat().st_size if part.exists() else 0
    failure: Exception = OSError("the server closed the connection early")
    try:
      if _append(url, part, have, say):
        return
    except urllib.error.HTTPError as error:
      error.close()
      length = error.headers.get("Content-Range", "").rpartition("/")[2]
      if error.code != 416 or not have:
        raise
      if length == str(have):
        return
      part.unlink()  # longer than the file, or of another one
      continue
    except (OSError, http.client.HTTPException) as error:
      failure = error
    if not part.exists() or part.stat().st_size <= have:
      raise failure


def _append(url: str, part: Path, have: int, say: Callable[[str], None]) -> bool:
  """One request for what follows byte `have`; whether `part` is whole afterwards."""
  request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
  with urllib.request.urlopen(request, timeout=TIMEOUT) as response:
    if response.status != 206:
      have = 0  # the server sends the file from its start
    length = response.headers.get("Content-Length")
    total = have + int(length) if length else None
    with part.open("ab" if have else "wb") as file:
      while block := response.read(BLOCK):
        file.write(block)
        have += len(block)
        percent = f" ({have / total:.0%})" if total else ""
        say(f"downloading {part.stem}: {have / 1e6:.0f} MB{percent}")
  return total is None or have == total
