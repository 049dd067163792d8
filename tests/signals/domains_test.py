"""Losses of domains and targets, by an engine whose losses are known."""

import math

import numpy as np
import pytest

from cmtree_jax.proxy.ledger import Cost
from cmtree_jax.signals import SIGNALS, domains
from cmtree_jax.signals.base import observe
from tests import toy
from tests.toy import K

VIEW = toy.corpus().view
PARAMS = np.array([1.0, 6.0])  # of two proxies: the word that each knows best


def losses(params, batches):
  """How far a word is from the one that a proxy knows, and where in the row."""
  place_T = np.linspace(0, 0.5, batches.tokens_BT.shape[-1])
  distance = batches.tokens_BT - params[:, None, None, None]
  return np.abs(distance) + place_T


def weighted_nats(params, weighted):
  batches, weight_CBT = weighted
  return (losses(params, batches) * weight_CBT).sum(axis=(1, 2, 3))


ENGINE = toy.engine()._replace(losses=losses, weighted_nats=weighted_nats)


def means(loss_PGBT, batch):
  """Of the real tokens of every part; 0 for a part without."""

  def mean(loss_BT, document_BT):
    real = loss_BT[document_BT >= 0]
    return real.mean() if len(real) else 0.0

  return [
    [mean(*pair) for pair in zip(loss_GBT, batch.document_BT, strict=True)]
    for loss_GBT in loss_PGBT
  ]


# Rows of a chunk that divide those of all domains, that do not, and more than all.
@pytest.mark.parametrize("chunk_rows", [4, 3, 11])
def test_a_domain_s_loss_is_the_mean_over_its_frozen_tokens(chunk_rows):
  view = VIEW._replace(chunk_rows=chunk_rows)
  found = domains.domain_losses(view, ENGINE, PARAMS)
  expected = means(losses(PARAMS, view.frozen), view.frozen)
  np.testing.assert_allclose(found, expected, rtol=1e-12)
  assert found.shape == (2, K) and (found[:, 3] == 0).all()


def test_an_excess_is_clipped_before_the_mean():
  reference = np.array([4.0, 2.0])
  seen = observe(VIEW, ENGINE, PARAMS, reference=reference)
  batch = seen.batch
  found = SIGNALS["excess_K"].compute(seen)["excess_K"]
  excess = losses(PARAMS, batch) - losses(reference, batch)
  np.testing.assert_allclose(
    found, means(np.maximum(excess, 0), batch), rtol=1e-12
  )
  assert (found > np.maximum(means(excess, batch), 0) + 0.1).any()


def test_tokens_are_counted_without_padding():
  seen = observe(VIEW._replace(rows=30), ENGINE, PARAMS)  # more than there are
  batch = seen.batch
  found = SIGNALS["tokens_K"].compute(seen)["tokens_K"]
  expected_K = [(one >= 0).sum() for one in batch.document_BT]
  np.testing.assert_array_equal(found, [expected_K] * 2)
  assert 0 < min(expected_K[:3]) < max(expected_K) < batch.tokens_BT[0].size
  assert SIGNALS["tokens_K"].cost(seen, 100.0) == Cost()


def test_a_target_s_loss_is_in_bits_per_byte():
  (one,) = VIEW.eval_sets
  found = domains.target_losses(VIEW, ENGINE, PARAMS)
  nats_P = losses(PARAMS, one.batches)[:, one.weight_CBT > 0].sum(axis=1)
  np.testing.assert_allclose(
    found[:, 0], nats_P / math.log(2) / one.num_bytes, rtol=1e-12
  )
  assert domains.eval_rows(VIEW) == one.batches.tokens_BT[..., 0].size
