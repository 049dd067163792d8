"""Methods that keep some documents: which ones, and what these weigh."""

import jax
import numpy as np
import pytest

from cmtree_jax.methods import base, perplexity
from tests.methods.world import MAX_WEIGHT, facts, measured_facts


def known(method, max_weight=100.0):
  return measured_facts(method, facts(max_weight))


def weights(method, known):
  """w of the pool's documents."""
  found = method.init(jax.random.key(0), known)
  return np.exp(found.log_w_N.astype(np.float64))


@pytest.mark.parametrize(
  ("band", "far"),
  [
    ("low", lambda u: u),
    ("mid", lambda u: abs(u - 0.5)),
    ("high", lambda u: -u),
  ],
)
def test_a_band_of_the_tokens_is_kept(band, far):
  method = perplexity.make(share=0.3, band=band)
  pool = known(method).pool
  loss_N = pool.loss_ON[-1]
  q_N = pool.tokens_N / pool.tokens_N.sum()
  u_N = np.array([q_N[loss_N < loss].sum() for loss in loss_N]) + q_N / 2
  before_N = np.array([q_N[far(u_N) < one].sum() for one in far(u_N)])
  expected_N = before_N < 0.3
  assert 0.3 <= q_N[expected_N].sum() < 0.4
  found = method.init(jax.random.key(0), known(method))
  w_N = np.exp(found.log_w_N.astype(np.float64))
  np.testing.assert_array_equal(w_N > 0.5, expected_N)
  np.testing.assert_allclose(
    w_N[expected_N], 1 / q_N[expected_N].sum(), rtol=1e-4
  )
  assert w_N[~expected_N].max() < 1e-5
  # What is kept is what ranks first.
  assert found.score_N[expected_N].min() > found.score_N[~expected_N].max()


def test_a_band_is_wider_where_documents_may_not_be_repeated_so_often():
  method = perplexity.make(share=0.3)
  pool = known(method).pool
  w_N = weights(method, known(method, MAX_WEIGHT))
  q_N = pool.tokens_N / pool.tokens_N.sum()
  kept_N = w_N > 0.5
  assert q_N @ w_N == pytest.approx(1, rel=1e-5)
  assert 0.3 < 1 / MAX_WEIGHT <= q_N[kept_N].sum() < 0.8
  assert w_N[kept_N].max() <= MAX_WEIGHT + 1e-5 and w_N[~kept_N].max() < 1e-5


@pytest.mark.parametrize("model", base.MODELS)
def test_only_a_model_that_reads_targets_makes_the_weights_depend_on_them(
  model,
):
  method = perplexity.make(model=model)
  assert method.look.models == (model,)
  assert method.targeted == (model == "target")


@pytest.mark.parametrize(
  "make",
  [
    lambda: perplexity.make(share=0.0),
    lambda: perplexity.make(band="middle"),
    lambda: perplexity.make(model="target_2"),
  ],
)
def test_options_out_of_range_are_refused(make):
  with pytest.raises(ValueError, match=r"must be|Unknown"):
    make()


def test_a_document_longer_than_the_band_stands_for_it():
  method = perplexity.make(share=0.2, band="low")
  facts = known(method)
  loss_N = facts.pool.loss_ON[-1]
  tokens_N = np.ones(len(loss_N))
  tokens_N[np.argmin(loss_N)] = len(loss_N)  # half of the tokens
  facts = facts._replace(pool=facts.pool._replace(tokens_N=tokens_N))
  assert np.argmax(weights(method, facts)) == np.argmin(loss_N)
