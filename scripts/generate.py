"""Continues a text with a trained language model, token by token, and prints at what speed.

    scripts/run scripts/generate.py runs/bytes_cosformer-quick-seed0 --prompt "This film is"
    scripts/run scripts/generate.py runs/bytes_softmax-quick-seed0 --prompt "I" --temperature 0.7

Linear attention and cosFormer remember the past in a state that does not grow, softmax in a cache of
keys and values. The text goes to standard output, speeds and memory to standard error.
"""

import codecs
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from lra.runs import command, generation
from lra.system.errors import UserError
from lra.system.process import run_main


def main() -> int:
  """Prints the prompt and what follows it."""
  parser = command.parser(__doc__)
  parser.add_argument("run", type=Path, help="a run's folder (--workdir), of objective next")
  parser.add_argument("--prompt", required=True, help="the text to continue")
  parser.add_argument("--tokens", type=int, help="how many bytes; default: 400, or what fits")
  parser.add_argument("--temperature", type=float, default=1.0, help="0: the most likely byte")
  parser.add_argument("--seed", type=int, default=0, help="of the choice of bytes")
  args = parser.parse_args()
  if args.tokens is not None and args.tokens < 1:
    raise UserError(f"--tokens must be at least 1, not {args.tokens}")
  if not 0 <= args.temperature < float("inf"):
    raise UserError(f"--temperature must be at least 0, not {args.temperature}")
  if not 0 <= args.seed < 2**32:
    raise UserError(f"--seed must be at least 0 and below 2^32, not {args.seed}")
  loaded, speed = generation.load(args.run), generation.Speed()
  prompt = args.prompt.encode("utf-8", "surrogateescape")
  decoder = codecs.getincrementaldecoder("utf-8")("replace")
  pieces = generation.generate(
    loaded, prompt, args.tokens, temperature=args.temperature, seed=args.seed, speed=speed
  )
  begun = False
  for piece in pieces:
    print(("" if begun else args.prompt) + decoder.decode(piece), end="", flush=True)
    begun = True
  print(decoder.decode(b"", final=True))
  grows = "a cache of keys and values" if loaded.config.model.attention == "softmax" else "a state"
  print(
    f"{speed.written:,} tokens in {speed.writing:.2f} s ({speed.written / speed.writing:,.0f} a second"
    f"), the prompt at {speed.read / speed.reading:,.0f} a second; {grows} of "
    f"{speed.state_bytes / 1024:,.0f} KiB",
    file=sys.stderr,
  )
  return 0


if __name__ == "__main__":
  run_main(main)
