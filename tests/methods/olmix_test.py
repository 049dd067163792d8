"""Olmix: its swarm, its optimum, and its caps."""

import jax
import numpy as np
import pytest

from cmtree_jax.methods import olmix
from tests.methods import planted_runs as planted


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


@pytest.mark.parametrize(
  "options",
  [
    dict(runs=0),
    dict(strengths=(0.0, 1.0)),
    dict(min_weight=1.0),
    dict(kl=-1.0),
    dict(huber_delta=0.0),
  ],
)
def test_nonsense_is_refused(options):
  with pytest.raises(ValueError, match=next(iter(options))):
    olmix.make(**options)
