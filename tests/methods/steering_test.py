"""What steered mixtures share: the clock, and the cap on repeats."""

import jax.numpy as jnp
import numpy as np
import pytest

from cmtree_jax.methods import METHODS, steering
from tests.methods import planted_proxy as planted
from tests.methods import world

Q_K = np.array([0.5, 0.3, 0.1, 0.1, 0.0])


def course(max_weight):
  return steering.start(world.facts_of(Q_K, max_weight=max_weight, steps=9))


def test_the_excess_of_a_mixture_goes_to_the_others_in_proportion():
  p_K = jnp.array([0.2, 0.1, 0.6, 0.1, 0.0])
  found_K = course(4.0).then(p_K).mixture_K
  # The third domain may have .4; the others share the rest as 2 : 1 : 1.
  np.testing.assert_allclose(found_K, [0.3, 0.15, 0.4, 0.15, 0], rtol=1e-4)
  np.testing.assert_array_equal(course(6.0).then(p_K).mixture_K, p_K)


def test_a_mixture_of_one_domain_is_filled_up_with_all_others():
  one_K = jnp.array([0.0, 0.0, 1.0, 0.0, 0.0])
  found_K = course(4.0).then(one_K).mixture_K
  expected_K = 0.6 * Q_K / 0.9
  expected_K[2] = 0.4
  np.testing.assert_allclose(found_K, expected_K, rtol=1e-4)
  # With a cap of one nothing is left to choose.
  np.testing.assert_allclose(course(1.0).then(one_K).mixture_K, Q_K, rtol=1e-4)


def test_equal_shares_begin_below_the_cap():
  facts = world.facts_of([0.9, 0.09, 0.01], max_weight=4.0, steps=9)
  begin_K = steering.start(facts, uniform=True).mixture_K
  # The third is at its cap; the second would have .48 of the rest and has .36.
  np.testing.assert_allclose(begin_K, [0.6, 0.36, 0.04], rtol=1e-4)


class Random:
  """A proxy that shows anything."""

  def __init__(self):
    self.rng = np.random.default_rng(0)

  def train(self, ask, steps):
    pass

  def observe(self):
    size = len(Q_K)
    loss_K = self.rng.uniform(1, 4, size)
    found = planted.gradients(
      self.rng.normal(size=(size, 3)), self.rng.normal(size=3)
    )
    return found._replace(
      loss_K=np.where(Q_K > 0, loss_K, np.nan),
      excess_K=self.rng.uniform(0, 2, size),
      target_loss_T=self.rng.uniform(1, 4, 1),
      share_gain_K=np.where(Q_K > 0, self.rng.normal(size=size), 0.0),
    )


@pytest.mark.parametrize(
  "name", [name for name in METHODS if METHODS[name].make().loop == "steer"]
)
def test_a_recommended_mixture_never_repeats_more_than_allowed(name):
  method = METHODS[name].make(**METHODS[name].PLANTED.options)
  facts = world.facts_of(
    Q_K,
    [[0, 0, 1, 0, 0]],
    max_weight=1.1,
    steps=24 * method.every,
    pool=world.facts().pool,
    train=world.facts().train[:1],
  )
  states, _, _ = planted.drive(method, facts, Random())
  mixtures = np.stack(
    [getattr(state, "course", state).mixture_K for state in states]
  )
  assert (mixtures <= 1.1 * Q_K * (1 + 1e-4)).all()
  assert (mixtures > 1.09 * Q_K + 1e-9).any()  # it binds
