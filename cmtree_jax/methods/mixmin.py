"""MixMin: the mixture of one proxy per domain that explains the target best."""

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
  Signals,
  Small,
  domain_weights,
)
from cmtree_jax.methods.laws import designs
from cmtree_jax.methods.searching import Trials


class State(NamedTuple):
  """One run per domain that has text, and how well each predicts the targets."""

  trials: Trials
  log_p_RM: np.ndarray  # log-probability of each document; NaN before the run
  tokens_M: np.ndarray  # |x|
  weight_M: np.ndarray  # weights in the fit; sum to one, 0: held out
  heldout_M: np.ndarray  # weights among the documents held out; sum to one
  q_K: np.ndarray  # the domains' shares of the corpus
  max_weight: np.ndarray  # R


class Info(NamedTuple):
  """What one run showed."""

  loss: float  # bits per byte, mean over targets
  # Nats per token of all proxies' mixture on held-out documents; NaN before the
  # last run.
  heldout_loss: float


SMALL = Small(dict(form="em", max_steps=1000, tolerance=1e-6))
PLANTED = Planted(
  dict(form="em", max_steps=500, tolerance=1e-6), more=TARGET_FIRST
)


def make(
  *,
  step_size: float = 1.0,
  max_steps: int = 100,
  tolerance: float = 1e-4,
  holdout: float = 0.2,
  form: str = "paper",
) -> Method:
  r"""Mixes the models of single domains to the likeliest model of the target.

  .. math:: \min_\lambda \; L(\lambda) = - \sum_x \frac{a_x}{|x|}
            \log \sum_k \lambda_k p_k(x), \qquad
            \lambda \leftarrow \lambda e^{-\eta \nabla L} / Z

  with p_k(x) the probability that a proxy trained on domain k alone gives to the
  whole document x of |x| tokens, and a_x the documents' weights: every target
  counts the same, and so does every document of a target. The problem is convex.
  For large models that reach the best loss on their data, :math:`\lambda` is also
  the best mixture to train on. A run on a domain of little text repeats that text
  many times: that is the method.

  Exponentiated gradient starts from equal shares and is computed in log space.
  After each step, shares above the cap R q_k, which the paper does not have, are
  brought back to it by the projection that belongs to this gradient. The gradient
  holds 1 / |x|, so with long documents a hundred steps end short of the optimum.
  Form "em" solves the same problem by expectation-maximization, which has no step
  size and does not depend on the length of documents:

  .. math:: \lambda_k \leftarrow \lambda_k \,
            \frac{-\partial L / \partial \lambda_k}{\sum_x a_x / |x|}

  Args:
    step_size: :math:`\eta` of the paper's form.
    max_steps: most steps of either form; the paper's are 100.
    tolerance: the largest entry of the gradient at which the paper's form stops,
      or the largest change of a share at which "em" does.
    holdout: share of each target's documents that the mixture is not fit to; its
      loss on them is in the info of the last run.
    form: "paper" or "em".
  Returns:
    A Method of whole runs. A domain whose run is still to come keeps its natural
    share.
  Cost:
    One run per domain.
  Raises:
    ValueError: for a step that is not positive, a tolerance below zero, a share held
      out that is not in [0, 1) or an unknown form; in `init`, without documents of
      the targets.
  References:
    Thudi et al., `MixMin: Finding Data Mixtures via Convex Minimization
    <https://arxiv.org/abs/2502.10510>`_, 2025, Algorithm 1 and
    `LLM_DataMixing/mixmin_gen.py`.
  """
  checks.one_of("form", form, ("paper", "em"))
  checks.above_zero(step_size=step_size)
  checks.at_least(1, max_steps=max_steps)
  checks.at_least(0, tolerance=tolerance)
  if not 0 <= holdout < 1:
    raise ValueError(f"holdout {holdout} must be at least 0 and below 1.")

  def init(key: shapes.Key, facts: Facts) -> State:
    tokens_M = np.maximum(np.asarray(facts.document_tokens_M, np.float64), 1)
    if not len(tokens_M):
      raise ValueError(
        "MixMin reads document_nats_M; its facts must hold the targets'"
        " documents (document_tokens_M, document_target_M), got none."
      )
    q_K = searching.natural(facts)
    mixture_RK = designs.one_hot(q_K)
    weight_M, heldout_M = _split(
      np.asarray(facts.document_target_M),
      holdout,
      seed=np.asarray(jax.random.key_data(key)).ravel(),
    )
    return State(
      Trials.plan(mixture_RK, num_targets=facts.num_targets),
      np.full((len(mixture_RK), len(tokens_M)), np.nan),
      tokens_M,
      weight_M,
      heldout_M,
      q_K,
      np.array(facts.max_weight, np.float64),
    )

  def solve(state: State) -> np.ndarray:
    """lambda of the domains that have run; sums to one."""
    count = int(state.trials.count)
    domain_R = state.trials.mixture_RK[:count].argmax(axis=1)
    q_R = state.q_K[domain_R]
    fit_M = state.weight_M > 0
    return _minimize(
      state.log_p_RM[:count, fit_M],
      (state.weight_M / state.tokens_M)[fit_M],
      # With some still to run, the cap is that on their part of the mixture.
      cap_R=state.max_weight * q_R / q_R.sum(),
      step_size=step_size if form == "paper" else None,
      max_steps=max_steps,
      tolerance=tolerance,
    )

  def step(state: State, signals: Signals) -> tuple[State, Info]:
    log_p_RM = state.log_p_RM.copy()
    log_p_RM[state.trials.count] = -np.asarray(signals.document_nats_M)
    trials = state.trials.add(signals)
    state = State(trials, log_p_RM, *state[2:])
    heldout = np.nan
    if trials.count == len(log_p_RM) and state.heldout_M.any():
      unit_M = state.heldout_M / state.tokens_M
      heldout = float(-unit_M @ _log_mixture(log_p_RM, solve(state)))
    return state, Info(trials.mean_loss_R[-1], heldout)

  def finalize(state: State) -> DomainWeights:
    mixture_K = state.q_K.copy()
    count = int(state.trials.count)
    if count:
      domain_R = state.trials.mixture_RK[:count].argmax(axis=1)
      mixture_K[domain_R] = mixture_K[domain_R].sum() * solve(state)
    return domain_weights(
      mixture_K, state.q_K, max_weight=float(state.max_weight)
    )

  return Method(
    init,
    step,
    finalize,
    frozenset({"domain_B", "target_loss_T", "document_nats_M"}),
    "runs",
    ask=lambda state: state.trials.pending(),
  )


def _minimize(
  log_p_RM: np.ndarray,
  unit_M: np.ndarray,
  *,
  cap_R: np.ndarray,
  step_size: float | None,
  max_steps: int,
  tolerance: float,
) -> np.ndarray:
  """lambda_R of least L; without a step size by expectation-maximization."""
  lambda_R = np.full(len(log_p_RM), 1 / len(log_p_RM))
  lambda_R = designs.capped(lambda_R[None], cap_R)[0]
  for _ in range(max_steps):
    # p_k / p can overflow where lambda_k is tiny; lambda_k p_k / p is at most one.
    log_p_M = _log_mixture(log_p_RM, lambda_R)
    share_RM = np.exp(log_p_RM + np.log(lambda_R)[:, None] - log_p_M)
    slope_R = share_RM @ unit_M / lambda_R  # minus the gradient
    if step_size is None:
      next_R = lambda_R * slope_R
    else:
      log_next_R = np.log(lambda_R) + step_size * slope_R
      next_R = np.exp(log_next_R - log_next_R.max())
    next_R = np.maximum(next_R / next_R.sum(), _LEAST)
    next_R = designs.capped(next_R[None] / next_R.sum(), cap_R)[0]
    change = np.abs(next_R - lambda_R).max()
    lambda_R = next_R
    if (change if step_size is None else slope_R.max()) < tolerance:
      break
  return lambda_R


_LEAST = 1e-30  # of a share, so that its logarithm is finite


def _log_mixture(log_p_RM: np.ndarray, lambda_R: np.ndarray) -> np.ndarray:
  """Log-probability of each document under the mixture of the proxies."""
  import scipy.special

  return scipy.special.logsumexp(log_p_RM, axis=0, b=lambda_R[:, None])


def _split(
  target_M: np.ndarray, holdout: float, *, seed: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """(weights to fit, weights held out): both sum to one, equal for each target."""
  rng = np.random.default_rng(seed)
  weight_M, heldout_M = np.zeros((2, len(target_M)))
  for target in np.unique(target_M):
    (document_D,) = np.nonzero(target_M == target)
    held = int(holdout * len(document_D))
    held_D, fit_D = np.split(rng.permutation(document_D), [held])
    weight_M[fit_D] = 1 / len(fit_D)
    heldout_M[held_D] = 1 / max(held, 1)
  return weight_M / weight_M.sum(), heldout_M / max(heldout_M.sum(), 1)
