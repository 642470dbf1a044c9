"""The trivial baseline of Pathfinder: the label predicted from the positions of the two markers."""

import numpy as np

from lra.data.tasks.task import Examples, majority_baseline

REACH = {32: 1, 64: 1, 128: 2, 256: 3}  # side: of the largest centred square in a marker


def find_markers(images: np.ndarray) -> np.ndarray:
  """The two brightest squares that fit into a marker: their centres (row, col), in reading order.

  images: uint8 [n, side, side]. Returns int64 [n, 2, 2].
  """
  n, side, _ = images.shape
  reach = REACH[side]
  size = side - 2 * reach
  rows = np.min([images[:, i : i + size] for i in range(2 * reach + 1)], 0)
  score = np.min([rows[:, :, i : i + size] for i in range(2 * reach + 1)], 0).astype(np.int16)
  row, col = np.ogrid[:size, :size]
  found = np.empty((n, 2), np.int64)
  for k in range(2):
    found[:, k] = score.reshape(n, -1).argmax(1)
    r, c = np.divmod(found[:, k, None, None], size)
    score[np.maximum(abs(row - r), abs(col - c)) <= reach] = -1
  found.sort(axis=1)
  return np.stack(np.divmod(found, size), -1) + reach


def nearest_neighbours(
  markers: np.ndarray, labels: np.ndarray, queries: np.ndarray, k: int = 45
) -> np.ndarray:
  """Majority label of the k nearest pairs of markers, whichever way round. int64 [m]

  markers: int [n, 2, 2]; labels: [n]; queries: int [m, 2, 2].
  """
  same, swapped = (pairs.reshape(-1, 4) for pairs in (markers, markers[:, ::-1]))
  votes = []
  for query in queries.reshape(-1, 4):
    distances = np.minimum(((same - query) ** 2).sum(1), ((swapped - query) ** 2).sum(1))
    votes.append(labels[np.argpartition(distances, k - 1)[:k]].mean() > 0.5)
  return np.array(votes, np.int64)


def baselines(train: Examples, evaluated: Examples) -> dict[str, float]:
  """Accuracy of the commonest label, and of the marker positions alone (first 50,000 and 2,000).

  On hard images of 32 x 32 the latter is 62 % from a thousand training images and 68 % from 50,000.
  """
  markers, labels = _markers(train, 50_000)
  queries, answers = _markers(evaluated, 2_000)
  guesses = nearest_neighbours(markers, labels, queries, k=min(45, len(labels)))
  return {
    "majority class": majority_baseline(train, evaluated),
    "marker position (45-NN)": float(np.mean(guesses == answers)),
  }


def _markers(examples: Examples, count: int) -> tuple[np.ndarray, np.ndarray]:
  """Markers [n, 2, 2] and labels [n] of the first `count` examples."""
  starts = examples.offsets[examples.documents[:count, 0]]
  length = int(examples.offsets[1])
  side = int(length**0.5)
  markers = []
  for i in range(0, len(starts), 500):
    images = np.stack([examples.tokens[start : start + length] for start in starts[i : i + 500]])
    markers.append(find_markers(images.reshape(-1, side, side)))
  return np.concatenate(markers), examples.labels[:count]
