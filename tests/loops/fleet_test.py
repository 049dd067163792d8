"""Proxies in training: what they draw, what it costs, and which of them change."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cmtree_jax.loops import fleet
from cmtree_jax.proxy.ledger import GRADIENT
from tests import toy
from tests.toy import FLOPS, ROWS, T

WORLD = toy.corpus().world
NATURAL_N = np.ones(len(WORLD.domain_N))
FIRST_N = (WORLD.domain_N == 0).astype(float)


def keys(*numbers: int) -> jax.Array:
  return jnp.stack([jax.random.key(number) for number in numbers])


def embedding(proxies: fleet.Fleet) -> np.ndarray:
  """Some parameters of every proxy, [P, ...]."""
  return np.array(jax.tree.leaves(proxies.phi.params)[0])


def test_rows_go_on_where_they_were_also_from_a_checkpoint():
  weights = (NATURAL_N, NATURAL_N, FIRST_N, FIRST_N, NATURAL_N)
  once, again = (fleet.start(WORLD, keys(0)) for _ in range(2))
  for weight_N in weights:
    once, batch = fleet.take(once, WORLD, weight_N, 2 * ROWS)
    again, other = fleet.take(again.settled(), WORLD, weight_N, 2 * ROWS)
    jax.tree.map(np.testing.assert_array_equal, batch, other)
    if weight_N is FIRST_N:
      assert set(WORLD.domain_N[batch.document_BT].ravel()) == {0}
  for left, right in zip(
    once.settled().pool, again.settled().pool, strict=True
  ):
    jax.tree.map(np.testing.assert_array_equal, left, right)


def test_streams_of_their_own_are_alike_and_one_stream_goes_round():
  own = fleet.start(WORLD, keys(0, 0), streams=2)
  own, first = fleet.take(own, WORLD, NATURAL_N, ROWS, stream=0)
  own, second = fleet.take(own, WORLD, NATURAL_N, ROWS, stream=1)
  jax.tree.map(np.testing.assert_array_equal, first, second)
  shared = fleet.start(WORLD, keys(0, 0))
  shared, _ = fleet.take(shared, WORLD, NATURAL_N, ROWS)
  shared, after = fleet.take(shared, WORLD, NATURAL_N, ROWS)
  assert (after.document_BT != first.document_BT).any()


def test_only_those_that_train_change_age_and_cost():
  proxies = fleet.start(WORLD, keys(0, 1))
  before = embedding(proxies)
  proxies, batch = fleet.take(proxies, WORLD, NATURAL_N, 2 * ROWS)
  batches = fleet.by_member([batch, None], ROWS)
  assert batches.tokens_BT.shape == (2, 2, ROWS, T)
  assert not batches.tokens_BT[1].any()
  which_P = np.array([True, False])
  # Twice: the learning rate of a first step is zero.
  for _ in range(2):
    proxies, loss_PS = fleet.train(proxies, WORLD, batches, which_P=which_P)
  after = embedding(proxies)
  assert (after[0] != before[0]).any()
  np.testing.assert_array_equal(after[1], before[1])
  assert proxies.age.tolist() == [4, 0]
  tokens = 2 * 2 * ROWS * T
  assert proxies.cost.tolist() == [tokens, tokens * GRADIENT * FLOPS]
  assert loss_PS.shape == (2, 2)


def test_a_reset_proxy_is_as_new_and_the_others_stay():
  proxies = fleet.start(WORLD, keys(0, 1))
  proxies, batch = fleet.take(proxies, WORLD, NATURAL_N, 2 * ROWS)
  batches = fleet.by_member([batch, batch], ROWS)
  for _ in range(2):
    proxies, _ = fleet.train(proxies, WORLD, batches)
  trained = embedding(proxies)
  which_P = np.array([False, True])
  proxies = fleet.reset(
    proxies, WORLD, which_P, lambda number_P: keys(*(5 + number_P))
  )
  np.testing.assert_array_equal(embedding(proxies)[0], trained[0])
  fresh = embedding(fleet.start(WORLD, keys(5, 7)))
  np.testing.assert_array_equal(embedding(proxies)[1], fresh[1])
  assert proxies.age.tolist() == [4, 0]
  assert proxies.number.tolist() == [0, 2]


def test_what_is_observed_is_charged_and_leaves_the_proxies_alone():
  proxies = fleet.start(WORLD, keys(0))
  before = embedding(proxies)
  seen, looked = fleet.observe(proxies, WORLD, frozenset({"loss_K"}), 0)
  np.testing.assert_array_equal(embedding(seen), before)
  assert seen.cost.tolist() == list(looked.cost)
  assert seen.cost[1] > 0
  assert looked.signals.loss_K.shape == (toy.K,)


def test_a_field_below_one_is_refused():
  with pytest.raises(ValueError, match="target_rows = 0 must be at least 1"):
    fleet.ObservePlan(target_rows=0).check()
