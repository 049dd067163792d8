"""DoReMi: its update by hand, its forms, and a world of learnable domains."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cmtree_jax.methods import doremi
from cmtree_jax.methods.base import Signals
from tests.methods import planted_proxy as planted
from tests.methods import world

FACTS = world.facts_of([0.5, 0.3, 0.2])
SCORE_SK = np.array([[0.0, np.log(2), np.log(5)], [np.log(2), 0.0, 0.0]])


def observe(method, scores=SCORE_SK, facts=FACTS, **more):
  """States and asks after the start and each observation."""
  states = [method.init(jax.random.key(0), facts)]
  for score_K in scores:
    signals = Signals(excess_K=jnp.asarray(score_K, jnp.float32), **more)
    states.append(method.step(states[-1], signals)[0])
  return states, [np.asarray(method.ask(s).mixture_K) for s in states]


def test_the_update_by_hand_on_three_domains():
  # Factors 1, 2, 5 of a third each: 1/8, 2/8, 5/8; then a tenth of a third.
  states, asks = observe(doremi.make(smoothing=0.1))
  first = 0.9 * np.array([1, 2, 5]) / 8 + 0.1 / 3
  np.testing.assert_allclose(
    first, [0.1458333, 0.2583333, 0.5958333], rtol=1e-6
  )
  np.testing.assert_allclose(asks[0], 1 / 3, rtol=1e-6)
  np.testing.assert_allclose(asks[1], first, rtol=1e-6)
  # Factors 2, 1, 1: the sum is one and the first share once more.
  second = 0.9 * first * [2, 1, 1] / (1 + first[0]) + 0.1 / 3
  np.testing.assert_allclose(asks[2], second, rtol=1e-6)
  # The result is the mean, the start included.
  method = doremi.make(smoothing=0.1)
  mean = (1 / 3 + first + second) / 3
  np.testing.assert_allclose(
    world.recipe(method, states[2], FACTS), mean, rtol=1e-5
  )
  last = doremi.make(smoothing=0.1, output="last")
  np.testing.assert_allclose(
    world.recipe(last, states[2], FACTS), second, rtol=1e-5
  )


def test_the_step_size_multiplies_scores():
  _, double = observe(doremi.make(step_size=2.0, smoothing=0.0))
  _, twice = observe(doremi.make(smoothing=0.0), 2 * SCORE_SK)
  np.testing.assert_allclose(double, twice, rtol=1e-6)
  np.testing.assert_allclose(double[1], np.array([1, 4, 25]) / 30, rtol=1e-6)


def test_smoothing_of_the_paper_is_a_thousandth():
  # A domain that is never behind its reference keeps a thousandth of its third.
  _, asks = observe(doremi.make(), np.array([[0.0, 40.0, 40.0]]))
  np.testing.assert_allclose(asks[1][0], 1e-3 / 3, rtol=1e-5)


def test_the_authors_loss_weighs_domains_by_their_tokens():
  tokens_K = jnp.array([64.0, 64.0, 16.0])
  _, paper = observe(doremi.make())
  states, authors = observe(doremi.make(form="authors"), tokens_K=tokens_K)
  # The loss that they write, from losses of single tokens.
  loss_K = np.array([1.0, 2.0, 4.0])
  weight_K = paper[1]
  written = np.sum(weight_K * tokens_K * loss_K) / np.sum(weight_K * tokens_K)
  np.testing.assert_allclose(authors[1] @ loss_K, written, rtol=1e-6)
  assert abs(authors[1] @ loss_K - paper[1] @ loss_K) > 0.1
  # The weights themselves are those of the paper.
  np.testing.assert_allclose(states[1].course.mixture_K, paper[1], rtol=1e-6)
  # Equally full rows: no difference.
  _, full = observe(doremi.make(form="authors"), tokens_K=jnp.full(3, 64.0))
  np.testing.assert_allclose(full, paper, rtol=1e-6)


def test_dataflex_differs_only_where_scores_are_clipped():
  near, far = SCORE_SK, np.array([[0.0, 0.0, 12.0]])
  for scores, same in ((near, True), (far, False)):
    _, paper = observe(doremi.make(smoothing=0.0), scores)
    _, dataflex = observe(doremi.make(smoothing=0.0, form="dataflex"), scores)
    assert np.allclose(dataflex[1], paper[1], rtol=1e-6) == same
  # -4, -4, 8 is clipped to -4, -4, 5.
  np.testing.assert_allclose(
    dataflex[1][2] / dataflex[1][0], np.exp(9), rtol=1e-5
  )


@pytest.mark.parametrize("form", ["paper", "authors", "dataflex"])
def test_domains_without_documents_stay_without(form):
  facts = world.facts_of([0.5, 0.0, 0.3, 0.2])
  method = doremi.make(smoothing=0.1, form=form)
  scores = np.insert(SCORE_SK, 1, np.nan, axis=1)
  tokens_K = jnp.array([8.0, 0.0, 8.0, 4.0])
  states, asks = observe(method, scores, facts, tokens_K=tokens_K)
  _, without = observe(method, tokens_K=tokens_K[jnp.array([0, 2, 3])])
  assert [ask[1] for ask in asks] == [0, 0, 0]
  np.testing.assert_allclose(np.delete(asks, 1, axis=1), without, rtol=1e-6)
  assert world.recipe(method, states[-1], facts)[1] == 0


@pytest.mark.parametrize(
  ("options", "message"),
  [
    (dict(step_size=0.0), "step_size = 0.0 must be above 0"),
    (dict(smoothing=1.5), "smoothing 1.5 must be from 0 to 1"),
    (dict(form="code"), "Unknown form 'code'. Known: authors, dataflex, paper"),
    (dict(output="best"), "Unknown output 'best'. Known: last, mean"),
  ],
)
def test_nonsense_is_told(options, message):
  with pytest.raises(ValueError, match=message):
    doremi.make(**options)


class LearningProxy:
  """Domains: one of a skill, noise, the first's duplicate, one of a harder skill.

  A share of a skill's domains is so much learning of it; noise teaches nothing.
  """

  rate_KK = np.array(
    [
      [0.4, 0.0, 0.4, 0.0],
      [0.0, 0.0, 0.0, 0.0],
      [0.4, 0.0, 0.4, 0.0],
      [0.0, 0.0, 0.0, 0.1],
    ]
  )
  learnable_K = np.array([3.0, 0.0, 3.0, 3.0])

  def __init__(self):
    self.learned_K = np.zeros(4)

  def train(self, ask, steps):
    self.learned_K += steps * self.rate_KK @ np.asarray(ask.mixture_K)

  def observe(self):
    loss_K = 2.0 + self.learnable_K * np.exp(-self.learned_K)
    return Signals(excess_K=np.maximum(loss_K - 2.5, 0.0))


def test_it_orders_a_planted_world_by_what_is_left_to_learn():
  # The target is the first skill, which DoReMi is not told: it must prefer the
  # harder skill, where the proxy is behind the reference for longest, share the
  # easy one between its two equal domains, and leave noise to the smoothing.
  facts = world.facts_of([0.25] * 4, [[1.0, 0, 0, 0]], steps=60)
  method = doremi.make()
  states, _, _ = planted.drive(method, facts, LearningProxy())
  recipe_K = world.recipe(method, states[-1], facts)
  easy, noise, copy, hard = recipe_K
  np.testing.assert_allclose(easy, copy, rtol=1e-5)
  assert hard > 2 * easy > 10 * noise
  assert not method.targeted
