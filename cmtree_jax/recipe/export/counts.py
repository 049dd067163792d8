r"""How often each document is repeated: systematic rounding of expected counts.

.. math:: c_i = e w_i, \quad C_i = \sum_{j \le i} c_j, \quad
          n_i = \lfloor C_i + u \rfloor - \lfloor C_{i-1} + u \rfloor

with e epochs, weights w and one u, uniform in [0, 1). Every count is the floor or the
ceiling of its expectation, the expectation over u is :math:`c_i`, and the sum over any
run of documents is within one of its own.

Sums are kept as integers in units of :math:`2^{-40}`, so that they are exact at any
length and do not depend on where a corpus is cut into shards. Only the fraction of
:math:`C_i + u` is needed to go on; it is what one shard hands to the next.

References:
  Madow, *On the theory of systematic sampling, II*, 1949.
"""

import numpy as np

# Of an expected count: 24 bits remain for its whole part, and rounding a count to
# the unit moves the sum of 1e9 documents by less than 1e-3.
_BITS = 40
_ONE = 1 << _BITS


def offset(seed: int) -> int:
  """The u of a seed, in units: where the first shard starts."""
  word = np.random.Philox(key=seed).random_raw()
  return int(word) >> (64 - _BITS)


def repeat(expected_N: np.ndarray, start: int) -> tuple[np.ndarray, int]:
  """Whole counts with the given expectations.

  Shards can be done in any order: the end of a shard that starts at zero is the
  fraction of its sum, and starts add up modulo one.

  >>> counts, end = repeat(np.array([0.5, 0.5, 2.25]), start=0)
  >>> counts.tolist(), end / 2**40
  ([0, 1, 2], 0.25)

  Args:
    expected_N: float64, at least zero and below two million each.
    start: the fraction of C + u before the first document, in units.
  Returns:
    (int64 counts, the fraction after the last document).
  Raises:
    ValueError: an expectation is out of range.
  """
  if not np.all((expected_N >= 0) & (expected_N < 2**21)):
    raise ValueError("Wanted expected counts from zero to two million.")
  unit_N = np.rint(np.ldexp(expected_N, _BITS)).astype(np.uint64)
  # Overflow wraps at a multiple of one, so the fractions remain right.
  after_N = np.cumsum(unit_N, dtype=np.uint64) + np.uint64(start)
  fraction_N = (after_N - unit_N) & np.uint64(_ONE - 1)
  count_N = (fraction_N + unit_N) >> np.uint64(_BITS)
  end = int(after_N[-1]) % _ONE if len(after_N) else start
  return count_N.astype(np.int64), end


def repeat_by_stage(
  expected_NG: np.ndarray, start: int, uniform_N: np.ndarray
) -> tuple[np.ndarray, int]:
  r"""Whole counts of every document in every stage of a training.

  The counts over all stages are those of `repeat`. A document's are then divided
  between stages by systematic rounding within the document,

  .. math:: n_{ig} = \lfloor C_{ig} + u_i \rfloor - \lfloor C_{i,g-1} + u_i \rfloor

  with an offset of its own among those that give its count. With one offset for all,
  documents that are expected a whole number of times (all of those at a limit) would
  be divided alike, and a stage be given far too much or too little.

  >>> alike_NG = np.tile([0.75, 1.5, 0.75], (3, 1))
  >>> repeat_by_stage(alike_NG, 0, np.array([0.1, 0.5, 0.9]))[0]
  array([[0, 2, 1],
         [1, 1, 1],
         [1, 2, 0]])

  Args:
    expected_NG: float64, at least zero; of a document below two million in all.
    start: as in `repeat`.
    uniform_N: numbers between zero and one, by chance.
  Returns:
    (int64 counts, the fraction after the last document).
  Raises:
    ValueError: an expectation is out of range.
  """
  # A document at a limit is there in shares of it. Were these rounded up, their sum
  # could be above the limit, and so could the counts.
  floor_NG = np.floor(np.ldexp(expected_NG, _BITS))
  count_N, end = repeat(np.ldexp(floor_NG.sum(axis=1), -_BITS), start)
  after_NG = np.cumsum(floor_NG.astype(np.int64), axis=1)
  fraction_N = after_NG[:, -1] & (_ONE - 1)
  is_more_N = count_N > after_NG[:, -1] >> _BITS
  room_N = np.where(is_more_N, fraction_N, _ONE - fraction_N)
  first_N = np.where(is_more_N, _ONE - fraction_N, 0)
  offset_N = first_N + np.floor(uniform_N * room_N).astype(np.int64)
  whole_NG = (after_NG + offset_N[:, None]) >> _BITS
  return np.diff(whole_NG, axis=1, prepend=0), end
