"""Ordered: graphs by hand, and proxies of which one skill is taught by another."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cmtree_jax.methods import ordered
from cmtree_jax.methods.base import Signals
from tests.methods import planted_proxy as planted
from tests.methods import world

Q_K = np.array([0.4, 0.3, 0.3, 0.0])
STEPS = 400
# Gradients of three skills of which each holds the one before, and no text.
CHAIN_KP = np.array([[1.0, 0, 0], [1, 2, 0], [1, 2, 4], [0, 0, 0]])
SMALL: dict[str, Any] = dict(every=10, rho=0.5, latest=1.0)


class Taught:
  """Losses fall with what is trained on, from 4 to 2; domain 2 learns nothing."""

  def __init__(self, *gradients_KP, learns=(1.0, 1.0, 1.0)):
    self.gradients = list(gradients_KP)
    self.learns = np.array(learns)
    self.seen_K = np.zeros(3)

  def train(self, ask, steps):
    self.seen_K += steps * np.asarray(ask.mixture_K)[:3]

  def observe(self):
    gradient_KP = self.gradients[0]
    if len(self.gradients) > 1:
      self.gradients.pop(0)
    loss_K = 4 - 2 * self.learns * self.seen_K / (200 + self.seen_K)
    return Signals(
      loss_K=np.append(loss_K, np.nan),
      gram_KK=np.where(Q_K > 0, gradient_KP @ gradient_KP.T, np.nan),
    )


def facts(steps=STEPS):
  return world.facts_of(Q_K, steps=steps)


def openings(infos) -> list[int]:
  """The observations since which the three domains are open, from the graph on."""
  open_OK = np.stack([info.open_K for info in infos])[3:, :3]
  assert (np.diff(open_OK.astype(int), axis=0) >= 0).all()  # none closes again
  return [int(np.argmax(open_O)) for open_O in open_OK.T]


def run(proxy, **settings):
  method = ordered.make(**{**SMALL, **settings})
  states, infos, asks = planted.drive(method, facts(), proxy)
  return states, infos, np.stack([ask.mixture_K for ask in asks])


def test_an_edge_leads_to_what_is_helped_more_than_it_helps():
  gradient_KP = np.array([[1.0, 0], [1, 1], [-3, 0], [0, 0]])
  edge_KK = np.asarray(
    ordered.edges(jnp.asarray(gradient_KP @ gradient_KP.T), margin=0.1)
  )
  # A_01 = 1 and A_10 = .5; the third harms both, which is no reason to wait.
  np.testing.assert_array_equal(np.argwhere(edge_KK), [[0, 1]])
  assert not ordered.edges(jnp.asarray([[1.0, 1], [1, 2]]), margin=0.6).any()


def test_there_are_no_cycles():
  # Round by arrows if what is harmed less counted as helped more.
  gradient_KP = np.array([[1.0, 0], [1, 1.5], [-1, 2]])
  grams = [gradient_KP @ gradient_KP.T]
  rng = np.random.default_rng(0)
  for _ in range(50):
    gradient_KP = rng.normal(size=(8, 4)) * rng.uniform(0.5, 3, (8, 1))
    grams.append(gradient_KP @ gradient_KP.T)
  for gram_KK in grams:
    edge_KK = np.asarray(ordered.edges(jnp.asarray(gram_KK), margin=0.0))
    assert edge_KK.any()
    walks_KK = np.linalg.matrix_power(edge_KK.astype(float), len(edge_KK))
    assert not walks_KK.any()


def test_a_domain_is_opened_when_all_that_teach_it_are_done():
  edge_KK = jnp.array([[0, 1, 1], [0, 0, 1], [0, 0, 0]], bool)
  for done, expected in (
    ([0, 0, 0], [1, 0, 0]),
    ([1, 0, 0], [1, 1, 0]),
    ([0, 1, 0], [1, 0, 0]),
    ([1, 1, 0], [1, 1, 1]),
  ):
    open_K = ordered.opened(edge_KK, jnp.array(done, bool))
    np.testing.assert_array_equal(open_K, np.array(expected, bool))


@pytest.mark.parametrize("graph", ordered.GRAPHS)
@pytest.mark.parametrize("order", [[0, 1, 2], [2, 1, 0]])
def test_the_order_of_a_chain_is_found_and_that_of_its_reverse(graph, order):
  gradient_KP = CHAIN_KP[[*order, 3]]
  order = order[::-1] if graph == "reversed" else order
  _, infos, asked_OK = run(Taught(gradient_KP), graph=graph)
  first, second, third = (openings(infos)[k] for k in order)
  assert first == 0 < second < third
  # All is natural before there is a graph; when all is open, each is made up for what
  # it was kept from, up to the run's end.
  np.testing.assert_allclose(asked_OK[[0, 1, 2]], [Q_K] * 3, atol=1e-6)
  owed_K = len(asked_OK) * Q_K - asked_OK[: 3 + third].sum(axis=0)
  np.testing.assert_allclose(
    asked_OK[3 + third], owed_K / owed_K.sum(), atol=1e-6
  )
  np.testing.assert_allclose(asked_OK.mean(axis=0), Q_K, atol=1e-5)
  closed_K = np.where(np.arange(4) == order[0], 1, 0.1) * Q_K
  np.testing.assert_allclose(asked_OK[3], closed_K / closed_K.sum(), rtol=1e-5)
  later_K = [k in order[1:] for k in range(4)]
  np.testing.assert_array_equal(infos[3].edge_KK[order[0]], later_K)


def test_what_learns_next_to_nothing_is_not_waited_for():
  _, infos, _ = run(Taught(CHAIN_KP, learns=(0.005, 1.0, 1.0)))
  waited = openings(infos)
  assert waited[1] == 0 < waited[2]


def test_a_domain_opens_at_the_share_of_progress_that_is_asked_for():
  early, late = (run(Taught(CHAIN_KP), rho=rho)[1] for rho in (0.2, 0.9))
  assert openings(early)[1] < openings(late)[1]
  for infos, rho in ((early, 0.2), (late, 0.9)):
    at = 3 + openings(infos)[1]
    assert infos[at].progress_K[0] >= rho > infos[at - 1].progress_K[0]


def test_progress_is_against_the_end_of_the_run():
  _, infos, _ = run(Taught(CHAIN_KP))
  assert infos[1].progress_K[0] == 0  # no forecast yet
  assert 0.9 < infos[-1].progress_K[0] <= 1


def test_from_some_share_of_the_run_on_all_is_open():
  method = ordered.make(every=10, latest=0.25, rho=1.0)
  _, infos, _ = planted.drive(method, facts(), Taught(CHAIN_KP))
  open_OK = np.stack([info.open_K for info in infos])
  assert not open_OK[9, 1] and open_OK[10:].all()


def test_a_moving_graph_turns_and_a_frozen_one_does_not():
  turned_KP = CHAIN_KP[[2, 1, 0, 3]]
  gradients = [CHAIN_KP] * 4 + [turned_KP]
  _, frozen, _ = run(Taught(*gradients))
  assert all((info.edge_KK == frozen[3].edge_KK).all() for info in frozen[3:])
  _, moving, _ = run(Taught(*gradients), graph="moving", decay=0.0)
  told = np.array(
    [[info.appeared, info.vanished, info.turned] for info in moving]
  )
  np.testing.assert_array_equal(told[3:5], [[3, 0, 0], [3, 3, 3]])
  assert told.sum() == 12
  np.testing.assert_array_equal(moving[-1].edge_KK, moving[3].edge_KK.T)


def test_changes_are_counted():
  before_KK = jnp.array([[0, 1, 1], [0, 0, 0], [0, 0, 0]], bool)
  after_KK = jnp.array([[0, 0, 0], [1, 0, 1], [0, 0, 0]], bool)
  assert [int(x) for x in ordered.changes(before_KK, after_KK)] == [2, 2, 1]


def test_observations_count_alike_whatever_the_length_of_their_gradients():
  method = ordered.make(every=10, first=2)
  state = method.init(jax.random.key(0), facts())
  step = planted.Compiled(method)
  turned_KP = CHAIN_KP[[2, 1, 0, 3]]
  expected_KK = np.zeros((4, 4))
  for gradient_KP in (100 * CHAIN_KP, turned_KP):
    state, *_ = step(state, Taught(gradient_KP).observe())
    gram_KK = gradient_KP @ gradient_KP.T
    expected_KK += gram_KK / (np.trace(gram_KK) / 3) / 2
  np.testing.assert_allclose(state.gram_KK, expected_KK, rtol=1e-5)


def test_the_recipe_is_the_mean_or_the_last():
  states, _, asked_OK = run(Taught(CHAIN_KP))
  for output, expected_K in (
    ("mean", asked_OK.mean(axis=0)),
    ("last", asked_OK[-1]),
  ):
    method = ordered.make(output=output)
    found_K = world.recipe(method, states[-1], facts())
    np.testing.assert_allclose(found_K, expected_K, rtol=1e-4, atol=1e-6)


def test_nonsense_is_refused():
  cases: list[tuple[dict[str, Any], str]] = [
    (dict(graph="last"), "Known: first, moving"),
    (dict(output="best"), "Known: last, mean"),
    (dict(first=0), "first = 0 must be at least 1"),
    (dict(margin=-0.1), "margin = -0.1 must be at least 0"),
    (dict(margin=float("inf")), "margin = inf must be a finite number"),
    (dict(rho=1.5), "rho = 1.5 must be from 0 to 1"),
  ]
  for settings, match in cases:
    with pytest.raises(ValueError, match=match):
      ordered.make(**settings)
