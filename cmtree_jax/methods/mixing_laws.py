"""Data Mixing Laws: a law of losses and mixture, extrapolated in steps and size."""

from typing import Any, NamedTuple

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
from cmtree_jax.methods.laws import diminishing, laws, optimum
from cmtree_jax.methods.searching import Trials

AGGREGATION = ("targets", "explicit", "implicit")
_CANDIDATES = 2**16  # mixtures whose predicted losses are compared


class State(NamedTuple):
  """Runs with their curves, and what the fits need of the facts."""

  trials: Trials  # the runs of one mixture at all sizes follow each other
  curve_RCT: np.ndarray  # bits per byte along the run; NaN before it
  loss_RK: np.ndarray  # the domains' losses at the end, nats per token
  q_K: np.ndarray  # natural mixture
  target_K: np.ndarray  # the targets' mean histogram over domains
  max_weight: np.ndarray  # R
  # Where the curves were measured and where they are wanted; one entry each where
  # there is nothing to extrapolate.
  curve_step_C: np.ndarray
  final_step: np.ndarray
  size_S: np.ndarray
  final_size: np.ndarray
  seed: np.ndarray


class Solution(NamedTuple):
  """What the laws say."""

  mixture_K: np.ndarray
  predicted_loss: float  # of the mixture; NaN before the first run
  # Of what laws that fit as well from other starts predict, largest less least, by
  # law ("steps", "size", "mixture"); means over runs and targets.
  spread: dict[str, float]


# A run whose learning rate decays within 60 steps shows no law of the steps, and
# a grid over 16 domains is sparse.
SMALL = Small(dict(num_mixtures=32, extrapolate=False, search="solver"))
PLANTED = Planted(
  dict(num_mixtures=15, extrapolate=False, search="solver"), more=TARGET_FIRST
)


def make(
  *,
  num_mixtures: int | None = None,
  aggregation: str = "targets",
  extrapolate: bool = True,
  fit_from: float = 1 / 3,
  search: str = "grid",
  grid: float | None = None,
  huber_delta: float = 0.02,
) -> Method:
  r"""Predicts the final losses of all mixtures from a few short runs of small models.

  .. math:: L_i(r) = c_i + k_i \exp\Big(\sum_j t_{ij} r_j\Big), \qquad
            L(D) = c + (d_0 / D)^\alpha

  The laws are nested. Each run's curve gives its loss at the final number of steps
  D. With three sizes or more, these losses give its loss at the final size by a law
  of the same form. The mixing law is fitted to what comes out. A law of steps wants
  four points of a curve, and is left out without them. The final steps are the
  tokens of `config.budget` in steps of the proxies' batch, the final size is the
  budget's; sizes are counted without the embedding, as published. At its end a run
  has repeated documents as often as that training will; before, it has less, which
  the law of steps does not know.

  What it can do and what not. On the authors' losses, the nested laws predict
  levels at 1B parameters and 100k steps that are .12 to .15 nats too low, and for
  one target that was fitted as an aggregate a gain of the wrong sign: it ranks
  mixtures, its levels and gains are no forecast. One law for each target is
  better than one for their mean. On RegMix's 13 losses with 128 runs, the mean of
  13 laws ranks 256 unseen mixtures at .93 to .96 (Spearman), an implicit law of the
  mean loss at .70 to .75, one log-linear law of it at .43 to .61; so "targets" is
  the default. How far laws from other starts that fit as well differ in what they
  predict is in the history of recipe.json, `spread_over_starts`: an extrapolation
  whose spread is as large as the gain says nothing.

  Args:
    num_mixtures: default three per domain (the paper: 20 for 7 domains).
    aggregation: "targets" fits a law for each target and takes the mean. "explicit"
      fits the losses of the domains, weighted by the targets' shares in them;
      steps and sizes are not extrapolated, since curves are those of targets.
      "implicit" fits the mean over targets by virtual domains of learned
      proportions; it averages bootstrapped members where the paper boosts them.
    extrapolate: whether to use the laws of steps and sizes.
    fit_from: share of a run before which its curve is not used; the authors fit
      steps 10k to 30k.
    search: "grid", as published, takes the best of many double-diminishing
      mixtures; "solver" the optimum of the law, which is convex.
    grid: step of the double-diminishing proportions; see `laws.diminishing`.
    huber_delta: where the fit's loss becomes linear; the authors' .02 to .05.
  Returns:
    A Method of whole runs. No prediction is handed on as a result: published ones
    overstate the gain 2.4 times.
  Cost:
    Three runs per domain, of each size.
  Raises:
    ValueError: for an option out of its range.
  References:
    Ye et al., `Data Mixing Laws <https://arxiv.org/abs/2403.16952>`_, 2024,
    equations 1 and 6, algorithm 1.
  """
  checks.one_of("aggregation", aggregation, AGGREGATION)
  checks.one_of("search", search, ("grid", "solver"))
  checks.above_zero(huber_delta=huber_delta)
  if num_mixtures is not None and num_mixtures < 1:
    raise ValueError(
      f"num_mixtures {num_mixtures} must be at least 1, or None."
    )
  if not 0 <= fit_from < 1:
    raise ValueError(f"fit_from {fit_from} must be in [0, 1).")
  if grid is not None and not 0 < grid <= 1:
    raise ValueError(f"grid {grid} must be in (0, 1], or None.")
  nested = extrapolate and aggregation != "explicit"

  def init(key: shapes.Key, facts: Facts) -> State:
    q_K = searching.natural(facts)
    seed = int(jax.random.randint(key, (), 0, np.iinfo(np.int32).max))
    mixture_MK = diminishing.design(
      np.random.default_rng(seed),
      facts.max_weight * q_K,
      num_mixtures=num_mixtures or 3 * int((q_K > 0).sum()),
      grid=grid,
    )
    # Three numbers of a law of sizes need three sizes.
    all_sizes = nested and len(facts.sizes) >= 3 and facts.final_size > 0
    size_S = np.array(facts.sizes if all_sizes else (1,), np.float64)
    trials = Trials.plan(
      np.repeat(mixture_MK, len(size_S), axis=0), num_targets=facts.num_targets
    )
    runs = len(trials.size_R)
    points = max(len(facts.curve_steps), 1)
    return State(
      trials=trials._replace(size_R=np.arange(runs) % len(size_S)),
      curve_RCT=np.full((runs, points, facts.num_targets), np.nan),
      loss_RK=np.full((runs, len(q_K)), np.nan),
      q_K=q_K,
      target_K=np.asarray(facts.target_domain_TK, np.float64).mean(axis=0),
      max_weight=np.array(facts.max_weight, np.float64),
      curve_step_C=np.array(facts.curve_steps or (1,), np.float64),
      final_step=np.array(facts.final_steps, np.float64),
      size_S=size_S,
      final_size=np.array(facts.final_size, np.float64),
      seed=np.array(seed),
    )

  def step(state: State, signals: Signals) -> tuple[State, searching.Info]:
    row = int(state.trials.count)
    curve_RCT, loss_RK = state.curve_RCT.copy(), state.loss_RK.copy()
    if nested:
      curve_RCT[row] = signals.curve_CT
    if aggregation == "explicit":
      loss_RK[row] = signals.loss_K
    state = state._replace(curve_RCT=curve_RCT, loss_RK=loss_RK)
    return searching.step(state, signals)

  def solve(state: State) -> Solution:
    if aggregation == "explicit":
      wanted_K = state.target_K > 0
      mixture_RK, spread = state.trials.mixture_RK, {}
      loss_RT, share_T = state.loss_RK[:, wanted_K], state.target_K[wanted_K]
    else:
      mixture_RK, loss_RT, spread = _final_losses(
        state, nested, fit_from, huber_delta
      )
      share_T = np.full(loss_RT.shape[1], 1 / loss_RT.shape[1])
    done_R = np.isfinite(loss_RT).all(axis=1)
    if not done_R.any():
      return Solution(state.q_K, np.nan, spread)
    mixture_RK, loss_RT = mixture_RK[done_R], loss_RT[done_R]
    each = None
    if aggregation == "implicit":
      law = laws.fit_implicit(
        mixture_RK,
        loss_RT @ share_T,
        seed=int(state.seed),
        huber_delta=huber_delta,
      )
    else:
      each = laws.fit_log_linear(mixture_RK, loss_RT, huber_delta=huber_delta)
      law = each.combine(share_T)
    mixture_K = _best(law, state, search=search, grid=grid)
    if each is not None:
      spread = spread | {"mixture": float(each.spread(mixture_K) @ share_T)}
    return Solution(mixture_K, float(law.predict(mixture_K[None])[0]), spread)

  def finalize(state: State) -> DomainWeights:
    return domain_weights(
      np.float32(solve(state).mixture_K),
      np.float32(state.q_K),
      max_weight=float(state.max_weight),
    )

  def tell(state: State) -> dict[str, Any]:
    found = solve(state)
    return {
      "predicted_loss": found.predicted_loss,
      "spread_over_starts": dict(found.spread),
    }

  reads = {"domain_B", "target_loss_T"}
  reads |= {"curve_CT"} if nested else set()
  reads |= {"loss_K"} if aggregation == "explicit" else set()
  return Method(
    init,
    step,
    finalize,
    frozenset(reads),
    "runs",
    ask=lambda state: state.trials.pending(),
    tell=tell,
  )


def _final_losses(state: State, nested, fit_from, huber_delta):
  """(mixtures run at all sizes, losses at the final steps and size, spread)."""
  trials, sizes = state.trials, len(state.size_S)
  loss_RT, spread = trials.loss_RT, {}
  if nested:
    loss_RT, spread = _at_final_step(state, fit_from, huber_delta)
  loss_MST = loss_RT.reshape(-1, sizes, loss_RT.shape[1])
  mixture_MK = trials.mixture_RK[::sizes]
  if sizes == 1:
    return mixture_MK, loss_MST[:, 0], spread
  done_M = np.isfinite(loss_MST).all(axis=(1, 2))
  mixture_MK, loss_MST = mixture_MK[done_M], loss_MST[done_M]
  if not done_M.any():
    return mixture_MK, loss_MST[:, -1], spread
  # One alpha for all mixtures and targets.
  series_S = np.moveaxis(loss_MST, 1, 2)
  law = laws.fit_power(
    state.size_S,
    series_S.reshape(1, -1, sizes),
    huber_delta=huber_delta,
  )
  size = float(state.final_size)
  spread = spread | {"size": float(law.spread(size).mean())}
  return mixture_MK, law.predict(size).reshape(len(mixture_MK), -1), spread


def _at_final_step(state: State, fit_from, huber_delta):
  """(losses [R, T] by the law of steps or as measured, spread of the law)."""
  loss_RT = state.trials.loss_RT.copy()
  step_C, final_step = state.curve_step_C, float(state.final_step)
  used_C = step_C >= max(fit_from * step_C[-1], 1)
  done_R = np.isfinite(state.curve_RCT[:, used_C]).all(axis=(1, 2))
  if used_C.sum() < 4 or final_step <= step_C[-1] or not done_R.any():
    return loss_RT, {}
  # Alpha is shared by the targets of a run.
  law = laws.fit_power(
    step_C[used_C],
    np.moveaxis(state.curve_RCT[done_R][:, used_C], 1, 2),
    huber_delta=huber_delta,
  )
  loss_RT[done_R] = law.predict(final_step)
  return loss_RT, {"steps": float(law.spread(final_step).mean())}


def _best(law: laws.ExpSum, state: State, *, search, grid):
  """The mixture with the least predicted loss."""
  cap_K = state.max_weight * state.q_K
  if search == "solver":
    return optimum.minimize(
      law.weight_I, law.slope_IK, prior_K=state.q_K, cap_K=cap_K
    )
  rng = np.random.default_rng(int(state.seed) + 1)
  mixture_RK = diminishing.design(
    rng, cap_K, num_mixtures=_CANDIDATES, grid=grid
  )
  mixture_RK = np.vstack([state.q_K, mixture_RK])  # the first of equals
  return mixture_RK[law.predict(mixture_RK).argmin()]
