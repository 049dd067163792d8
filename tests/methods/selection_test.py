"""Methods that keep some documents: which ones, and what these weigh."""

import json
import pathlib

import jax
import numpy as np
import pytest

from cmtree_jax.methods import base, perplexity, semdedup
from tests.methods.world import MAX_WEIGHT, POOL, facts, measured_facts

CASES = pathlib.Path(__file__).parent / "cases"


def known(method, max_weight=100.0):
  return measured_facts(method, facts(max_weight))


def weights(method, known):
  """w of the pool's documents."""
  found = method.init(jax.random.key(0), known)
  return np.exp(found.log_w_N.astype(np.float64))


@pytest.mark.parametrize(
  ("band", "kept"),
  [
    ("low", lambda u: u < 0.3),
    ("mid", lambda u: abs(u - 0.5) < 0.15),
    ("high", lambda u: u > 0.7),
  ],
)
def test_a_band_of_the_tokens_is_kept(band, kept):
  method = perplexity.make(share=0.3, band=band)
  pool = known(method).pool
  loss_N = pool.loss_ON[-1]
  q_N = pool.tokens_N / pool.tokens_N.sum()
  u_N = np.array([q_N[loss_N < loss].sum() for loss in loss_N]) + q_N / 2
  expected_N = kept(u_N)
  assert 0.2 < q_N[expected_N].sum() < 0.4
  found = method.init(jax.random.key(0), known(method))
  w_N = np.exp(found.log_w_N.astype(np.float64))
  np.testing.assert_array_equal(w_N > 0.5, expected_N)
  np.testing.assert_allclose(
    w_N[expected_N], 1 / q_N[expected_N].sum(), rtol=1e-4
  )
  assert w_N[~expected_N].max() < 1e-5
  # What is kept is what ranks first.
  assert found.score_N[expected_N].min() > found.score_N[~expected_N].max()


def test_what_the_cap_takes_goes_to_the_others():
  method = perplexity.make(share=0.3)
  pool = known(method).pool
  w_N = weights(method, known(method, MAX_WEIGHT))
  assert w_N.max() == pytest.approx(MAX_WEIGHT, rel=1e-5)
  q_N = pool.tokens_N / pool.tokens_N.sum()
  assert q_N @ w_N == pytest.approx(1, rel=1e-5)


@pytest.mark.parametrize("keep", ["hard", "easy"])
@pytest.mark.parametrize("epsilon", ["0.02", "0.05", "0.1", "0.2", "0.4"])
def test_the_authors_code_keeps_the_same_documents(keep, epsilon):
  """facebookresearch/SemDeDup at 6b41945, from its clusters and distances."""
  given = np.load(CASES / "semdedup_io.npz")
  expected = json.loads((CASES / "semdedup_keep.json").read_text())
  unit_NE = given["embeddings"]
  unit_NE = unit_NE / np.linalg.norm(unit_NE, axis=1, keepdims=True)
  distance_N = 1 - given["dist_to_cent"]  # it keeps cosines by that name
  kept = []
  for cluster in range(len(given["centroids"])):
    rows = np.flatnonzero(given["nearest_cent"] == cluster)
    # Padding must not matter.
    padded = np.pad(distance_N[rows], (0, 7), constant_values=0.5)
    likeness = semdedup.likeness_to_earlier(
      np.pad(unit_NE[rows], [(0, 7), (0, 0)], mode="edge"),
      semdedup.rank(padded, keep),
      np.arange(len(rows) + 7) < len(rows),
    )
    kept += rows[
      np.asarray(likeness)[: len(rows)] <= 1 - float(epsilon)
    ].tolist()
  assert sorted(kept) == expected["kept_indices"][f"{keep}|{epsilon}"]


def test_one_of_two_that_say_the_same_is_left_out():
  """The one that is nearer to the center of its domain."""
  method = semdedup.make(epsilon=0.001)
  found = known(method)
  embedding_NE = np.array(found.pool.embedding_NE)
  domain_N = np.array(found.pool.domain_N)
  embedding_NE[5] = 2 * embedding_NE[4]  # only the direction counts
  embedding_NE[8] = embedding_NE[9] + 1e-3
  domain_N[5], domain_N[8] = domain_N[4], domain_N[9]
  pool = found.pool._replace(embedding_NE=embedding_NE, domain_N=domain_N)
  w_N = weights(method, found._replace(pool=pool))
  assert (w_N[4] < 1e-5) != (w_N[5] < 1e-5)
  assert (w_N[8] < 1e-5) != (w_N[9] < 1e-5)
  others = np.setdiff1d(np.arange(POOL), [4, 5, 8, 9])
  assert (w_N[others] > 1).all()


def test_only_a_model_that_reads_targets_makes_the_weights_depend_on_them():
  for model in base.MODELS:
    method = perplexity.make(model=model)
    assert method.look.models == (model,)
    assert method.targeted == (model == "target")


@pytest.mark.parametrize(
  "make",
  [
    lambda: perplexity.make(share=0.0),
    lambda: perplexity.make(band="middle"),
    lambda: perplexity.make(model="target_2"),
    lambda: semdedup.make(epsilon=1.0),
    lambda: semdedup.make(keep="soft"),
  ],
)
def test_options_out_of_range_are_refused(make):
  with pytest.raises(ValueError, match=r"must be|Unknown"):
    make()
