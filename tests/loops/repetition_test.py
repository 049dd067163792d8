"""A short training repeats documents as the long one that it stands for."""

import jax
import numpy as np
import pytest

from cmtree_jax import budget
from cmtree_jax.data.draw import packing, sampler
from cmtree_jax.data.draw.subpool import Subpools
from cmtree_jax.loops import fleet
from tests import toy
from tests.toy import ROWS, T

N, STEPS = 3000, 60


def world(epochs: float) -> fleet.World:
  """Documents of equal length, and a budget of so many epochs of them."""
  texts = [np.full(T, 1 + i % 5) for i in range(N)]
  tokens = packing.store(texts, [3] * N, end_of_text=0)
  keys = sampler.document_keys([f"d{i}" for i in range(N)])
  pool = sampler.make(tokens, keys, row_tokens=T, seed=0)
  plan = budget.Plan(epochs=epochs, min_documents=20)
  made = budget.make(
    plan, prepared_tokens=int(tokens.pairs_N.sum()), parameters=1
  )
  strata = np.arange(N) % 7
  return toy.corpus().world._replace(
    pool=pool, subpools=Subpools(keys, strata, tokens.pairs_N, made)
  )


@pytest.mark.parametrize("epochs", [0.1, 1.0, 4.0])
def test_a_document_is_seen_as_often_as_its_weight_says(epochs):
  """w e times, as in the training that the budget tells of."""
  one = world(epochs)
  subpool = one.subpool(STEPS, "final", 0)
  assert subpool.epochs == pytest.approx(epochs, rel=0.05)
  w_N = np.exp(np.random.default_rng(0).normal(size=N))
  weight_N = subpool.weights(w_N)
  proxies = fleet.start(one, jax.random.split(jax.random.key(0), 1))
  _, batch = fleet.take(proxies, one, weight_N, STEPS * ROWS)
  seen_N = np.bincount(batch.document_BT.ravel(), minlength=N)
  seen_N = seen_N / one.subpools.pairs_N
  assert not seen_N[~subpool.inside_N].any()
  # To the next whole number; and rows do not end where the last document does.
  expected_N = weight_N * subpool.epochs
  assert np.abs(seen_N - expected_N).max() < 1.2
  assert seen_N.max() <= 5  # the cap, and where the rows end


def test_proxies_of_other_numbers_see_other_documents():
  one = world(1.0)
  first, second = (one.subpool(STEPS, "search", 0, n) for n in range(2))
  both = (first.inside_N & second.inside_N).sum()
  assert both < 0.3 * first.inside_N.sum()
  again = one.subpool(STEPS, "search", 0, 0)
  np.testing.assert_array_equal(first.inside_N, again.inside_N)
