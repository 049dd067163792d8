"""RegMix: its design is run, and its answer is the regression's best region."""

from typing import Any

import jax
import numpy as np
import pytest

from cmtree_jax.methods import regmix
from tests.methods import planted_runs as planted

SMALL: dict[str, Any] = dict(runs=150, candidates=4000, best=32)


@pytest.fixture(scope="module")
def searched():
  method = regmix.make(**SMALL)
  start = method.init(jax.random.key(0), planted.facts())
  return method, start, *planted.drive(method, start)


def test_every_run_of_the_design_is_asked_for_once(searched):
  method, start, state, ran, infos = searched
  np.testing.assert_array_equal(ran, start.trials.mixture_RK)
  assert len(method.ask(state).mixture_RK) == 0
  assert (ran[:, planted.EMPTY] == 0).all()
  loss_R = [planted.loss_T(p).mean() for p in ran]
  np.testing.assert_allclose([info.loss for info in infos], loss_R)
  assert infos[-1].best_loss == min(loss_R)


def test_planted_domains_come_in_order(searched):
  method, _, state, _, _ = searched
  p_K = planted.recipe(method, state)
  np.testing.assert_allclose(p_K.sum(), 1, rtol=1e-5)
  # Domain and duplicate help alike: only their sum is known, and the larger of
  # them has the greater part of the candidates. Noise is least.
  assert p_K[planted.TARGET] + p_K[planted.COPY] > 0.9
  assert p_K[planted.COPY] > p_K[planted.TARGET] > 10 * p_K[planted.NOISE]
  assert p_K[planted.EMPTY] < 1e-6


def test_all_runs_and_the_answer_obey_the_cap():
  method = regmix.make(runs=40, candidates=500, best=16, surrogate="climb")
  start = method.init(jax.random.key(0), planted.facts(max_weight=2.0))
  state, ran, _ = planted.drive(method, start)
  assert (ran <= 2 * planted.Q + 5e-4).all()
  p_K = planted.recipe(method, state)
  assert (p_K <= 2 * planted.Q * (1 + 1e-5)).all()
  # 0.2 and 0.4 are all that target and duplicate may get.
  np.testing.assert_allclose(p_K[[0, 2]], [0.2, 0.4], atol=0.05)


def test_the_search_knows_the_cap():
  # What target and duplicate may not have goes to the neutral domain. Capping an
  # answer found without caps would divide it as what is left there is divided.
  method = regmix.make(**SMALL)
  start = method.init(jax.random.key(0), planted.facts(max_weight=2.0))
  p_K = planted.recipe(method, planted.drive(method, start)[0])
  np.testing.assert_allclose(p_K[[0, 2]], [0.2, 0.4], atol=0.02)
  # 0.35 if capped afterwards.
  assert p_K[planted.NEUTRAL] > 1.5 * p_K[planted.NOISE]


def test_it_is_natural_before_the_first_run_and_legal_after_any():
  method = regmix.make(runs=12, candidates=4000, best=32)
  state = method.init(jax.random.key(0), planted.facts())
  np.testing.assert_allclose(
    planted.recipe(method, state), planted.Q, rtol=1e-5
  )
  for stop in (1, 2, 12):
    ended, _, _ = planted.drive(method, state, stop=stop)
    # No tree can be split: every candidate ties, and their mean is natural.
    np.testing.assert_allclose(
      planted.recipe(method, ended), planted.Q, atol=0.03
    )


def test_the_answer_depends_on_the_key_alone():
  method = regmix.make(runs=25, candidates=300, best=8, surrogate="climb")
  answers = []
  for seed in (0, 0, 1):
    start = method.init(jax.random.key(seed), planted.facts())
    answers.append(planted.recipe(method, planted.drive(method, start)[0]))
  np.testing.assert_array_equal(answers[0], answers[1])
  assert np.abs(answers[0] - answers[2]).max() > 1e-3


@pytest.mark.parametrize(
  ("options", "message"),
  [
    (dict(runs=0), "at least 1"),
    (dict(exponent=-1.0), "exponent = -1.0 must be at least 0"),
    (dict(best=0), "at least 1"),
    (dict(surrogate="forest"), "Known: climb, regmix"),
  ],
)
def test_nonsense_is_refused(options, message):
  with pytest.raises(ValueError, match=message):
    regmix.make(**options)
