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
