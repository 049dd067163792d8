"""Aioli on the mixing law that it assumes, published graphs and a planted world."""

from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from cmtree_jax.methods import aioli
from cmtree_jax.methods.base import Signals
from tests import reference
from tests.methods import planted_proxy as planted
from tests.methods import world

ALL = jnp.ones(3, bool)


def softmax(logits):
  weights = np.exp(logits - logits.max())
  return weights / weights.sum()


class LinearProxy:
  """Losses fall by A p with every step: the law itself. A new A in each round."""

  def __init__(self, graphs, round_length=10**9):
    self.graphs, self.round_length = graphs, round_length
    self.loss_T = np.full(len(graphs[0]), 50.0)
    self.time = 0

  def train(self, ask, steps):
    assert not ask.mark and not ask.back and ask.target_share == 0
    graph_TK = self.graphs[self.time // self.round_length]
    self.loss_T = self.loss_T - graph_TK @ np.asarray(ask.mixture_K) * steps
    self.time += 1

  def observe(self):
    return Signals(target_loss_T=self.loss_T, loss_K=self.loss_T)


def run(proxy, length, domains, **settings):
  method = aioli.make(every=1, **settings)
  mass_K = np.full(domains, 1 / domains)
  target_TK = np.tile(mass_K, (len(proxy.loss_T), 1))
  facts = world.facts_of(mass_K, target_TK, steps=length)
  states, infos, asks = planted.drive(method, facts, proxy)
  return method, states, infos, asks


@pytest.mark.parametrize("skills", ["", "_book"])
@pytest.mark.parametrize("seed", range(5))
def test_published_graphs_are_learned_and_followed(x64, skills, seed):
  name = f"slimpj_arxiv{skills}_stackexchange_normalized_seed_{seed}.npy"
  folder = reference.folder("published", "aioli", "skillit_graphs")
  graph_TK = np.load(
    folder / name
  ).T  # rows of a file are the domains trained on
  domains = len(graph_TK)
  length = 2 * domains + 2
  _, states, infos, _ = run(
    LinearProxy([graph_TK]), length, domains, phi=0.625, eta=0.2
  )
  expected_TK = graph_TK / graph_TK.sum()
  np.testing.assert_allclose(states[-1].graph_TK, expected_TK, rtol=1e-9)
  np.testing.assert_allclose(
    infos[-1].mixture_K, softmax(0.2 * expected_TK.sum(axis=0)), rtol=1e-9
  )


@pytest.mark.parametrize("name, count", [("k_3_n_9", 3), ("k_9_n_50", 9)])
def test_desmoothing_inverts_any_design(x64, name, count):
  folder = reference.folder("published", "aioli", "dirichlet_weights")
  rng = np.random.default_rng(0)
  for seed in range(5):
    design = np.loadtxt(folder / f"{name}_seed_{seed}.txt", delimiter=",")
    smooth_KK = design[:count]
    assert np.linalg.cond(smooth_KK) < 1e4
    graph_TK = rng.normal(size=(4, count))
    drop_TK = graph_TK @ smooth_KK.T  # column j: the falls under row j
    np.testing.assert_allclose(
      aioli.desmooth(smooth_KK, drop_TK), graph_TK, atol=1e-10
    )


def test_smoothed_one_hots_have_the_known_inverse(x64):
  count, phi = 3, 0.75
  other = (1 - phi) / (count - 1)
  own = phi - other
  inverse_KK = (np.eye(count) - other / (own + count * other)) / own
  smooth_KK = aioli.smoothed_one_hots(ALL, phi)
  np.testing.assert_allclose(smooth_KK.sum(axis=1), 1)
  np.testing.assert_allclose(np.diag(smooth_KK), phi)
  drop_TK = np.arange(6.0).reshape(2, 3)
  np.testing.assert_allclose(
    aioli.desmooth(smooth_KK, drop_TK), drop_TK @ inverse_KK, rtol=1e-12
  )


def test_domains_without_documents_stay_out_of_the_system():
  present_K = jnp.array([True, False, True])
  smooth_KK = aioli.smoothed_one_hots(present_K, 0.75)
  np.testing.assert_allclose(
    smooth_KK, [[0.75, 0, 0.25], [0, 1, 0], [0.25, 0, 0.75]]
  )
  alone_KK = aioli.smoothed_one_hots(jnp.array([False, True, False]), 0.75)
  np.testing.assert_allclose(alone_KK, np.eye(3))


def test_normalization_shifts_only_what_is_negative():
  graph_TK = jnp.array([[1.0, 3.0, 0.0], [2.0, 2.0, 0.0]])
  known_TK = jnp.array([[True, True, False]] * 2)
  np.testing.assert_allclose(
    aioli.normalize(graph_TK, known_TK), graph_TK / 8, rtol=1e-6
  )
  np.testing.assert_allclose(
    aioli.normalize(graph_TK - 2, known_TK),
    np.array([[0, 2, 0], [1, 1, 0]]) / 4,
    rtol=1e-6,
  )
  # Nothing fell anywhere: nothing is preferred, and nothing is NaN.
  assert not aioli.normalize(0 * graph_TK, known_TK).any()


@pytest.mark.parametrize("ema", [0.1, 0.6, None])
def test_rounds_are_averaged_or_multiplied(x64, ema):
  graphs = [
    np.array([[1.0, 2.0, 3.0], [2.0, 0.0, 1.0]]),
    np.array([[4.0, 0.0, 0.0], [1.0, 1.0, 0.0]]),
  ]
  # 2 x 3 observations of LearnParams, and as many of rest.
  _, _, infos, _ = run(
    LinearProxy(graphs, 12), 24, 3, ema=ema, delta=0.5, eta=3.0
  )
  one_K, two_K = (graph.sum(axis=0) / graph.sum() for graph in graphs)
  logits = (
    3 * (one_K + two_K)
    if ema is None
    else 3 * ((1 - ema) * two_K + ema * one_K)
  )
  mixtures = np.stack([info.mixture_K for info in infos])
  np.testing.assert_allclose(mixtures[:6], 1 / 3)
  for time in (6, 11, 12, 17):
    np.testing.assert_allclose(mixtures[time], softmax(3 * one_K), rtol=1e-9)
  np.testing.assert_allclose(mixtures[18], softmax(logits), rtol=1e-9)


def test_a_round_sweeps_in_random_orders_and_rests_on_p():
  _, _, infos, asks = run(
    LinearProxy([np.ones((1, 3))]), 27, 3, lp_steps=2, delta=0.8, phi=0.9
  )
  # 2 sweeps x 3 domains x 2 observations of 15; then a round that would not end.
  probed = np.array([int(info.domain) for info in infos])
  assert (probed[12:] == -1).all()
  np.testing.assert_array_equal(probed[0:12:2], probed[1:12:2])
  for sweep in (probed[0:6:2], probed[6:12:2]):
    assert sorted(sweep) == [0, 1, 2]
  for time, domain in enumerate(probed):
    p_K = np.asarray(asks[time].mixture_K)
    expected_K = np.full(3, 0.05) + 0.85 * (np.arange(3) == domain)
    if domain < 0:
      expected_K = infos[time].mixture_K
    np.testing.assert_allclose(p_K, expected_K, rtol=1e-5)


def test_sweeps_and_rounds_differ_in_order():
  _, _, infos, _ = run(LinearProxy([np.ones((1, 5))]), 60, 5, delta=0.5)
  probed = np.array([int(info.domain) for info in infos])
  probed = probed[probed >= 0].reshape(-1, 5)
  assert len(probed) == 6
  assert len({tuple(sweep) for sweep in probed}) > 2
  np.testing.assert_array_equal(np.sort(probed), np.tile(np.arange(5), (6, 1)))


def test_sweeps_shrink_to_the_run_and_too_short_a_run_stays_uniform():
  graph_TK = np.array([[1.0, 0.0, 0.0]])
  _, states, infos, _ = run(LinearProxy([graph_TK]), 4, 3)
  assert int(states[0].sweeps) == 1
  assert infos[-1].mixture_K[0] > 0.4
  method, states, infos, asks = run(LinearProxy([graph_TK]), 3, 3)
  for ask in asks:
    np.testing.assert_allclose(ask.mixture_K, 1 / 3)
  p_K = world.recipe(method, states[-1], world.facts_of(np.full(3, 1 / 3)))
  np.testing.assert_allclose(p_K, 1 / 3, rtol=1e-5)


@pytest.mark.parametrize("output", ["mean", "last"])
def test_the_recipe_is_the_mean_or_the_last_p_trained_on(output):
  graphs = [np.eye(3)[:1], np.eye(3)[1:2]]
  method, states, _, asks = run(
    LinearProxy(graphs, 12), 24, 3, delta=0.5, output=output
  )
  trained = np.stack(
    [asks[t].mixture_K for t in (*range(6, 12), *range(18, 24))]
  )
  expected_K = trained.mean(axis=0) if output == "mean" else trained[-1]
  p_K = world.recipe(method, states[-1], world.facts_of(np.full(3, 1 / 3)))
  np.testing.assert_allclose(p_K, expected_K, rtol=1e-4)


def test_a_planted_target_and_its_duplicate_come_first():
  method = aioli.make(every=5, eta=8.0)
  states, infos, _ = planted.drive(
    method, planted.facts(400), planted.PlantedProxy()
  )
  p_K = planted.recipe(method, states[-1])
  # The loss bends, so a domain that comes early in a sweep gets a little more.
  np.testing.assert_allclose(p_K[0], p_K[2], rtol=0.2)
  assert min(p_K[0], p_K[2]) > 2 * max(p_K[1], p_K[3])
  assert p_K[4] == 0
  assert all(int(info.domain) != 4 for info in infos)


def test_in_the_domains_setting_the_noise_comes_last():
  method = aioli.make(evaluate="domains", every=5, eta=8.0)
  assert not method.targeted
  states, infos, _ = planted.drive(
    method, planted.facts(400), planted.PlantedProxy()
  )
  p_K = planted.recipe(method, states[-1])
  assert np.isfinite(p_K).all()
  # Nor has the loss of a domain without documents a part in the mean.
  assert np.isfinite([info.mean_loss for info in infos]).all()
  assert min(p_K[0], p_K[2], p_K[3]) > p_K[1]
  # A loss without documents has no row.
  assert not np.asarray(states[-1].graph_TK)[4].any()


def test_nonsense_is_refused():
  cases: list[tuple[dict[str, Any], str]] = [
    (dict(evaluate="target"), "Known: domains, targets"),
    (dict(lp_rounds=0), "lp_rounds = 0 must be at least 1"),
    (dict(delta=0.0), "delta 0.0 must be above 0"),
    (dict(phi=0.5), "phi 0.5 must be above 0.5"),
    (dict(ema=1.0), "ema 1.0 must be at least 0 and below 1"),
    (dict(eta=0.0), "eta = 0.0 must be above 0"),
  ]
  for settings, match in cases:
    with pytest.raises(ValueError, match=match):
      aioli.make(**settings)
