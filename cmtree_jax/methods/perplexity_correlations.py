"""Perplexity correlations: the domains whose losses go with the target's over runs."""

from collections.abc import Callable
from typing import NamedTuple

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
)
from cmtree_jax.methods.laws import designs
from cmtree_jax.methods.searching import Trials
from cmtree_jax.selection import bounded


class State(NamedTuple):
  """The runs, and how well each of them knows the domains."""

  search: searching.State
  loss_RK: np.ndarray  # nats per token at the end of each run; NaN before it

  @property
  def trials(self) -> Trials:
    """The runs that were asked for."""
    return self.search.trials


SMALL = Small(dict(runs=48, minimum=5e-3))
PLANTED = Planted(dict(runs=24, minimum=0.01), more=TARGET_FIRST)


def make(
  *,
  runs: int = 90,
  estimator: str = "sign_cdf",
  projection: str = "linear",
  exponent: float = 0.5,
  minimum: float = 2e-4,
) -> Method:
  r"""Trains on the domains whose losses tell most of the target's over many models.

  .. math:: \text{sign: } e_k = \frac{2}{N (N - 1)} \sum_{i < j}
              \mathrm{sign}(y_j - y_i)\, (x_{jk} - x_{ik}), \qquad
            \text{sign\_cdf: the same of ranks over } N,

  .. math:: \text{product: } e_k = \frac1N \sum_i y_i x_{ik}, \qquad
            \text{spearman: } e_k = \rho(\mathrm{rank}\, y, \mathrm{rank}\, x_k)

  with the loss x of model i on domain k and its error y on the target. Of the
  mixtures p that may be repeated enough, :math:`0 \le p_k \le R q_k`, the one of the
  largest :math:`\langle e, p \rangle` is taken ("linear": the best domains are filled
  one after the other), or the one nearest to e ("l2").

  Departures: the authors correlate ninety public models that differ in everything; no
  such losses exist for a corpus that is only here, so the models are our runs on
  mixtures of `designs.regmix`. The error is the mean of the targets' bits per byte,
  where theirs is that of a benchmark. Losses are nats per token, not bits per byte,
  which "product" and "sign" tell apart. Equal numbers share their rank, and domains of
  equal estimates share what is left in proportion to their caps, where the code takes
  the first. The authors then train a classifier for single documents on the domains
  that were chosen; here the recipe is the mixture.

  Args:
    runs: N, proxies to train.
    estimator: "product", "sign", "sign_cdf" or "spearman". "product" is not centred,
      so it tells little of models that are nearly alike.
    projection: "linear" reads the order of e alone, "l2" its size too.
    exponent: flattens the prior of the design.
    minimum: the smallest share in the design, apart from zero.
  Returns:
    A Method of whole runs. It is natural before the second run.
  Cost:
    `runs` runs, and a forward pass over frozen rows of every domain at their ends.
  Raises:
    ValueError: for fewer than two runs, an exponent below zero, an unknown estimator or
      projection.
  References:
    Thrush et al., `Improving Pretraining Data Using Perplexity Correlations
    <https://arxiv.org/abs/2409.05816>`_, 2024, and the package
    `perplexity-correlations` 0.1.2.
  """
  checks.at_least(2, runs=runs)
  checks.at_least(0, exponent=exponent)
  checks.share(minimum=minimum)
  checks.one_of("estimator", estimator, tuple(ESTIMATORS))
  checks.one_of("projection", projection, tuple(PROJECTIONS))

  def init(key: shapes.Key, facts: Facts) -> State:
    search = searching.start(key, facts)
    mixture_RK = designs.regmix(
      search.q_K,
      runs,
      rng=search.rng(0),
      cap_K=search.cap_K,
      exponent=exponent,
      minimum=minimum,
    )
    return State(search.plan(mixture_RK), np.full(mixture_RK.shape, np.nan))

  def step(state: State, signals: Signals) -> tuple[State, searching.Info]:
    loss_RK = state.loss_RK.copy()
    loss_RK[state.trials.count] = signals.loss_K
    search, info = searching.step(state.search, signals)
    return State(search, loss_RK), info

  def finalize(state: State) -> DomainWeights:
    search, error_R = state.search, state.trials.mean_loss_R
    mixture_K = search.q_K.copy()
    if len(error_R) > 1:
      used_K = search.q_K > 0
      estimate_K = ESTIMATORS[estimator](
        state.loss_RK[: len(error_R), used_K], error_R
      )
      mixture_K[used_K] = PROJECTIONS[projection](
        estimate_K, search.cap_K[used_K]
      )
    return search.weights(mixture_K)

  return Method(
    init,
    step,
    finalize,
    frozenset({"domain_B", "loss_K", "target_loss_T"}),
    "runs",
    ask=lambda state: state.trials.pending(),
  )


def product(loss_RK: np.ndarray, error_R: np.ndarray) -> np.ndarray:
  """Means of the products, [K]."""
  return error_R @ loss_RK / len(error_R)


def sign(loss_RK: np.ndarray, error_R: np.ndarray) -> np.ndarray:
  """How much more the worse of two models loses on each domain, [K]."""
  # Every pair counts for both of its models, with opposite signs.
  worse_R = np.sign(error_R[:, None] - error_R).sum(axis=1)
  count = len(error_R)
  return 2 * worse_R @ loss_RK / (count * (count - 1))


def sign_cdf(loss_RK: np.ndarray, error_R: np.ndarray) -> np.ndarray:
  """The same for the ranks of the losses on a domain, as shares of the models."""
  return sign(_ranks(loss_RK) / len(error_R), error_R)


def spearman(loss_RK: np.ndarray, error_R: np.ndarray) -> np.ndarray:
  """Rank correlations; 0 for a domain on which all models lose the same."""
  x_RK, y_R = _ranks(loss_RK), _ranks(error_R)
  x_RK, y_R = x_RK - x_RK.mean(axis=0), y_R - y_R.mean()
  scale_K = np.sqrt((x_RK**2).sum(axis=0) * (y_R**2).sum())
  return y_R @ x_RK / np.where(scale_K > 0, scale_K, 1.0)


def linear(estimate_K: np.ndarray, cap_K: np.ndarray) -> np.ndarray:
  """The mixture below the caps that has most of the domains of high estimates."""
  # What is equal but for rounding is filled together, whatever the order.
  value_G, group_K = np.unique(estimate_K.round(12), return_inverse=True)
  cap_G = np.bincount(group_K, cap_K)
  share_G = bounded.fill(value_G, total=1.0, upper_K=cap_G)
  return (share_G / cap_G)[group_K] * cap_K


def l2(estimate_K: np.ndarray, cap_K: np.ndarray) -> np.ndarray:
  """The mixture below the caps that is nearest to the estimates."""
  return bounded.project(estimate_K, total=1.0, upper_K=cap_K)


def _ranks(value_R: np.ndarray) -> np.ndarray:
  """From one; equal ones share theirs."""
  import scipy.stats

  return scipy.stats.rankdata(value_R, axis=0)


ESTIMATORS: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
  "product": product,
  "sign": sign,
  "sign_cdf": sign_cdf,
  "spearman": spearman,
}
PROJECTIONS: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
  "linear": linear,
  "l2": l2,
}
