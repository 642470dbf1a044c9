"""Draws the attention maps of a trained model, every layer and head on one example, as PNG and SVG.

    scripts/run scripts/plot_attention.py runs/text_cosformer-seed0
    scripts/run scripts/plot_attention.py runs/text_cosformer-seed0 --example 7 --layers 0 3

The dense matrices are those of the mechanism's `weights`, for the best parameters so far. On the
right of each layer the mean weight at a distance i - j, one line a head; for cosFormer in grey what
the same queries and keys would give without the cosine.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from lra.data.tasks import SPLITS
from lra.reporting import attention_maps, table_text
from lra.reporting.pictures import attention, style
from lra.runs import command, trained_run
from lra.system.errors import UserError
from lra.system.process import run_main
from lra.system.progress import Progress


def main() -> int:
  """Draws one picture."""
  parser = command.parser(__doc__)
  parser.add_argument("run", type=Path, help="a run's folder (--workdir)")
  parser.add_argument("--split", choices=SPLITS, default="validation")
  parser.add_argument("--example", type=int, default=0, help="its number in the split, from 0")
  parser.add_argument("--document", type=int, default=0, help="of an example of two documents")
  parser.add_argument("--layers", type=int, nargs="+", help="default: all")
  parser.add_argument("--out", type=Path, help="folder; default: the run's")
  command.add_folders(parser)
  args = parser.parse_args()
  progress = Progress()
  trained = trained_run.load(args.run, **command.folders(args), report=progress.live)
  config, depth = trained.config, trained.config.model.num_layers
  ids, lengths, label = attention_maps.example(trained, args.split, args.example)
  if not 0 <= args.document < ids.shape[1]:
    raise UserError(
      f"--document {args.document}: an example of {config.task.name} has {ids.shape[1]}"
    )
  chosen = range(depth) if args.layers is None else args.layers
  if unknown := [i for i in chosen if not 0 <= i < depth]:
    raise UserError(f"--layers {unknown[0]}: the model has layers 0 to {depth - 1}")
  calls, logits = attention_maps.calls(trained.parts.model, trained.best.params, ids, lengths)
  length = int(lengths[0, args.document]) + config.model.cls
  layers = [attention_maps.layer(calls[i], i, args.document, length) for i in chosen]
  of_class = config.train.objective == "classify"
  seen = f"label {label}, predicted {int(logits.argmax())} " if of_class else ""
  about = (
    f"{table_text.name(config.model.attention)} on {table_text.name(config.task.name)}, "
    f"{args.split} example "
    f"{args.example}: {length:,} positions, {seen}"
    f"(parameters of step {int(trained.best.step):,})"
  )
  progress.line(about)
  name = f"attention-{args.split}-{args.example}" + (
    f"-{args.document}" if ids.shape[1] > 1 else ""
  )
  print(*style.write(attention.draw(layers, about), (args.out or args.run) / name))
  return 0


if __name__ == "__main__":
  run_main(main)
