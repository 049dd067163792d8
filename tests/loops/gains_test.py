"""What domains' shares are worth: finite differences of training, and the ledger."""

import jax
import numpy as np

from cmtree_jax.bilevel.cost import UnrollCost
from cmtree_jax.data.draw.batch import Batch
from cmtree_jax.loops import fleet, gains
from cmtree_jax.proxy.ledger import GRADIENT
from cmtree_jax.signals import gradients, observe
from tests import toy
from tests.toy import FLOPS, ROWS, K, T

COST = UnrollCost(6, 1)
WORLD = toy.corpus().world._replace(
  model=fleet.Model(toy.engine(), FLOPS, COST)
)
S = 3


def trained() -> tuple[fleet.Fleet, Batch]:
  """A proxy that has learned something, and its next steps."""
  proxy = fleet.start(WORLD, jax.random.key(0)[None])
  for _ in range(2):
    proxy, batch = fleet.take(
      proxy, WORLD, np.ones(len(WORLD.domain_N)), S * ROWS
    )
    batches = fleet.by_member([batch], ROWS)
    proxy, _ = fleet.train(proxy, WORLD, batches)
  proxy, batch = fleet.take(
    proxy, WORLD, np.ones(len(WORLD.domain_N)), S * ROWS
  )
  return proxy, fleet.by_member([batch], ROWS)


def loss_after(proxy, batches, weight, number) -> float:
  """Of the targets' rows, after steps with these weights of tokens."""
  engine = WORLD.model.engine
  phi = fleet.copy(proxy.phi)
  phi, _ = engine.train(phi, batches, weight, np.ones(1, bool))
  assert WORLD.view is not None
  seen = observe(WORLD.view, engine, phi.params, number=number)
  rows, share = gradients.weighted_targets(seen)
  loss = np.asarray(engine.losses(phi.params, rows), np.float64)[0]
  return float((loss * share).sum())


def test_gains_are_the_derivatives_by_log_shares():
  proxy, batches = trained()
  weight = fleet.ones(batches)
  domain = WORLD.domain_N[batches.document_BT]
  expected_K, step = np.zeros(K), 0.1
  for k in range(K):
    up, down = (
      loss_after(proxy, batches, weight * np.exp(s * (domain == k)), 5)
      for s in (step, -step)
    )
    expected_K[k] = (down - up) / (2 * step)
  plain, _ = fleet.train(
    proxy._replace(phi=fleet.copy(proxy.phi)), WORLD, batches
  )
  before = proxy.cost
  valued, found_K = gains.train(proxy, WORLD, batches, 5)
  np.testing.assert_allclose(found_K, expected_K, rtol=0.02, atol=2e-5)
  assert np.abs(found_K[:3]).min() > 1e-3
  assert found_K[3] == 0  # no documents
  # A step's weights count by their shares alone.
  assert abs(found_K.sum()) < 1e-5
  # The proxy goes on as if nobody had asked.
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6),
    valued.phi.params,
    plain.phi.params,
  )
  assert valued.age == plain.age
  # Two rows of the target are seen as a batch.
  tokens = (S * ROWS * COST.inner_passes + ROWS * GRADIENT) * T
  np.testing.assert_allclose(valued.cost[1] - before[1], tokens * FLOPS)


def test_the_targets_rows_change_with_the_observation():
  gains_OK = [gains.train(*_pair(), number)[1] for number in (5, 5, 6)]
  np.testing.assert_array_equal(gains_OK[0], gains_OK[1])
  assert (gains_OK[0] != gains_OK[2]).any()


def _pair():
  proxy, batches = trained()
  return proxy, WORLD, batches
