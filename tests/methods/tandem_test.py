"""TANDEM: an episode by hand, its phases, and a planted world."""

from typing import Any

import numpy as np
import pytest

from cmtree_jax.methods import tandem
from tests.methods import planted_proxy as planted


def test_the_projection_by_hand():
  present_K = np.array([True, True, True, False])
  # Above the simplex by .3 in three coordinates; the fourth is not there.
  np.testing.assert_allclose(
    tandem.projected(np.array([0.6, 0.5, 0.2, 9.0]), present_K),
    [0.5, 0.4, 0.1, 0],
    atol=1e-6,
  )
  # A coordinate that would be negative is zero, and the rest is shared.
  np.testing.assert_allclose(
    tandem.projected(np.array([0.9, 0.5, -5.0, np.nan]), present_K),
    [0.7, 0.3, 0, 0],
    atol=1e-6,
  )


def test_a_domain_that_is_not_there_gets_nothing_whatever_the_others_have():
  present_K = np.array([True, True, False])
  np.testing.assert_allclose(
    tandem.projected(np.array([-1.0, -1.2, 0.0]), present_K),
    [0.6, 0.4, 0],
    atol=1e-6,
  )


def test_an_episode_by_hand():
  gamma, eta, rate = 3.0, 0.5, 0.1
  method = tandem.make(every=1, gamma=gamma, eta=eta)
  proxy = planted.PlantedProxy(scale=1 / rate)
  _, infos, asks = planted.drive(method, planted.facts(3), proxy)

  def losses(target, other):
    return 1 + 3 * np.exp(-rate * np.array([target, other]))

  # One step each from scratch: a quarter of w's rows are from the target.
  w_target, w_other = losses(0.25 + 0.75 * 0.5, 0.75 * 0.25)
  u_target, u_other = losses(0.5, 0.25)
  helped, hurt = w_target - u_target, w_other - u_other
  assert helped < 0 < hurt
  value_K = planted.Q_K[:4] - eta * gamma * np.array([helped, 0, helped, hurt])
  value_K += (1 - value_K.sum()) / 4  # inside the simplex
  assert value_K.min() > 0
  np.testing.assert_allclose(infos[2].mixture_K[:4], value_K, rtol=1e-5)
  for time in (0, 1):
    np.testing.assert_allclose(asks[time].mixture_K, planted.Q_K, rtol=1e-6)
  np.testing.assert_allclose(
    [ask.target_share for ask in asks], [0.25, 0, 0], rtol=1e-6
  )


@pytest.mark.parametrize(
  "probe, free, marks, backs, ends",
  [
    (1, 1, [0, 3, 6, 9], [1, 4, 7, 10], [2, 5, 8, 11]),
    (2, 1, [0, 5, 10], [2, 7], [4, 9]),
    (1, 0, [0, 2, 4, 6, 8, 10], [1, 3, 5, 7, 9, 11], [2, 4, 6, 8, 10]),
  ],
)
def test_phases(probe, free, marks, backs, ends):
  method = tandem.make(every=2, probe=probe, free=free)
  _, infos, asks = planted.drive(
    method, planted.facts(24), planted.PlantedProxy()
  )
  times = range(12)
  assert [t for t in times if asks[t].mark] == marks
  assert [t for t in times if asks[t].back] == backs
  assert [t for t in times if np.asarray(infos[t].gap_K).any()] == ends
  helped = {m + i for m in marks for i in range(probe)}
  assert [t for t in times if asks[t].target_share > 0] == sorted(
    helped & set(times)
  )


def test_the_proxy_goes_on_from_u():
  # The steps of w leave no trace: the skill of the target is that of alpha alone.
  method = tandem.make(every=2, eta=1e-6)
  proxy = planted.PlantedProxy()
  planted.drive(method, planted.facts(24), proxy)
  np.testing.assert_allclose(proxy.skills, [16 * 0.5, 16 * 0.25], rtol=1e-4)


@pytest.mark.parametrize("output", ["mean", "last"])
def test_the_recipe_is_the_mean_over_episodes_or_the_last(output):
  method = tandem.make(every=5, output=output)
  states, infos, _ = planted.drive(
    method, planted.facts(60), planted.PlantedProxy()
  )
  alphas = np.stack([infos[t].mixture_K for t in (2, 5, 8, 11)])
  expected_K = alphas.mean(axis=0) if output == "mean" else alphas[-1]
  np.testing.assert_allclose(
    planted.recipe(method, states[-1]), expected_K, rtol=1e-4
  )


@pytest.mark.parametrize("start", ["natural", "uniform"])
def test_a_planted_target_and_its_duplicate_come_first(start):
  method = tandem.make(every=5, eta=0.5, start=start)
  states, _, _ = planted.drive(
    method, planted.facts(150), planted.PlantedProxy()
  )
  p_K = planted.recipe(method, states[-1])
  q_K = planted.Q_K if start == "natural" else np.array([1, 1, 1, 1, 0]) / 4
  # Domain and duplicate gain alike; what the target's rows push out loses, and
  # more than the noise, whose loss does not move.
  np.testing.assert_allclose(p_K[0] - q_K[0], p_K[2] - q_K[2], atol=1e-4)
  gain_K = p_K - q_K
  assert gain_K[0] > 0.02 > gain_K[1] > gain_K[3]
  assert p_K[4] == 0


def test_nonsense_is_refused():
  cases: list[tuple[dict[str, Any], str]] = [
    (dict(output="first"), "Known: last, mean"),
    (dict(start="crisp"), "Known: natural, uniform"),
    (dict(probe=0), "probe = 0 must be at least 1"),
    (dict(free=-1), "free = -1 must be at least 0"),
    (dict(gamma=0.0), "gamma = 0.0 must be above 0"),
  ]
  for settings, match in cases:
    with pytest.raises(ValueError, match=match):
      tandem.make(**settings)
