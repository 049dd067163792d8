"""The best mixture under a convex law, caps, and collapsed domains."""

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


def collapse(
  mixture_J: np.ndarray, cap_J: np.ndarray
) -> tuple[np.ndarray, float]:
  r"""Domains whose relative shares are kept, as one virtual domain.

  Args:
    mixture_J: their shares, of any scale.
    cap_J: the largest share :math:`r N_j / R` that each may have.
  Returns:
    Their shares :math:`\tilde p_J` inside the virtual domain, and the cap of the
    virtual domain, :math:`\min_j r N_j / (R \tilde p_j)`.
  References:
    Olmix, `2602.12237 <https://arxiv.org/abs/2602.12237>`_, mixture reuse.

  >>> inner, cap = collapse(np.array([0.1, 0.1, 0.2]), np.array([0.2, 0.3, 0.3]))
  >>> inner.tolist(), cap
  ([0.25, 0.25, 0.5], 0.6)
  """
  inner_J = mixture_J / mixture_J.sum()
  used_J = inner_J > 0
  return inner_J, float(min(1.0, (cap_J[used_J] / inner_J[used_J]).min()))


def expand(inner_J: np.ndarray, mixture_V: np.ndarray) -> np.ndarray:
  """The mixture of all domains; the virtual one is the first of `mixture_V`.

  >>> expand(np.array([0.25, 0.25, 0.5]), np.array([0.4, 0.6])).tolist()
  [0.1, 0.1, 0.2, 0.6]
  """
  return np.concatenate([mixture_V[0] * inner_J, mixture_V[1:]])
