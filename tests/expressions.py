"""ListOps data of a few expressions, and their trees, for the tests of its task."""

import numpy as np

from lra.data.tasks import listops

LRA = dict(min_length=500, max_length=2000, max_depth=10, max_args=10)
SMALL = dict(min_length=8, max_length=64, max_depth=4, max_args=5)
SIZES = dict(train=2000, validation=200, test=300)
TOKENS = "[MIN [MAX [MED [SM ] 0 1 2 3 4 5 6 7 8 9".split()
NESTED = "( ( ( [MIN 2 ) ( ( ( [MAX 3 ) 4 ) ] ) ) ] )"  # MIN(2, MAX(3, 4))


def prepare(raw_dir=None, report=lambda text: None, **options):
  options = LRA | SIZES | dict(seed=0) | options
  cache = raw_dir / "cache" if raw_dir else None
  return listops.prepare(raw_dir=raw_dir, cache_dir=cache, report=report, **options)


def documents(examples):
  return np.split(examples.tokens, examples.offsets[1:-1])


def parse(ids):
  """The tree of a sequence: a digit, or a list of the operator and its arguments."""
  root = []
  stack = [root]
  for token in (TOKENS[i - 1] for i in ids):
    if token == "]":
      stack.pop()
    elif token.isdigit():
      stack[-1].append(int(token))
    else:
      stack[-1].append([token])
      stack.append(stack[-1][-1])
  assert stack == [root] and len(root) == 1, "brackets do not match"
  return root[0]
