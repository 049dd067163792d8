"""Olmix: a log-linear law of each target, its optimum under caps and near natural."""

from typing import NamedTuple

import jax
import numpy as np

from cmtree_jax import checks, shapes
from cmtree_jax.methods import searching
from cmtree_jax.methods.base import (
  TARGET_FIRST,
  DomainWeights,
  Facts,
  Method,
  Planted,
  Small,
  domain_weights,
)
from cmtree_jax.methods.laws import designs, laws, optimum
from cmtree_jax.methods.searching import Trials


class State(NamedTuple):
  """The runs, and what the fit needs."""

  trials: Trials
  q_K: np.ndarray  # the domains' shares of the corpus
  inner_VK: np.ndarray  # the domains' shares of the parts; one part per domain
  max_weight: np.ndarray  # R


SMALL = Small()
PLANTED = Planted(dict(runs=15), more=TARGET_FIRST)


def make(
  *,
  runs: int | None = None,
  strengths: tuple[float, float] = (0.1, 5.0),
  min_weight: float = 0.002,
  kl: float = 0.05,
  huber_delta: float = 0.02,
  reuse: str = "",
) -> Method:
  r"""Fits a convex law of each target's loss to runs, and minimizes it.

  .. math:: \min_p \frac1T \sum_t e^{A_t \cdot p} + \lambda\, \mathrm{KL}(p \| q)
            \quad\text{with } p_k \le R q_k,\qquad
            L_t(p) = e^{c_t} + e^{A_t \cdot p}

  The runs' mixtures are drawn from Dirichlet distributions around the natural
  mixture q, sparse ones too; caps bind the optimum alone, not the runs.

  When domains come or go, `reuse` extends the recipe that there was. Domains that
  it knows keep their shares of each other, :math:`\tilde p_j \propto q_j w_j` with
  its weights w, and count as one; runs, law and optimum see this part and the new
  domains. The part gets at most the share at which the first of its domains reaches
  its cap, :math:`\min_j R q_j / \tilde p_j`. Where the recipe was made for a
  training that may repeat more, :math:`\tilde p` is first brought to where the part
  may have its natural share; what a domain loses, the others of the part gain.

  Args:
    runs: default 3 (m + 1) for m domains, those kept counted as one.
    strengths: least and largest total concentration of the Dirichlet
      distributions; 15 values with equal ratios between them.
    min_weight: smaller shares of a run's mixture become zero.
    kl: :math:`\lambda`.
    huber_delta: where the fit's loss becomes linear, in bits per byte.
    reuse: workdir of a finished job on labelled sources, by any method; domains are
      the same if their labels are. Without a new domain nothing is run.
  Returns:
    A Method of whole runs. The authors start the fit from 300 random points; see
    `laws.fit_log_linear` for ours.
  Cost:
    3 (K + 1) runs, fewer with `reuse`.
  Raises:
    ValueError: for an option out of its range.
  References:
    Olmix, `2602.12237 <https://arxiv.org/abs/2602.12237>`_, 2026, OlmixBase and
    mixture reuse.
  """
  if runs is not None and runs < 1:
    raise ValueError(f"runs {runs} must be at least 1, or None.")
  if len(strengths) != 2 or not 0 < strengths[0] <= strengths[1]:
    raise ValueError(
      f"strengths {strengths} must be two positive and increasing numbers."
    )
  if not 0 <= min_weight < 1:
    raise ValueError(f"min_weight {min_weight} must be in [0, 1).")
  if not kl >= 0:
    raise ValueError(f"kl {kl} must not be negative.")
  checks.above_zero(huber_delta=huber_delta)

  def init(key: shapes.Key, facts: Facts) -> State:
    q_K = searching.natural(facts)
    share_K = np.full(len(q_K), np.nan)
    if reuse:
      share_K = _kept(q_K, facts.earlier_log_w_K, facts.max_weight)
    inner_VK = optimum.collapse(share_K)
    q_V = _collapsed(q_K, inner_VK)
    count = runs or 3 * (int((q_V > 0).sum()) + 1)
    seed = int(jax.random.randint(key, (), 0, np.iinfo(np.int32).max))
    mixture_RV = _swarm(
      np.random.default_rng(seed),
      q_V,
      count=count if len(q_V) > 1 else 0,
      strengths=strengths,
      min_weight=min_weight,
    )
    return State(
      Trials.plan(mixture_RV @ inner_VK, num_targets=facts.num_targets),
      q_K,
      inner_VK,
      np.array(facts.max_weight, np.float64),
    )

  def finalize(state: State) -> DomainWeights:
    trials, q_K, inner_VK = state.trials, state.q_K, state.inner_VK
    done = np.isfinite(trials.loss_RT).all(axis=1)
    mixture_V = q_V = _collapsed(q_K, inner_VK)
    if done.any():
      law = laws.fit_log_linear(
        _collapsed(trials.mixture_RK[done], inner_VK),
        trials.loss_RT[done],
        huber_delta=huber_delta,
      ).combine(np.full(trials.loss_RT.shape[1], 1 / trials.loss_RT.shape[1]))
      mixture_V = optimum.minimize(
        law.weight_I,
        law.slope_IK,
        prior_K=q_V,
        cap_K=optimum.cap_of_parts(inner_VK, state.max_weight * q_K),
        kl=kl,
      )
    return domain_weights(
      mixture_V @ inner_VK, q_K, max_weight=float(state.max_weight)
    )

  return Method(
    init,
    searching.step,
    finalize,
    frozenset({"domain_B", "target_loss_T"}),
    "runs",
    ask=lambda state: state.trials.pending(),
    extends=reuse,
  )


def _kept(q_K, earlier_log_w_K, max_weight):
  """Shares of the domains that a recipe knows, capped; NaN for the others."""
  w_K = np.exp(np.asarray(earlier_log_w_K, np.float64))
  known_K = np.isfinite(w_K) & (q_K > 0)
  share_K = np.where(np.isfinite(w_K), 0.0, np.nan)
  if known_K.any():
    q_D = q_K[known_K] / q_K[known_K].sum()
    share_D = q_D * w_K[known_K] / (q_D @ w_K[known_K])
    share_K[known_K] = designs.capped(share_D[None], max_weight * q_D)[0]
  return share_K


def _collapsed(mixture_K, inner_VK):
  """The shares of the parts [..., V] in mixtures [..., K]."""
  return mixture_K @ (inner_VK > 0).T


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
