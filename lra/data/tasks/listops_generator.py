"""The ListOps tree generator: compiled, threaded, and a pure function of the seed.

Tree i of seed s draws from its own SplitMix64 stream (Steele, Lea and Flood, 2014), so it depends
on (s, i) alone. A first pass surveys trees in order for length and fingerprint, a second one draws
the kept trees again, straight into their place; no thread or batch can change a byte of the result.
"""

import itertools
import time
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor

import numpy as np
from numba import njit

from lra.data.tasks.listops_tokens import BRACKET, DIGIT_0, MAX, MIN, SUM_MOD, Limits
from lra.system import cores
from lra.system.errors import UserError

VERSION = 1  # of the stream: another number wherever the same seed would give other bytes

CHUNK = 1024  # trees a thread surveys at a time
ROUND = 64 * CHUNK  # trees between two reports
STRETCH = 64 * ROUND  # trees between two looks at whether the end will ever be reached
MAX_STRETCHES = 100

_STEP = np.uint64(0x9E3779B97F4A7C15)
_OPERATOR_BELOW = np.uint64(1 << 62)  # a quarter of the 64-bit numbers


@njit(nogil=True)
def _mix(z):
  """SplitMix64's output function: number k of the stream from z is _mix(z + k * _STEP)."""
  z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
  z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
  return z ^ (z >> np.uint64(31))


@njit(nogil=True)
def _below(word, n):
  """A 64-bit number as a uniform integer in [0, n); the bias is under n / 2^32."""
  return np.int64(((word >> np.uint64(32)) * np.uint64(n)) >> np.uint64(32))


@njit(nogil=True)
def _ranked(tally, rank):
  """The digit at place `rank`, from 0, of the sorted digits that `tally` counts."""
  digit = 0
  while rank >= tally[digit]:
    rank -= tally[digit]
    digit += 1
  return digit


@njit(nogil=True)
def _apply(operator, tally):
  """The value of an operator whose arguments are tally[0] zeros, tally[1] ones, ..."""
  total = 0
  arity = 0
  for digit in range(10):
    total += digit * tally[digit]
    arity += tally[digit]
  if operator == SUM_MOD:
    return total % 10
  if operator == MIN:
    return _ranked(tally, 0)
  if operator == MAX:
    return _ranked(tally, arity - 1)
  return (_ranked(tally, (arity - 1) // 2) + _ranked(tally, arity // 2)) // 2


@njit(nogil=True)
def _draw(seed, index, limits, tokens):
  """Draws tree `index` into `tokens`; its length and value, or (0, 0) if it is too long.

  A node above max_depth is an operator with probability 1/4, with 2 to max_args arguments, all
  equally likely; any other node is a uniform digit. Drawing stops as soon as the tokens that are
  certain to come reach max_length, which rejects the very trees the finished length would.
  """
  state = _mix(_mix(seed) + np.uint64(index))
  levels = min(limits.max_depth, limits.max_length)
  operators = np.empty(levels, np.int64)  # of the nodes that are open, outermost first
  missing = np.empty(levels, np.int64)  # their arguments still to be drawn
  tallies = np.empty((levels, 10), np.int64)  # the values of their arguments so far
  level = 0
  length = 0
  certain = 1
  while True:
    state += _STEP
    if level + 1 < limits.max_depth and _mix(state) < _OPERATOR_BELOW:
      state += _STEP
      arity = 2 + _below(_mix(state), limits.max_args - 1)
      certain += arity + 1
      if certain >= limits.max_length:
        return 0, 0
      state += _STEP
      operators[level] = MIN + _below(_mix(state), 4)
      missing[level] = arity
      tallies[level] = 0
      tokens[length] = operators[level]
      length += 1
      level += 1
      continue
    state += _STEP
    value = _below(_mix(state), 10)
    tokens[length] = DIGIT_0 + value
    length += 1
    while level > 0:
      tallies[level - 1, value] += 1
      missing[level - 1] -= 1
      if missing[level - 1] > 0:
        break
      level -= 1
      value = _apply(operators[level], tallies[level])
      tokens[length] = BRACKET
      length += 1
    if level == 0:
      return length, value


@njit(nogil=True)
def survey(seed, start, count, limits):
  """Lengths, 0 where rejected, and 64-bit fingerprints of trees start, start + 1, ... [count]."""
  lengths = np.zeros(count, np.int32)
  prints = np.zeros(count, np.uint64)
  tokens = np.empty(limits.max_length, np.uint8)
  for i in range(count):
    length, _ = _draw(seed, start + i, limits, tokens)
    if length > limits.min_length:
      lengths[i] = length
      state = np.uint64(length)
      for j in range(length):
        state = _mix(state + _STEP * np.uint64(tokens[j]))
      prints[i] = state
  return lengths, prints


@njit(nogil=True)
def _redraw(seed, indices, offsets, limits, tokens, labels):
  """Writes tree indices[i] at tokens[offsets[i]] and its value at labels[i]."""
  for i in range(len(indices)):
    _, value = _draw(seed, indices[i], limits, tokens[offsets[i] : offsets[i + 1]])
    labels[i] = value


def _collect(
  pool: Executor, seed: np.uint64, count: int, limits: Limits, report: Callable
) -> tuple[np.ndarray, np.ndarray]:
  """Index and length of the first `count` distinct trees that the limits let through.

  Trees are told apart by fingerprint: two equal ones never both pass, and the chance that a new one
  is lost to a collision is about count^2 / 2^65.
  """
  found: dict[int, tuple[int, int]] = {}
  reported, before = time.monotonic(), 0
  for drawn in itertools.count(ROUND, ROUND):
    starts = range(drawn - ROUND, drawn, CHUNK)
    surveys = pool.map(lambda start: survey(seed, start, CHUNK, limits), starts)
    lengths, prints = map(np.concatenate, zip(*surveys, strict=True))
    passed = np.flatnonzero(lengths)
    _, first = np.unique(prints[passed], return_index=True)
    for i in passed[np.sort(first)].tolist():
      found.setdefault(int(prints[i]), (drawn - ROUND + i, int(lengths[i])))
    if len(found) >= count:
      kept = np.array(list(itertools.islice(found.values(), count)), np.int64)
      return kept[:, 0], kept[:, 1]
    if drawn % STRETCH == 0:
      if (len(found) - before) * MAX_STRETCHES < count:
        raise UserError(
          f"listops: {drawn:,} random trees gave only {len(found):,} of {count:,} distinct examples"
          f" with {limits}; widen the lengths, raise max_depth or max_args, or ask for fewer"
        )
      before = len(found)
    if time.monotonic() - reported >= 1:
      reported = time.monotonic()
      report(f"listops: {len(found):,} / {count:,} examples")


def generate(
  limits: Limits,
  *,
  seed: int,
  count: int,
  report: Callable[[str], None],
  workers: int | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """`count` distinct trees: tokens uint8 [total], offsets int64 [count + 1], labels uint8 [count].

  `workers` threads (default: one a core) share the work; the bytes never depend on how many.
  Raises UserError where the trees within `limits` are too rare or too few.
  """
  seed = np.uint64(seed % 2**64)
  with ThreadPoolExecutor(workers or len(cores.available())) as pool:
    indices, lengths = _collect(pool, seed, count, limits, report)
    offsets = np.zeros(count + 1, np.int64)
    np.cumsum(lengths, out=offsets[1:])
    tokens = np.empty(offsets[-1], np.uint8)
    labels = np.empty(count, np.uint8)

    def fill(start):
      rows = slice(start, start + CHUNK)
      _redraw(seed, indices[rows], offsets[start : start + CHUNK + 1], limits, tokens, labels[rows])

    list(pool.map(fill, range(0, count, CHUNK)))
  return tokens, offsets, labels
