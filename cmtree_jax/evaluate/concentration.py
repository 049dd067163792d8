"""How few documents a recipe trains on; recipes brought to one concentration."""

import numpy as np

from cmtree_jax.tree import mixture


def effective_sample_size(log_w_N: np.ndarray, mass_N: np.ndarray) -> float:
  """Share of the corpus that the weights keep in effect."""
  w_N = np.exp(log_w_N)
  return float((mass_N @ w_N) ** 2 / (mass_N @ w_N**2))


def to_effective_sample_size(
  log_w_N: np.ndarray,
  mass_N: np.ndarray,
  *,
  share: float,
  max_weight: float,
) -> np.ndarray:
  r"""The weights to a power that gives them an effective sample size.

  .. math:: v_i = \min(R,\, c\, w_i^{\beta}), \qquad
            1 / \mathbb{E}[v^2] = s

  The order of the documents stays; beta is found by bisection. Where no power
  reaches the share (all of the highest weight together are more than it), the
  largest one of the search stands.

  Args:
    log_w_N: log-weights of the documents.
    mass_N: their masses; sum to one.
    share: s, from 0 to 1.
    max_weight: R.
  Returns:
    log v, float64; its mean weight is one.

  >>> mass = np.full(4, 0.25)
  >>> log_w = to_effective_sample_size(
  ...   np.log([1.0, 1.0, 1.0, 2.0]), mass, share=0.5, max_weight=4.0
  ... )
  >>> float(round(1 / (mass @ np.exp(2 * log_w)), 3))
  0.5
  """
  low, high = 0.0, _LARGEST_POWER
  for _ in range(_HALVINGS):
    power = (low + high) / 2
    log_v_N = _normalized(power * log_w_N, mass_N, max_weight)
    if effective_sample_size(log_v_N, mass_N) > share:
      low = power
    else:
      high = power
  return _normalized(high * log_w_N, mass_N, max_weight)


_LARGEST_POWER, _HALVINGS = 64.0, 30  # beta to 1e-7


def _normalized(tilt_N, mass_N, max_weight):
  with np.errstate(divide="ignore"):
    log_q_N = np.log(mass_N)
  found = mixture.leaf_log_w(tilt_N, log_q_N, max_weight=max_weight)
  return np.asarray(found, np.float64)
