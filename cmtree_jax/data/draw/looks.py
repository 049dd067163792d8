r"""Weights under which no document is drawn too often, from how often each has been.

A training that may change its weights knows how far each document has moved: how many
draws it was to expect under the weights so far (`sampler`). None weighs more than what
is left of that; what this takes goes to the rest. The draws themselves do not count. A
document that had its last one early would lose the weight that it has been drawn for,
and documents of constant weights would be left out before their time.
"""

from typing import NamedTuple

import numpy as np

from cmtree_jax.data.draw.sampler import Sampler, SamplerState
from cmtree_jax.data.draw.subpool import Subpool


class Looks(NamedTuple):
  """Looks at the documents of a sub-pool so far."""

  count_N: np.ndarray  # int, draws
  left_N: np.ndarray  # draws that may be expected yet; zero outside

  def weights(
    self, weight_N: np.ndarray, mass_N: np.ndarray, ahead: float
  ) -> np.ndarray:
    """Weights that bring no document above its looks; see `within`.

    Args:
      weight_N: of mean one in the sub-pool, zero outside.
      mass_N: shares of the sub-pool's tokens.
      ahead: epochs of the sub-pool that will be drawn under them.
    """
    return within(weight_N, mass_N, self.left_N / ahead)

  def worth(self, r_star: float) -> np.ndarray:
    r"""What one more look is worth beside the first, :math:`e^{-n / R^*}`.

    References:
      Muennighoff et al., `Scaling Data-Constrained Language Models
      <https://arxiv.org/abs/2305.16264>`_, 2023, eq. 5 and 6.
    """
    return np.exp(-self.count_N / r_star)


def of(sampler: Sampler, state: SamplerState, seen: Subpool) -> Looks:
  """The looks that a stream has had.

  Args:
    sampler: of the stream.
    state: where it stands.
    seen: the sub-pool; its cap times its epochs is how often a document may be seen.
  """
  most = seen.max_weight * seen.epochs
  count_N, expected_N = sampler.looks(state)
  # A piece is drawn once before its expected draws reach each whole number. So with
  # at most three expected it is drawn three times at most.
  left_N = np.maximum(most - expected_N, 0.0)
  return Looks(count_N, np.where(seen.inside_N, left_N, 0.0))


def within(
  weight_N: np.ndarray, mass_N: np.ndarray, most_N: np.ndarray
) -> np.ndarray:
  r"""Weights of mean one, none above its own bound; the excess goes to the rest.

  .. math:: v_i = \min(R_i,\, c\, w_i), \qquad \sum_i q_i v_i = 1

  Where all documents of positive weight at their bounds do not make the mean, those
  of weight zero share what is left, in proportion to their bounds.

  Args:
    weight_N: w, of mean one.
    mass_N: q, sums to one; zero where a document may not be drawn at all.
    most_N: R_i, zero or more.
  Returns:
    v; `weight_N` itself where no bound is in the way.

  >>> within(np.array([2.0, 1, 0]), np.array([0.25, 0.5, 0.25]), np.full(3, 1.5))
  array([1.5 , 1.25, 0.  ])
  """
  if (weight_N <= most_N).all():
    return weight_N
  # In the order in which documents reach their bounds as c rises.
  with np.errstate(divide="ignore", invalid="ignore"):
    reach_N = np.where(weight_N > 0, most_N / weight_N, np.inf)
  order_N = np.argsort(reach_N, kind="stable")
  full_O = np.cumsum((mass_N * most_N)[order_N])
  rest_O = np.cumsum((mass_N * weight_N)[order_N][::-1])[::-1]
  weighted = int((weight_N > 0).sum())
  # With the first k at their bounds, the others share what is left.
  full_O = np.concatenate([[0.0], full_O])[:weighted]
  rest_O = rest_O[:weighted]
  scale_O = (1 - full_O) / np.maximum(rest_O, _TINY)
  fits_O = scale_O <= reach_N[order_N][:weighted]
  if fits_O.any():
    return np.minimum(most_N, scale_O[np.argmax(fits_O)] * weight_N)
  bound_N = np.where(weight_N > 0, most_N, 0.0)
  others_N = np.where(weight_N > 0, 0.0, mass_N * most_N)
  left = 1 - mass_N @ bound_N
  # Nothing is left but by rounding where there are no others.
  share = min(1.0, left / others_N.sum()) if others_N.sum() > 0 else 0.0
  return np.where(weight_N > 0, bound_N, share * most_N)


_TINY = 1e-300
