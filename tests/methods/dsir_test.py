"""DSIR: the authors' importance weights, and what is done with them."""

import pathlib
from typing import Any

import jax
import numpy as np
import pytest

from cmtree_jax.embed.grams import Grams
from cmtree_jax.methods import dsir, scoring
from cmtree_jax.methods.base import Documents
from cmtree_jax.selection import regression
from cmtree_jax.types import UserError
from tests.methods import oracles, world

CASE = np.load(pathlib.Path(__file__).parent / "cases" / "dsir_io.npz")
BUCKETS = 10_000


def given(name: str) -> Documents:
  """Documents whose words the authors' code has hashed and counted."""
  document = CASE[f"{name}_document"]
  start_N1 = np.searchsorted(document, np.arange(document.max() + 2))
  counted = Grams(
    start_N1, CASE[f"{name}_bucket"], CASE[f"{name}_count"], BUCKETS
  )
  size = len(start_N1) - 1
  keys = np.random.default_rng(0).integers(2**63, size=size, dtype=np.uint64)
  return Documents(keys, np.full(size, 10), np.zeros((size, 1)), grams=counted)


def scores(pool, target, **options):
  settings: dict[str, Any] = {
    "buckets": BUCKETS,
    "smoothing": 1e-8,
    "shortest": 1,
    "normalized": False,
  }
  settings.update(options)
  (score_N,) = dsir.scores(pool, (target,), **settings)
  return score_N


def test_the_authors_package_gives_the_same_weights():
  """PyPI data-selection 1.0.3, HashedNgramDSIR on texts of three kinds."""
  pool, target = given("pool"), given("target")
  expected_N = CASE["log_weight"]
  np.testing.assert_allclose(scores(pool, target), expected_N, rtol=1e-6)
  number_N = np.bincount(CASE["pool_document"], CASE["pool_count"])
  np.testing.assert_allclose(
    scores(pool, target, normalized=True), expected_N / number_N, rtol=1e-6
  )


def test_from_texts_the_ranking_is_the_authors_packages():
  """Hashes differ, so other runs of words share a bucket; some documents move."""
  pool, target = oracles.documents("pool"), oracles.documents("target")
  score_N = scores(pool, target)
  expected_N = oracles.CASE["dsir_log_weight_N"]
  assert regression.spearman(score_N, expected_N) > 0.97
  shared = oracles.first(score_N) & oracles.first(expected_N)
  assert len(shared) >= 18  # of 20
  # With a bucket for every run of words, what is left is the package's collisions.
  exact_N = scores(pool, target, buckets=2**18)
  assert regression.spearman(exact_N, expected_N) > 0.99


def test_chunks_change_nothing(monkeypatch):
  monkeypatch.setattr(dsir, "_ENTRIES", 7)
  monkeypatch.setattr(dsir.scoring, "CHUNK", 3)
  test_the_authors_package_gives_the_same_weights()


def test_fewer_buckets_are_those_of_the_signal_together():
  pool, target = given("pool"), given("target")

  def folded(one):
    merged = one.grams._replace(bucket=one.grams.bucket % 50, buckets=50)
    return one._replace(grams=merged)

  np.testing.assert_allclose(
    scores(pool, target, buckets=50),
    scores(folded(pool), folded(target), buckets=50),
    rtol=1e-6,
  )


def test_more_buckets_than_were_counted_are_refused():
  pool, target = given("pool"), given("target")
  assert pool.grams is not None
  more = pool.grams.buckets + 1
  with pytest.raises(UserError, match=r"no more than config\.grams\.buckets"):
    list(scores(pool, target, buckets=more))


def test_short_documents_are_left_out_unless_all_are_short():
  pool, target = given("pool"), given("target")
  number_N = np.bincount(CASE["pool_document"], CASE["pool_count"])
  some_N = scores(pool, target, shortest=100)
  np.testing.assert_array_equal(np.isneginf(some_N), number_N < 100)
  assert np.isfinite(scores(pool, target, shortest=10_000)).all()


def test_draws_are_in_proportion_to_the_weights():
  """The largest of score and noise is document i with probability w_i / sum w."""
  log_w_N = np.log([0.5, 0.3, 0.2])
  key_N = np.array([11, 12, 13], np.uint64)
  won = [
    np.argmax(log_w_N + scoring.gumbel(key_N, jax.random.key(seed)))
    for seed in range(600)
  ]
  share_N = np.bincount(won, minlength=3) / len(won)
  # Four deviations of a share of 600 draws.
  np.testing.assert_allclose(share_N, np.exp(log_w_N), atol=0.085)
  noise_N = scoring.gumbel(
    np.arange(20_000, dtype=np.uint64), jax.random.key(0)
  )
  assert noise_N.mean() == pytest.approx(np.euler_gamma, abs=0.04)
  assert noise_N.std() == pytest.approx(np.pi / np.sqrt(6), abs=0.04)


def test_noise_is_of_the_document_not_of_its_place():
  key_N = np.arange(50, dtype=np.uint64)
  noise_N = scoring.gumbel(key_N, jax.random.key(1))
  np.testing.assert_array_equal(
    noise_N[::-1], scoring.gumbel(key_N[::-1], jax.random.key(1))
  )
  assert (noise_N != scoring.gumbel(key_N, jax.random.key(2))).all()


def weights(**options):
  method = dsir.make(shortest=1, **options)
  state = method.init(jax.random.key(0), world.facts(4.0))
  return np.exp(state.log_w_N), method.history(state)


def test_kinds_differ_as_they_say():
  hard_N, told = weights(kind="hard", share=0.3)
  drawn_N, _ = weights(kind="gumbel", share=0.3)
  soft_N, _ = weights(kind="soft")
  assert len(told) == world.T and told[0]["tokens"] > 0
  for w_N in (hard_N, drawn_N):
    assert len(np.unique(w_N)) == 2
  assert (hard_N != drawn_N).any()
  assert len(np.unique(soft_N)) > world.POOL / 2
  # The best weigh more.
  assert soft_N[hard_N > 1].mean() > soft_N[hard_N < 1].mean()


@pytest.mark.parametrize(
  "options",
  [
    {"kind": "best"},
    {"share": 0.0},
    {"share": 1.5},
    {"buckets": 0},
    {"smoothing": 0.0},
    {"shortest": 0},
  ],
)
def test_options_out_of_range_are_refused(options):
  with pytest.raises(ValueError, match=r"must be|Unknown"):
    dsir.make(**options)
