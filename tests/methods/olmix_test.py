"""Olmix: its swarm, its optimum, and its caps."""

import jax
import numpy as np
import pytest

from cmtree_jax.methods import olmix
from cmtree_jax.methods.base import Signals
from tests.methods import planted_runs as planted
from tests.methods import world


def ended(method, max_weight=20.0, stop=10_000):
  start = method.init(jax.random.key(0), planted.facts(max_weight))
  state, _, infos = planted.drive(method, start, stop=stop)
  return start, state, infos


def test_the_swarm_is_three_runs_per_number_of_the_law():
  start, _, infos = ended(olmix.make())
  mixture_RK = start.trials.mixture_RK
  assert len(infos) == len(mixture_RK) == 3 * (4 + 1)  # one domain is empty
  np.testing.assert_allclose(mixture_RK.sum(axis=1), 1, rtol=1e-12)
  assert (mixture_RK[:, planted.EMPTY] == 0).all()
  assert ((mixture_RK == 0) | (mixture_RK >= 0.002)).all()
  losses = [planted.loss_T(p).mean() for p in mixture_RK]
  np.testing.assert_allclose([info.loss for info in infos], losses)
  assert infos[-1].best_loss == min(info.loss for info in infos)


def test_a_large_swarm_lies_around_the_natural_mixture():
  method = olmix.make(runs=3000)
  trials = method.init(jax.random.key(0), planted.facts()).trials
  error_K = trials.mixture_RK.std(axis=0) / np.sqrt(3000)
  assert (abs(trials.mixture_RK.mean(axis=0) - planted.Q) <= 4 * error_K).all()


def test_planted_domains_come_in_order():
  # Under a law of the sum of target and copy, KL divides it as nature does.
  method = olmix.make(runs=60)
  _, state, _ = ended(method)
  p_K = planted.recipe(method, state)
  assert p_K[planted.TARGET] + p_K[planted.COPY] > 0.9
  np.testing.assert_allclose(
    p_K[planted.COPY] / p_K[planted.TARGET], 2, rtol=0.2
  )
  assert p_K[planted.NOISE] < p_K[planted.NEUTRAL]
  assert p_K[planted.EMPTY] < 1e-6
  # More of the penalty means nearer to natural.
  tied = olmix.make(runs=60, kl=100.0)
  np.testing.assert_allclose(planted.recipe(tied, state), planted.Q, atol=0.02)


def test_caps_bind_inside_the_optimum():
  method = olmix.make(runs=60)
  _, state, _ = ended(method, max_weight=2.0)
  p_K = planted.recipe(method, state)
  np.testing.assert_allclose(p_K[[planted.TARGET, planted.COPY]], [0.2, 0.4])
  # What is left is divided by the law: noise gets less than its natural part.
  assert (
    p_K[planted.NEUTRAL] / p_K[planted.NOISE] > 20
  )  # 5.7 if capped afterwards


def test_it_is_natural_before_the_first_run_and_legal_after_any():
  method = olmix.make(runs=15)
  for stop in (0, 1, 2):
    _, state, _ = ended(method, stop=stop)
    p_K = planted.recipe(method, state)
    if stop < 2:  # one run has no contrast
      np.testing.assert_allclose(p_K, planted.Q, atol=2e-3)
    np.testing.assert_allclose(p_K.sum(), 1, rtol=1e-5)


class Extended:
  """Twelve domains under a log-linear law, their recipe, and one domain more."""

  def __init__(self, seed):
    rng = np.random.default_rng(seed)
    self.mass_K = rng.dirichlet(np.full(13, 3.0))
    self.slope_TK = rng.normal(size=(2, 13))
    known = self.mass_K[:12].sum()
    before = self.facts(self.mass_K[:12] / known, 4.0)
    found, _ = self.search(olmix.make(), before)
    self.log_w_K = np.append(found.log_w_K, np.nan)
    # The budget is the same, so a document may be repeated as often as before.
    self.after = self.facts(self.mass_K, 4.0 / known)
    self.after = self.after._replace(earlier_log_w_K=self.log_w_K)

  def facts(self, mass_K, max_weight):
    return world.facts_of(
      mass_K, np.tile(mass_K, (2, 1)), max_weight=max_weight
    )

  def search(self, method, facts):
    """(weights, runs)"""
    state, runs = method.init(jax.random.key(0), facts), 0
    while len(pending := method.ask(state).mixture_RK):
      loss_T = 1 + self.fall(pending[0])
      state, _ = method.step(state, Signals(target_loss_T=loss_T))
      runs += 1
    return method.finalize(state), runs

  def fall(self, p_K):
    return np.exp(self.slope_TK[:, : len(p_K)] @ p_K)

  def objective(self, p_K):
    kl = p_K @ np.log(np.maximum(p_K, 1e-12) / self.mass_K)
    return self.fall(p_K).mean() + 0.05 * kl

  def mixture(self, weights):
    p_K = self.mass_K * np.exp(np.asarray(weights.log_w_K, np.float64))
    return p_K / p_K.sum()


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_a_recipe_is_extended_with_few_runs(seed):
  # Olmix reports 95 % of the gain for 216 runs of 832. Here, over ten seeds, 93 to
  # 100 %; the old domains in their natural proportions would have at most 45 %.
  case = Extended(seed)
  whole, whole_runs = case.search(olmix.make(), case.after)
  reused, runs = case.search(olmix.make(reuse="before"), case.after)
  assert (whole_runs, runs) == (3 * (13 + 1), 3 * (2 + 1))
  p_K = case.mixture(reused)
  gain = case.objective(case.mass_K) - case.objective(p_K)
  whole_p_K = case.mixture(whole)
  whole_gain = case.objective(case.mass_K) - case.objective(whole_p_K)
  assert gain > 0.9 * whole_gain
  # The domains that were there keep their shares of each other.
  earlier_K = case.mass_K[:12] * np.exp(case.log_w_K[:12])
  np.testing.assert_allclose(
    p_K[:12] / p_K[:12].sum(), earlier_K / earlier_K.sum(), atol=1e-6
  )


def test_a_recipe_for_more_repeats_is_brought_below_this_cap():
  # Weights up to 40 at one in twenty; four are allowed now.
  mass_K = np.array([0.02, 0.3, 0.28, 0.2, 0.2])
  facts = world.facts_of(mass_K, max_weight=4.0)
  facts = facts._replace(earlier_log_w_K=np.log([40.0, 0.25, 0.2, 0.1, np.nan]))
  state = olmix.make(reuse="before").init(jax.random.key(0), facts)
  part_K = state.inner_VK[0] * mass_K[:4].sum()  # at its natural share
  assert (part_K <= 4 * mass_K * (1 + 1e-9)).all()
  np.testing.assert_allclose(part_K[0], 4 * 0.02)
  # The others gain in proportion to what they had.
  had_K = mass_K[1:4] * [0.25, 0.2, 0.1]
  np.testing.assert_allclose(
    part_K[1:4] / part_K[1:4].sum(), had_K / had_K.sum()
  )


def test_a_recipe_without_new_domains_is_kept_without_a_run():
  case = Extended(0)
  log_w_K = np.linspace(-1, 1, 13)
  facts = case.after._replace(earlier_log_w_K=log_w_K)
  found, runs = case.search(olmix.make(reuse="before"), facts)
  assert runs == 0
  p_K = case.mass_K * np.exp(log_w_K)
  np.testing.assert_allclose(case.mixture(found), p_K / p_K.sum(), rtol=1e-4)


@pytest.mark.parametrize(
  "options",
  [
    dict(runs=0),
    dict(strengths=(0.0, 1.0)),
    dict(strengths=(2.0, 1.0)),
    dict(min_weight=1.0),
    dict(kl=-1.0),
    dict(huber_delta=0.0),
  ],
)
def test_nonsense_is_refused(options):
  with pytest.raises(ValueError, match=next(iter(options))):
    olmix.make(**options)
