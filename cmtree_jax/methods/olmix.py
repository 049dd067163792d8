"""Olmix: a log-linear law of each target, its optimum under caps and near natural."""

import jax
import numpy as np

from cmtree_jax import shapes
from cmtree_jax.methods import checks, searching
from cmtree_jax.methods.base import (
  TARGET_FIRST,
  DomainWeights,
  Facts,
  Method,
  Planted,
  Small,
)
from cmtree_jax.methods.laws import laws, optimum

SMALL = Small()
PLANTED = Planted(dict(runs=15), more=TARGET_FIRST)


def make(
  *,
  runs: int | None = None,
  strengths: tuple[float, float] = (0.1, 5.0),
  min_weight: float = 0.002,
  kl: float = 0.05,
  huber_delta: float = 0.02,
) -> Method:
  r"""Fits a convex law of each target's loss to a swarm of runs, and minimizes it.

  .. math:: \min_p \frac1T \sum_t e^{A_t \cdot p} + \lambda\, \mathrm{KL}(p \| q)
            \quad\text{with } p_k \le R q_k,\qquad
            L_t(p) = e^{c_t} + e^{A_t \cdot p}

  The runs' mixtures are drawn from Dirichlet distributions around the natural
  mixture q, sparse ones too; caps bind the optimum alone, not the runs. When domains
  change, `mixtures.optimum.collapse` and `expand` keep what was learned.

  Args:
    runs: default 3 (m + 1) for m domains.
    strengths: least and largest total concentration of the Dirichlet
      distributions; 15 values with equal ratios between them.
    min_weight: smaller shares of a run's mixture become zero.
    kl: :math:`\lambda`.
    huber_delta: where the fit's loss becomes linear, in bits per byte.
  Returns:
    A Method of whole runs. The authors start the fit from 300 random points; see
    `mixtures.laws.fit_log_linear` for ours.
  Raises:
    ValueError: for an option out of its range.
  References:
    Olmix, `2602.12237 <https://arxiv.org/abs/2602.12237>`_, 2026, OlmixBase.
  """
  if runs is not None and runs < 1:
    raise ValueError(f"runs {runs} must be at least 1, or None.")
  if not 0 < strengths[0] <= strengths[1]:
    raise ValueError(f"strengths {strengths} must be positive and increasing.")
  if not 0 <= min_weight < 1:
    raise ValueError(f"min_weight {min_weight} must be in [0, 1).")
  if not kl >= 0:
    raise ValueError(f"kl {kl} must not be negative.")
  checks.above_zero(huber_delta=huber_delta)

  def init(key: shapes.Key, facts: Facts) -> searching.State:
    state = searching.start(key, facts)
    seed = int(jax.random.randint(key, (), 0, np.iinfo(np.int32).max))
    mixture_RK = _swarm(
      np.random.default_rng(seed),
      state.q_K,
      count=runs or 3 * (int((state.q_K > 0).sum()) + 1),
      strengths=strengths,
      min_weight=min_weight,
    )
    return state.plan(mixture_RK)

  def finalize(state: searching.State) -> DomainWeights:
    trials, q_K = state.trials, state.q_K
    done = np.isfinite(trials.loss_RT).all(axis=1)
    mixture_K = q_K
    if done.any():
      law = laws.fit_log_linear(
        trials.mixture_RK[done], trials.loss_RT[done], huber_delta=huber_delta
      ).combine(np.full(trials.loss_RT.shape[1], 1 / trials.loss_RT.shape[1]))
      mixture_K = optimum.minimize(
        law.weight_I,
        law.slope_IK,
        prior_K=q_K,
        cap_K=state.cap_K,
        kl=kl,
      )
    return state.weights(mixture_K)

  return Method(
    init,
    searching.step,
    finalize,
    frozenset({"domain_B", "target_loss_T"}),
    "runs",
    ask=lambda state: state.trials.pending(),
  )


def _swarm(rng, q_K, *, count, strengths, min_weight):
  """Mixtures [count, K] around q."""
  used_K = q_K > 0
  mixture_RK = np.zeros((count, len(q_K)))
  # 15 strengths, as in the authors' configuration.
  strength_R = rng.choice(np.geomspace(strengths[0], strengths[1], 15), count)
  for row, strength in enumerate(strength_R):
    share = rng.dirichlet(strength * q_K[used_K])
    # The largest stays, whatever the threshold is.
    share[(share < min_weight) & (share < share.max())] = 0.0
    mixture_RK[row, used_K] = share / share.sum()
  return mixture_RK
