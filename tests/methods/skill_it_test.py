"""Skill-It against the authors' weights, published graphs and a planted world."""

import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cmtree_jax.methods import skill_it
from cmtree_jax.methods.base import Signals
from tests import reference
from tests.methods import planted_proxy as planted
from tests.methods import world

CASES = pathlib.Path(__file__).parent / "cases"


def softmax(logits):
  weights = np.exp(logits - logits.max())
  return weights / weights.sum()


class Scripted:
  """A proxy whose drop under one domain is a row of a graph, then a list of losses."""

  def __init__(self, graph_KT, losses=()):
    self.graph_KT, self.losses = graph_KT, list(losses)
    self.loss_T = np.full(graph_KT.shape[1], 2.0)
    self.marks = self.backs = 0

  def train(self, ask, steps):
    del steps
    self.marks += bool(ask.mark)
    self.backs += bool(ask.back)
    p_K = np.asarray(ask.mixture_K)
    if p_K.max() == 1:
      self.loss_T = 2 * (1 - self.graph_KT[p_K.argmax()])
    elif ask.back or self.backs:
      self.loss_T = self.losses.pop(0) if self.losses else self.loss_T

  def observe(self):
    return Signals(target_loss_T=self.loss_T, loss_K=self.loss_T)


def run(graph_KT, losses=(), **settings):
  """(mixtures from the first that the graph gives, proxy, last state)."""
  domains, targets = graph_KT.shape
  method = skill_it.make(every=1, warmup=2, update=1, **settings)
  length = 2 * (domains + 2) + len(losses)
  mass_K = np.full(domains, 1 / domains)
  facts = world.facts_of(mass_K, np.tile(mass_K, (targets, 1)), steps=length)
  proxy = Scripted(graph_KT, losses)
  states, infos, _ = planted.drive(method, facts, proxy)
  mixtures = [np.asarray(info.mixture_K) for info in infos[2 + domains :]]
  return mixtures, proxy, states[-1]


def test_the_weights_are_those_of_the_authors(x64):
  case = dict(np.load(CASES / "skillit_weights.npz"))
  mixtures, proxy, state = run(
    case["graph"],
    case["losses"],
    evaluate="domains",
    eta=float(case["eta"]),
    window=int(case["window"]),
  )
  np.testing.assert_allclose(state.graph_KT, case["graph"], rtol=1e-9)
  np.testing.assert_allclose(
    mixtures[: len(case["proportions"])], case["proportions"], rtol=1e-9
  )
  assert (proxy.marks, proxy.backs) == (1, len(case["graph"]))


@pytest.mark.parametrize(
  "name, clip",
  [
    ("spanish_qg_normalized", True),
    ("spanish_qg_normalized", False),
    ("top_23_early_decreases", True),
    ("ni_test_graph", True),
    ("ni_test_graph", False),
  ],
)
def test_published_graphs_are_measured_and_followed(x64, name, clip):
  graph_KT = np.load(reference.folder("published", "skillit") / f"{name}.npy")
  mixtures, _, state = run(graph_KT, clip=clip)
  followed_KT = np.maximum(graph_KT, 0) if clip else graph_KT
  np.testing.assert_allclose(state.graph_KT, followed_KT, atol=1e-12)
  np.testing.assert_allclose(
    mixtures[0], softmax(0.2 * followed_KT.sum(axis=1)), rtol=1e-9
  )


def test_a_row_of_a_published_graph_is_one_run():
  # Both graphs of a seed share the run on arXiv alone: its row, where they have
  # the same columns, is equal to the last digit. No column is.
  folder = reference.folder("published", "aioli", "skillit_graphs")
  for seed in range(5):
    name = "slimpj_{}_normalized_seed_{}.npy"
    two_KK = np.load(folder / name.format("arxiv_stackexchange", seed))
    three_KK = np.load(folder / name.format("arxiv_book_stackexchange", seed))
    np.testing.assert_allclose(two_KK[0, 0], three_KK[0, 0], rtol=1e-12)
    assert abs(two_KK[1, 0] - three_KK[2, 0]) > 1e-4


def test_the_window_forgets():
  graph_KT = np.eye(2)
  losses = [np.array([9.0, 0.0])] + [np.array([1.0, 2.0])] * 3
  mixtures, _, _ = run(graph_KT, losses, eta=0.2, window=3)
  np.testing.assert_allclose(
    mixtures[3], softmax(0.2 * np.array([11.0, 4.0])), rtol=1e-5
  )
  np.testing.assert_allclose(
    mixtures[4], softmax(0.2 * np.array([3.0, 6.0])), rtol=1e-5
  )


def test_a_planted_target_and_its_duplicate_come_first():
  method = skill_it.make(every=5, warmup=4, horizon=2, update=3, eta=2.0)
  states, infos, asks = planted.drive(
    method, planted.facts(300), planted.PlantedProxy()
  )
  p_K = planted.recipe(method, states[-1])
  # The noise helps the target as little as what it has no use for.
  np.testing.assert_allclose(p_K[0], p_K[2], rtol=1e-4)
  np.testing.assert_allclose(p_K[1], p_K[3], rtol=1e-4)
  assert p_K[0] > 1.5 * p_K[1]
  assert p_K[4] == 0
  # Phases: natural, four domains from one mark, then p.
  assert [bool(ask.mark) for ask in asks].index(True) == 4
  assert sum(bool(ask.mark) for ask in asks) == 1
  backs = [i for i, ask in enumerate(asks) if ask.back]
  assert backs == [6, 8, 10, 12]
  domains = [int(info.domain) for info in infos]
  assert domains[:14] == [-1] * 4 + [0, 0, 1, 1, 2, 2, 3, 3] + [-1] * 2


def test_in_the_domains_setting_the_noise_comes_last():
  # Without a target, domain 3 helps its own loss; 0 and 2 help two losses.
  method = skill_it.make(
    evaluate="domains", every=5, warmup=4, horizon=2, update=3
  )
  assert not method.targeted
  states, _, _ = planted.drive(
    method, planted.facts(300), planted.PlantedProxy()
  )
  p_K = planted.recipe(method, states[-1])
  assert p_K[0] > p_K[3] > p_K[1]


def test_phases_shrink_to_the_run_and_too_short_a_run_stays_natural():
  method = skill_it.make(every=1, warmup=10, horizon=9)
  state = method.init(jax.random.key(0), planted.facts(32))
  assert (int(state.warmup), int(state.horizon)) == (8, 4)
  states, _, _ = planted.drive(method, planted.facts(3), planted.PlantedProxy())
  np.testing.assert_allclose(
    planted.recipe(method, states[-1]), planted.Q_K, rtol=1e-5
  )


@pytest.mark.parametrize("output", ["mean", "last"])
def test_the_recipe_is_the_mean_or_the_last_of_the_steered_mixtures(output):
  method = skill_it.make(
    every=5, warmup=4, horizon=2, update=3, eta=2.0, output=output
  )
  states, infos, _ = planted.drive(
    method, planted.facts(300), planted.PlantedProxy()
  )
  mixtures = np.stack([info.mixture_K for info in infos])
  expected_K = mixtures[12:].mean(axis=0) if output == "mean" else mixtures[-1]
  np.testing.assert_allclose(
    planted.recipe(method, states[-1]), expected_K, rtol=1e-4
  )
  assert np.abs(mixtures[12:].mean(axis=0) - mixtures[-1]).max() > 1e-3


def test_nonsense_is_refused():
  cases: list[tuple[dict[str, Any], str]] = [
    (dict(evaluate="target"), "Known: domains, targets"),
    (dict(output="first"), "Known: last, mean"),
    (dict(update=0), "update = 0 must be at least 1"),
    (dict(warmup=-1), "warmup = -1 must be at least 0"),
    (dict(eta=0.0), "eta = 0.0 must be above 0"),
  ]
  for settings, match in cases:
    with pytest.raises(ValueError, match=match):
      skill_it.make(**settings)


def test_proportions_of_present_domains():
  p_K = skill_it.proportions(
    jnp.eye(3), jnp.ones((1, 3)), eta=1.0, present_K=jnp.array([1, 0, 1], bool)
  )
  np.testing.assert_allclose(p_K, [0.5, 0, 0.5])
