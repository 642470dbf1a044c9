"""Archives made by hand, those that nobody would make included."""

import io
import tarfile
import zipfile


def tar(*others, **files):
  """A tar of plain files, then of `others`, which are TarInfo."""
  packed = io.BytesIO()
  with tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as made:
    for name, content in files.items():
      entry = tarfile.TarInfo(name)
      entry.size = len(content)
      entry.pax_headers = {"comment": "none", "mtime": "1.5"}
      made.addfile(entry, io.BytesIO(content))
    for entry in others:
      made.addfile(entry)
  return packed.getvalue()


def zipped(method=zipfile.ZIP_DEFLATED, **files):
  """A zip of plain files."""
  packed = io.BytesIO()
  with zipfile.ZipFile(packed, "w", method) as made:
    for name, content in files.items():
      made.writestr(name, content)
  return packed.getvalue()
