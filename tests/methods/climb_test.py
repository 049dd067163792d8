"""CLIMB: rounds near what looks best, and an answer that was measured."""

from typing import Any

import jax
import numpy as np
import pytest

from cmtree_jax.methods import climb
from cmtree_jax.methods.base import Signals
from tests.methods import planted_runs as planted

SMALL: dict[str, Any] = dict(rounds=(40, 20, 10), candidates=4000, pool=64)


def start(method, **options):
  return method.init(jax.random.key(0), planted.facts(**options))


@pytest.fixture(scope="module")
def searched():
  method = climb.make(**SMALL)
  first = start(method)
  return method, first, *planted.drive(method, first)


def test_rounds_are_asked_for_one_at_a_time(searched):
  method, first, state, ran, _ = searched
  assert len(ran) == 40 + 20 + 10 + 1
  assert len(method.ask(state).mixture_RK) == 0
  # Nothing of the second round is known before the first has ended.
  assert len(method.ask(first).mixture_RK) == 40
  later = planted.drive(method, first, stop=39)[0]
  assert len(method.ask(later).mixture_RK) == 1
  np.testing.assert_array_equal(
    later.trials.mixture_RK[40:], np.tile(planted.Q, (31, 1))
  )
  later = planted.drive(method, first, stop=40)[0]
  assert len(method.ask(later).mixture_RK) == 20


def test_rounds_get_better_and_differ(searched):
  *_, ran, infos = searched
  loss_R = np.array([info.loss for info in infos])
  means = [x.mean() for x in np.split(loss_R, [40, 60, 70])]
  assert means[0] > means[1] + 0.2
  assert means[2] <= means[1] + 0.02
  assert len(np.unique(ran[40:], axis=0)) == 31
  assert (ran[:, planted.EMPTY] == 0).all()


def test_the_next_round_is_drawn_from_the_pool_that_looks_best():
  # With as many candidates as the pool, the draw is blind; with few of many it
  # is not. M of the 64 are not simply the M best.
  def second_round(**options):
    settings: dict[str, Any] = {**SMALL, "rounds": (40, 8), **options}
    method = climb.make(**settings)
    state = planted.drive(method, start(method), stop=40)[0]
    return [planted.loss_T(p).mean() for p in method.ask(state).mixture_RK]

  blind, chosen = second_round(candidates=64), second_round()
  assert np.mean(chosen) < np.mean(blind) - 0.2


def test_planted_domains_come_in_order(searched):
  method, _, state, _, _ = searched
  p_K = planted.recipe(method, state)
  # Domain and duplicate cannot be told apart, so only their sum is certain.
  assert p_K[planted.TARGET] + p_K[planted.COPY] > 0.9
  assert p_K[planted.NOISE] < 0.02


def end_with(method, last, others=lambda run: 2.0):
  """(the last mixture that ran, the answer) where the last run has this loss."""
  state, run, mixture_K = start(method), 0, np.zeros(5)
  while len(method.ask(state).mixture_RK):
    mixture_K = method.ask(state).mixture_RK[0]
    final = int(state.trials.count) == len(state.trials.loss_RT) - 1
    loss_T = np.full(2, last if final else others(run))
    state, _ = method.step(state, Signals(target_loss_T=loss_T))
    run += 1
  return state.trials.mixture_RK, mixture_K, planted.recipe(method, state)


def test_a_winner_that_disappoints_gives_way_to_the_best_measured():
  method = climb.make(rounds=(12, 4), candidates=200, pool=20)
  # Run 5 is the best of the others; the winner is worse, equal, or better.
  other = {5: 1.5}.get
  for last, wins in ((1.6, False), (1.5, False), (1.495, False), (1.4, True)):
    mixture_RK, winner_K, p_K = end_with(
      method, last, lambda run: other(run, 2.0)
    )
    expected_K = winner_K if wins else mixture_RK[5]
    np.testing.assert_allclose(p_K, expected_K, atol=1e-5)


def test_a_winner_must_win_by_more_than_the_noise():
  other = {5: 1.5}.get
  for noise_floor, wins in ((0.05, True), (0.2, False)):
    method = climb.make(
      rounds=(12, 4), candidates=200, pool=20, noise_floor=noise_floor
    )
    mixture_RK, winner_K, p_K = end_with(
      method, 1.4, lambda run: other(run, 2.0)
    )
    expected_K = winner_K if wins else mixture_RK[5]
    np.testing.assert_allclose(p_K, expected_K, atol=1e-5)


def test_the_paper_hands_over_a_choice_that_was_not_measured():
  method = climb.make(**SMALL, variant="paper")
  state, ran, _ = planted.drive(method, start(method))
  assert len(ran) == 70
  p_K = planted.recipe(method, state)
  assert np.abs(ran - p_K).sum(axis=1).min() > 1e-4
  assert p_K[planted.TARGET] + p_K[planted.COPY] > 0.9


@pytest.mark.parametrize("variant", ["guarded", "paper"])
def test_it_is_natural_before_the_first_run_and_legal_after_any(variant):
  method = climb.make(rounds=(3, 2, 1), candidates=50, pool=8, variant=variant)
  first = start(method)
  np.testing.assert_allclose(
    planted.recipe(method, first), planted.Q, rtol=1e-5
  )
  for stop in range(1, 8):
    p_K = planted.recipe(method, planted.drive(method, first, stop=stop)[0])
    np.testing.assert_allclose(p_K.sum(), 1, rtol=1e-5)


def test_all_rounds_obey_the_cap():
  method = climb.make(rounds=(24, 8), candidates=500, pool=64)
  state, ran, _ = planted.drive(method, start(method, max_weight=2.0))
  assert (ran <= 2 * planted.Q + 5e-4).all()
  p_K = planted.recipe(method, state)
  np.testing.assert_allclose(p_K[[0, 2]], [0.2, 0.4], atol=0.05)


@pytest.mark.parametrize(
  ("options", "message"),
  [
    (dict(rounds=()), "at least 1"),
    (dict(rounds=(8, 0)), "at least 1"),
    (dict(rounds=(8, 40), candidates=1000), "squares"),
    (dict(noise_floor=-0.1), "at least 0"),
    (dict(variant="argmax"), "Known: guarded, paper"),
  ],
)
def test_nonsense_is_refused(options, message):
  with pytest.raises(ValueError, match=message):
    climb.make(**options)
