"""The best mixture under a convex law and caps, and parts of several domains."""

import numpy as np


def minimize(
  weight_I: np.ndarray,
  slope_IK: np.ndarray,
  *,
  prior_K: np.ndarray,
  cap_K: np.ndarray,
  kl: float = 0.0,
) -> np.ndarray:
  r"""The mixture with the least weighted sum of exponentials, near the prior.

  .. math:: \min_p \sum_i w_i e^{A_i \cdot p} + \lambda\, \mathrm{KL}(p \| p_0)
            \quad \text{with } 0 \le p_k \le \mathrm{cap}_k,\ \textstyle\sum p = 1

  Args:
    weight_I: w, not negative.
    slope_IK: A.
    prior_K: :math:`p_0`; where it is zero, p is.
    cap_K: sums to at least one.
    kl: :math:`\lambda`.
  Returns:
    p, in float64; the prior under the caps where the solver found nothing better.
  References:
    Olmix, `2602.12237 <https://arxiv.org/abs/2602.12237>`_, the exact proposer.
  """
  import scipy.optimize

  usable_K = (prior_K > 0) & (cap_K > 0)
  prior, cap = prior_K[usable_K] / prior_K.sum(), cap_K[usable_K]
  slope, floor = slope_IK[:, usable_K], 1e-12  # the logarithm's
  if cap.sum() <= 1 + 1e-9:  # nothing to choose
    return _place(cap / cap.sum(), usable_K)
  # In units of a typical loss, so that the solver's tolerance is relative.
  start = _capped(prior, cap)
  scale = weight_I @ np.exp(slope @ start) + kl

  def objective(p):
    p = np.maximum(p, floor)
    exp_I = weight_I * np.exp(np.minimum(slope @ p, 500.0))
    log_ratio = np.log(p / prior)
    value = exp_I.sum() + kl * (p @ log_ratio)
    return value / scale, (slope.T @ exp_I + kl * (log_ratio + 1)) / scale

  found = scipy.optimize.minimize(
    objective,
    start,
    jac=True,
    method="SLSQP",
    bounds=[(0.0, one) for one in cap],
    constraints={
      "type": "eq",
      "fun": lambda p: p.sum() - 1,
      "jac": lambda p: np.ones_like(p),
    },
    options={"maxiter": 1000, "ftol": 1e-14},
  )
  best = _capped(np.clip(found.x, 0, cap), cap)
  if not objective(best)[0] <= objective(start)[0]:  # also where it is NaN
    best = start
  return _place(best, usable_K)


def _capped(p, cap):
  """p scaled up to sum to one, what exceeds a cap going to the others."""
  for _ in range(len(p)):
    over = p >= cap
    p = np.where(over, cap, p)
    rest = p[~over].sum()
    if rest <= 0:
      break
    p = np.where(over, cap, p * (1 - cap[over].sum()) / rest)
    if (p <= cap * (1 + 1e-12)).all():
      break
  return p / p.sum()


def _place(p, usable_K):
  mixture_K = np.zeros(len(usable_K))
  mixture_K[usable_K] = p
  return mixture_K


def collapse(share_K: np.ndarray) -> np.ndarray:
  r"""Parts of a mixture: domains whose relative shares are kept are one together.

  Args:
    share_K: their shares, of any scale; NaN for a domain that is a part of its own.
  Returns:
    inner_VK, the shares of the domains in each part; rows sum to one, and
    `mixture_V @ inner_VK` is a mixture of the domains. The first part is that of
    the domains kept, if there are any.
  References:
    Olmix, `2602.12237 <https://arxiv.org/abs/2602.12237>`_, mixture reuse.

  >>> inner_VK = collapse(np.array([0.1, 0.1, 0.2, np.nan]))
  >>> (np.array([0.4, 0.6]) @ inner_VK).tolist()
  [0.1, 0.1, 0.2, 0.6]
  """
  alone_K = np.isnan(share_K)
  inner_VK = np.eye(len(share_K))[alone_K]
  if alone_K.all():
    return inner_VK
  kept_K = np.where(alone_K, 0.0, share_K)
  return np.vstack([kept_K / kept_K.sum(), inner_VK])


def cap_of_parts(inner_VK: np.ndarray, cap_K: np.ndarray) -> np.ndarray:
  r"""The largest share of each part: min over its domains of cap / inner share.

  >>> inner_VK = collapse(np.array([0.1, 0.1, 0.2, np.nan]))
  >>> cap_of_parts(inner_VK, np.array([0.1, 0.3, 0.3, 0.5])).tolist()
  [0.4, 0.5]
  """
  cap_VK = cap_K / np.where(inner_VK > 0, inner_VK, np.nan)
  return np.nanmin(cap_VK, axis=1)
