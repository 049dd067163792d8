"""The meta-learned scheduler: its short runs, and what it learns of planted sequences."""

import functools
from typing import Any

import jax
import numpy as np
import pytest

from cmtree_jax.methods import meta_scheduler
from cmtree_jax.methods import policy as policies
from cmtree_jax.types import UserError
from tests.methods import planted_proxy as planted
from tests.methods import taught, world
from tests.methods.taught import FIRST, NOISE, OTHER, SECOND

Q_K = np.full(4, 0.25)
OF_K = (FIRST, SECOND, NOISE, OTHER)
EVERY, SHORT, LONG, RUNS = 5, 10, 20, 32  # observations of a run; short runs
STEPS = EVERY * (RUNS * SHORT + LONG)
# All short runs, and no more: the share is rounded down to whole observations.
LEARN = (RUNS * SHORT + 0.5) / (RUNS * SHORT + LONG)


def make(**changed: Any):
  options: dict[str, Any] = dict(
    runs=RUNS, learn=LEARN, every=EVERY, projected=0
  )
  options |= changed
  return meta_scheduler.make(**options)


def drive(method, facts, proxy):
  """(states, asks) of a whole search; `planted.drive` checks every mixture."""
  states, _, asks = planted.drive(method, facts, proxy)
  return states, asks


@functools.cache
def learned(sequel: bool, seed: int):
  """(the last state, mixtures of the long run, loss at its end)."""
  proxy = taught.Taught(OF_K, sequel=sequel, noise=0.3, seed=seed)
  states, asks = drive(make(), taught.facts(Q_K, OF_K, STEPS), proxy)
  mixture_OK = np.stack([ask.mixture_K for ask in asks[-LONG:]])
  return states[-1], mixture_OK, float(taught.target_loss(proxy.skill_S))


def constant(mixture_K, *, sequel) -> float:
  """The loss after a long run on one mixture."""
  skill_S = taught.after(
    np.zeros(4), np.asarray(mixture_K), np.eye(4), sequel, steps=EVERY * LONG
  )
  return float(taught.target_loss(skill_S))


def best_constant(*, sequel) -> float:
  """Of all mixtures of the two skills that the target asks for."""
  return min(
    constant([first, 1 - first, 0, 0], sequel=sequel)
    for first in np.arange(0, 1.01, 0.05)
  )


def test_a_domain_is_found_where_it_is_good_all_the_time():
  _, mixture_OK, loss = learned(sequel=False, seed=0)
  best = best_constant(sequel=False)
  natural = constant(Q_K, sequel=False)
  # Nearly all that can be had, though the first interval is natural.
  assert loss < best + 0.1 * (natural - best)
  assert (mixture_OK[1:, [NOISE, OTHER]].sum(axis=1) < 0.1).all()


def test_what_must_come_first_does_and_no_constant_mixture_is_as_good():
  losses = []
  for seed in range(2):
    _, mixture_OK, loss = learned(sequel=True, seed=seed)
    losses.append(loss)
    # First what teaches, then what it taught for; never what does not help.
    assert mixture_OK[1:6, FIRST].mean() > 0.8
    assert (
      mixture_OK[-10:, SECOND].mean() > mixture_OK[1:6, SECOND].mean() + 0.25
    )
    assert (mixture_OK[1:, [NOISE, OTHER]].sum(axis=1) < 0.1).all()
  noise = np.ptp(losses)
  assert max(losses) < best_constant(sequel=True) - max(2 * noise, 0.05)


def test_a_policy_of_four_domains_steers_six_of_another_partition():
  state, *_ = learned(sequel=True, seed=0)
  facts = taught.facts(
    q_K := np.array([0.1, 0.2, 0.1, 0.1, 0.2, 0.3]),
    of_K := (OTHER, FIRST, SECOND, FIRST, NOISE, SECOND),
    EVERY * LONG,
  )
  frozen = make(policy="earlier")
  facts = facts._replace(policy=policies.to_arrays(state.policy))
  proxy = taught.Taught(of_K, noise=0.3, seed=5)
  states, asks = drive(frozen, facts, proxy)
  natural_S = taught.after(
    np.zeros(4), q_K, np.eye(4)[list(of_K)], True, steps=EVERY * LONG
  )
  loss = float(taught.target_loss(proxy.skill_S))
  assert loss < float(taught.target_loss(natural_S)) - 0.3
  # Also here no constant mixture is as good.
  assert loss < best_constant(sequel=True) - 0.05
  assert np.mean([np.asarray(ask.mixture_K)[[1, 3]] for ask in asks[2:6]]) > 0.4
  # It learns nothing, and asks for nothing that costs more than a run.
  assert "share_gain_K" not in frozen.signals
  assert not any(ask.valued or ask.fresh for ask in asks)
  jax.tree.map(np.testing.assert_array_equal, states[-1].policy, state.policy)


def test_short_runs_end_and_one_longer_run_is_handed_over():
  method = make(runs=4, population=2, learn=0.5, every=1)
  facts = taught.facts(Q_K, OF_K, steps=48)
  states, infos, asks = planted.drive(method, facts, taught.Taught(OF_K))
  fresh = [number for number, ask in enumerate(asks) if ask.fresh]
  assert fresh == [6, 12, 18, 24]
  begins = [0, *fresh]
  for number, ask in enumerate(asks):
    assert bool(ask.valued) == (number < 24 and number not in begins)
    if number in begins or number < 12:
      # Of a proxy that has not trained nothing is believed, and of a new network.
      np.testing.assert_allclose(ask.mixture_K, Q_K, rtol=1e-6)
  assert np.abs(asks[14].mixture_K - Q_K).max() > 0.01
  # Each run's losses are told relative to its own first ones.
  for begin, length in zip(begins, [6, 6, 6, 6, 24], strict=True):
    seen = infos[begin + 1].seen
    np.testing.assert_allclose(seen.global_G, [1 / length, 0, 0], atol=1e-6)
    assert (seen.domain_KF[:, 1] == 0).all()
    assert infos[begin + 4].seen.global_G[1] < 0
  changes = [
    number
    for number in range(48)
    if not jax.tree.all(
      jax.tree.map(
        np.array_equal, states[number].policy, states[number + 1].policy
      )
    )
  ]
  assert changes == [12, 24]
  mean_K = np.mean([ask.mixture_K for ask in asks[24:]], axis=0)
  np.testing.assert_allclose(
    planted.world.recipe(method, states[-1], facts), mean_K, rtol=1e-4
  )


def test_domains_in_another_order_are_learned_of_alike():
  order = np.array([2, 0, 3, 1])
  method = make(runs=4, population=2, learn=0.5, every=1)
  found = []
  for of_K in (OF_K, tuple(np.array(OF_K)[order])):
    facts = taught.facts(Q_K, of_K, steps=48)
    _, asks = drive(method, facts, taught.Taught(of_K))
    found.append(np.stack([ask.mixture_K for ask in asks]))
  assert np.abs(found[0][24:] - Q_K).max() > 0.01
  np.testing.assert_allclose(found[1], found[0][:, order], atol=1e-4)


def test_what_is_told_is_what_mixtures_were_worth_beyond_natural():
  state, *_ = learned(sequel=False, seed=0)
  rows = make().history(state)
  assert [row["population"] for row in rows] == list(range(RUNS // 4))
  # The first policy is natural.
  np.testing.assert_allclose(rows[0]["over_natural"], 0, atol=1e-6)
  for row in rows[1:]:
    assert row["over_natural"] > 3 * row["error"] > 0
  assert rows[-1]["over_natural"] > 2 * rows[1]["over_natural"]


def test_a_search_that_is_too_short_is_refused():
  facts = taught.facts(Q_K, OF_K, steps=100)
  with pytest.raises(UserError, match="config.steer.steps = 100"):
    make(runs=16).init(jax.random.key(0), facts)


@pytest.mark.parametrize(
  ("options", "words"),
  [
    (dict(learn=1.0), "learn = 1"),
    (dict(population=3), "must divide"),
    (dict(trust=0.0), "trust"),
    (dict(rate=0.0), "rate"),
    (dict(projected=-1), "projected"),
    (dict(output="median"), "median"),
  ],
)
def test_options_out_of_range_are_refused(options, words):
  with pytest.raises(ValueError, match=words):
    make(**options)


def test_the_cap_is_obeyed_while_it_learns():
  method = make(runs=4, population=2, learn=0.5, every=1)
  facts = taught.facts(Q_K, OF_K, steps=48, max_weight=1.2)
  states, asks = drive(method, facts, taught.Taught(OF_K))
  for ask in asks:
    assert (np.asarray(ask.mixture_K) <= 1.2 * Q_K * (1 + 1e-4)).all()
  assert max(np.max(ask.mixture_K) for ask in asks) > 1.19 * 0.25
  assert world.recipe(method, states[-1], facts).max() <= 0.3 * (1 + 1e-4)
