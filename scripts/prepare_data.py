"""Prepares the data of tasks ahead of time; train.py does the same on first use.

    scripts/run scripts/prepare_data.py                       all five tasks (not Path-X)
    scripts/run scripts/prepare_data.py listops pathx         what is named
    scripts/run scripts/prepare_data.py text --preset quick   for a preset
    scripts/run scripts/prepare_data.py image pathfinder --samples samples/   and pictures of it

Sources, in this order: what is prepared already, your own raw files (--raw_dir), a download, a
generator where the task has one.
"""

import io
import sys
import time
from pathlib import Path

from PIL import Image

sys.path.insert(0, str(Path(__file__).parent.parent))

from configs.lra.base import load
from lra.data import store, tasks
from lra.data.tasks import pathfinder
from lra.runs import command
from lra.system import files, process
from lra.system.errors import UserError
from lra.system.progress import Progress, duration

DEFAULT = ("listops", "text", "retrieval", "image", "pathfinder")
IMAGES = ("image", "pathfinder", "pathx")


def write_samples(data: store.Store, path: Path) -> Path:
  """The first 50 training images as one picture."""
  examples = data.splits["train"]
  side = round(int(examples.offsets[1]) ** 0.5)
  images = examples.tokens[: 50 * side * side].reshape(-1, side, side)
  path.parent.mkdir(parents=True, exist_ok=True)
  sheet = io.BytesIO()
  Image.fromarray(pathfinder.contact_sheet(images, columns=10, scale=3)).save(sheet, "png")
  files.write(path, sheet.getvalue())
  return path


def main() -> int:
  """Prepares every task named, however many fail; the number that failed is the exit code."""
  parser = command.parser(__doc__)
  parser.add_argument("task", nargs="*", help=f"of {', '.join(tasks.TASKS)}")
  parser.add_argument("--preset", default="default", help="of the task's config file")
  parser.add_argument(
    "--samples", type=Path, help="write PNGs of the first 50 images of tasks with images there"
  )
  command.add_folders(parser)
  args = parser.parse_args()
  progress, failed = Progress(), 0
  for name in args.task or DEFAULT:
    begin = time.monotonic()
    try:
      task = tasks.get(name)
      try:
        recipe = load(name, "softmax", args.preset)
      except ValueError as error:
        raise UserError(str(error)) from None
      options = {key: value for key, value in recipe.task.items() if key != "name"}
      data = store.open_store(task, options, **command.folders(args), report=progress.live)
      if args.samples and name in IMAGES:
        progress.line(f"{name}: samples in {write_samples(data, args.samples / f'{name}.png')}")
    except (UserError, OSError) as error:
      progress.line(f"error: {error}")
      failed += 1
      continue
    sizes = " / ".join(f"{len(data.splits[split].labels):,}" for split in tasks.SPLITS)
    progress.line(
      f"{name}: {sizes} examples, {data.manifest['source']['origin']}, in {data.path} "
      f"({duration(time.monotonic() - begin)})"
    )
    twice = data.manifest["source"].get("duplicates", {})
    if any(twice.values()):
      found = ", ".join(f"{count:,} {where}" for where, count in twice.items() if count)
      progress.line(f"{name}: exact duplicates: {found}")
  return failed


if __name__ == "__main__":
  process.run_main(main)
