"""What all tasks share."""

import numpy as np

from lra.data.tasks.task import duplicates, pack


def test_duplicates_are_counted_by_bytes_and_without_order():
  pairs = lambda *rows: np.array(rows, np.int32)
  splits = {
    "train": pack([b"a", b"bb", b"c"], [0, 0, 0])._replace(documents=pairs((0, 1), (1, 2))),
    "validation": pack([b"bb", b"a"], [0, 0])._replace(documents=pairs((0, 1), (0, 0))),
    "test": pack([b"c", b"a", b"bb"], [0, 0, 0])._replace(documents=pairs((2, 0), (0, 1), (0, 2))),
  }
  assert duplicates(splits) == {
    "test in train": 2,
    "validation in train": 1,
    "validation in test": 0,
  }
