"""Numbers between bounds with a sum that is given: what parts get of a budget."""

import numpy as np

from cmtree_jax.shapes import Array, FloatK


def project(
  wish_K: FloatK,
  *,
  total: float,
  lower_K: FloatK | float = 0.0,
  upper_K: FloatK | float = np.inf,
) -> np.ndarray:
  r"""The numbers nearest to those wished for that obey bounds and sum.

  .. math:: \min_x \tfrac12 |x - q|^2 \quad \text{such that} \quad
            \textstyle\sum_k x_k = N, \; l_k \le x_k \le u_k; \qquad
            x_k = \mathrm{clip}(q_k + \mu, l_k, u_k)

  The sum is a broken line in mu whose corners are where a number reaches a bound, so
  mu is found exactly by sorting them. With the default bounds and N = 1 this is the
  projection on the simplex.

  Args:
    wish_K: q.
    total: N.
    lower_K: l, finite.
    upper_K: u, infinite where there is none.
  Returns:
    x, float64.
  Raises:
    ValueError: no numbers between the bounds have this sum.

  >>> project(np.array([0.2, 0.5, 2.0]), total=1.0)
  array([0., 0., 1.])
  >>> project(np.array([1.0, 2.0, 9.0]), total=9.0, upper_K=4.0)
  array([2., 3., 4.])
  """
  q_K = np.asarray(wish_K, np.float64)
  lower_K, upper_K = _bounds(q_K, total, lower_K, upper_K)
  # The sum rises with one more slope from where a number leaves its lower bound to
  # where it reaches its upper one.
  corner_C = np.concatenate([lower_K - q_K, upper_K - q_K])
  turn_C = np.repeat([1.0, -1.0], len(q_K))
  order_C = np.argsort(corner_C, kind="stable")
  corner_C, slope_C = corner_C[order_C], np.cumsum(turn_C[order_C])
  rise_C = np.append(0.0, np.cumsum(slope_C[:-1] * np.diff(corner_C)))
  last = np.searchsorted(rise_C, total - lower_K.sum(), side="right") - 1
  mu = corner_C[last]
  if slope_C[last] > 0:
    mu += (total - lower_K.sum() - rise_C[last]) / slope_C[last]
  return np.clip(q_K + mu, lower_K, upper_K)


def fill(
  score_K: FloatK,
  *,
  total: float,
  lower_K: FloatK | float = 0.0,
  upper_K: FloatK | float = np.inf,
) -> np.ndarray:
  r"""The numbers of the greatest scored sum that obey bounds and sum.

  .. math:: \max_x \sum_k s_k x_k \quad \text{such that} \quad
            \textstyle\sum_k x_k = N, \; l_k \le x_k \le u_k

  The best are filled to their upper bounds, one after the other; of equal scores the
  first.

  Args:
    score_K: s.
    total: N.
    lower_K: l, finite.
    upper_K: u, infinite where there is none.
  Returns:
    x, float64.
  Raises:
    ValueError: no numbers between the bounds have this sum.

  >>> fill(np.array([0.1, 0.9, 0.5]), total=1.0, upper_K=0.6)
  array([0. , 0.6, 0.4])
  """
  score_K = np.asarray(score_K, np.float64)
  lower_K, upper_K = _bounds(score_K, total, lower_K, upper_K)
  order_K = np.argsort(-score_K, kind="stable")
  room_K = (upper_K - lower_K)[order_K]
  left_K = total - lower_K.sum() - (np.cumsum(room_K) - room_K)
  x_K = lower_K.copy()
  x_K[order_K] += np.clip(left_K, 0.0, room_K)
  return x_K


def whole(x_K: FloatK) -> np.ndarray:
  """Counts near to numbers that are zero or more, with the same sum, int64.

  All are rounded down, then those with the largest remainders get one more, the
  first of equal ones. Bounds that are whole numbers hold for the counts too.

  Args:
    x_K: their sum is a whole number, but for rounding.

  >>> whole(np.array([1.4, 0.3, 2.3]))
  array([2, 0, 2])
  """
  x_K = np.asarray(x_K, np.float64)
  count_K = np.floor(x_K).astype(np.int64)
  missing = round(float(x_K.sum())) - int(count_K.sum())
  order_K = np.argsort(count_K - x_K, kind="stable")
  count_K[order_K[:missing]] += 1
  return count_K


def _bounds(
  like_K: np.ndarray, total: float, lower_K: Array, upper_K: Array
) -> tuple[np.ndarray, np.ndarray]:
  """Bounds as finite arrays."""
  lower_K = np.broadcast_to(np.asarray(lower_K, np.float64), like_K.shape)
  upper_K = np.broadcast_to(np.asarray(upper_K, np.float64), like_K.shape)
  least, most = float(lower_K.sum()), float(upper_K.sum())
  slack = 1e-9 * max(1.0, abs(total))  # what sums may differ by in rounding
  if (lower_K > upper_K).any() or not least - slack <= total <= most + slack:
    raise ValueError(
      f"Wanted {len(like_K)} numbers with the sum {total:.6g}, but their bounds "
      f"allow sums from {least:.6g} to {most:.6g} alone."
    )
  # None can get more than all that is left above the lower bounds.
  room = max(total - least, 0.0)
  return lower_K.copy(), np.minimum(upper_K, lower_K + room)
