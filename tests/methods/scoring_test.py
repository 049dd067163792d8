"""Weights from scores: the best, or all in proportion, under a cap."""

import jax
import numpy as np
import pytest

from cmtree_jax.data.draw import sampler
from cmtree_jax.methods import scoring
from cmtree_jax.methods.base import Documents
from cmtree_jax.methods.reasons import because

N = 40
RNG = np.random.default_rng(0)
POOL = Documents(
  RNG.integers(2**63, size=N, dtype=np.uint64),
  RNG.integers(5, 50, N),
  np.zeros((N, 1)),
)
Q_N = POOL.tokens_N / POOL.tokens_N.sum()
SCORE_TN = RNG.normal(size=(3, N))


def w_of(found) -> np.ndarray:
  w_N = np.exp(found.log_w_N.astype(np.float64))
  assert Q_N @ w_N == pytest.approx(1, rel=1e-5)
  return w_N


def kept_of(found) -> set[int]:
  """Documents of the selection, all of one weight; the others have none."""
  w_N = w_of(found)
  kept_N = w_N > 1e-5
  np.testing.assert_allclose(w_N[kept_N], 1 / Q_N[kept_N].sum(), rtol=1e-5)
  return set(np.flatnonzero(kept_N).tolist())


def first(score_N, share) -> set[int]:
  """The best documents, one by one, until they hold the share."""
  kept, held = set(), 0.0
  for document in np.argsort(-score_N):
    if held >= share:
      break
    kept.add(int(document))
    held += Q_N[document]
  return kept


def best(score_TN, share, max_weight=1e9, pool=POOL):
  return scoring.best(score_TN, pool, share=share, max_weight=max_weight)


@pytest.mark.parametrize("share", [0.01, 0.1, 0.2])
def test_every_target_keeps_its_best_documents(share):
  found = best(SCORE_TN, share)
  own = [first(score_N, share) for score_N in SCORE_TN]
  assert kept_of(found) == set.union(*own)
  held_T = [POOL.tokens_N[list(one)].sum() for one in own]
  assert [row["tokens"] for row in found.history] == held_T
  assert [row["target"] for row in found.history] == [0, 1, 2]


@pytest.mark.parametrize("max_weight", [1.0, 1.7, 4.0, 8.0])
def test_as_few_are_kept_as_the_cap_allows(max_weight):
  kept = kept_of(best(SCORE_TN, 0.01, max_weight))
  held_N = np.sort(Q_N[list(kept)])
  assert held_N.sum() * max_weight > 1 - 1e-6
  if max_weight > 1:  # one less would be too few
    assert (held_N.sum() - held_N[-1]) * max_weight < 1
  # The next best of the targets come in turn: each keeps about as much.
  for score_N in SCORE_TN:
    assert first(score_N, 0.8 * 1 / (3 * max_weight)) <= kept


def test_a_wide_share_needs_no_more():
  assert kept_of(best(SCORE_TN, 0.2, 4.0)) == kept_of(best(SCORE_TN, 0.2))


def test_equal_scores_are_told_apart_by_the_ids():
  kept = kept_of(best(np.zeros((1, N)), 0.1))
  assert kept == first(-POOL.key_N.astype(float), 0.1)
  order = RNG.permutation(N)
  moved = Documents(POOL.key_N[order], POOL.tokens_N[order], POOL.embedding_NE)
  other = best(np.zeros((1, N)), 0.1, pool=moved)
  assert {int(order[i]) for i in np.flatnonzero(other.log_w_N > -9)} == kept


def test_documents_without_a_score_come_last():
  score_N = np.where(np.arange(N) < 5, -np.inf, SCORE_TN[0])
  assert min(kept_of(best([score_N], 0.5))) >= 5
  assert kept_of(best([score_N], 1.0)) == set(range(N))


def proportional(score_TN, max_weight=1e9):
  return scoring.proportional(
    score_TN, POOL, num_targets=len(score_TN), max_weight=max_weight
  )


def test_weights_grow_with_the_score():
  found = proportional(SCORE_TN)
  w_TN = np.exp(SCORE_TN)
  w_TN /= (w_TN @ Q_N)[:, None]
  np.testing.assert_allclose(w_of(found), w_TN.mean(axis=0), rtol=1e-5)
  tokens_T = POOL.tokens_N.sum() / (w_TN**2 @ Q_N)
  told_T = [row["tokens"] for row in found.history]
  np.testing.assert_allclose(told_T, tokens_T, rtol=1e-6)


def test_the_cap_takes_from_no_target_for_another():
  """One target's scores are extreme, and the two share no document."""
  near_N = np.arange(N) < 8
  sharp_N = np.where(near_N, 30.0 * SCORE_TN[0], -300.0)
  mild_N = np.where(near_N, -300.0, SCORE_TN[1])
  held = Q_N[near_N].sum()
  max_weight = 0.6 / held  # less than a half is taken of each document's
  w_N = w_of(proportional([sharp_N, mild_N], max_weight))
  assert w_N.max() == pytest.approx(max_weight, rel=1e-5)
  assert Q_N[near_N] @ w_N[near_N] == pytest.approx(0.5, rel=1e-3)


def test_what_all_targets_want_goes_to_the_others():
  sharp_N = np.where(np.arange(N) < 2, 30.0, SCORE_TN[0])
  w_N = w_of(proportional([sharp_N, sharp_N], 2.0))
  np.testing.assert_allclose(w_N[:2], 2.0, rtol=1e-5)
  free_N = w_N < 1.99
  assert free_N.sum() > N / 2
  ratio_N = w_N[free_N] / np.exp(SCORE_TN[0][free_N])
  np.testing.assert_allclose(ratio_N, ratio_N[0], rtol=1e-5)


def test_no_weight_is_above_the_cap():
  for max_weight in (1.0, 1.5, 3.0):
    w_N = w_of(proportional(5 * SCORE_TN, max_weight))
    assert w_N.max() <= max_weight * (1 + 1e-6)


def test_what_has_no_score_has_no_weight():
  score_N = np.where(np.arange(N) < 5, -np.inf, SCORE_TN[0])
  assert w_of(proportional([score_N])).argsort()[:5].max() < 5
  assert w_of(proportional([score_N]))[:5].max() < 1e-5


def test_what_is_not_kept_is_told_with_its_rank_or_score():
  score_N = np.arange(N, dtype=float)
  last = int(np.argmin(score_N))
  for found, told in (
    (best([score_N], 0.2), "for the target that wants it most"),
    (scoring.top(score_N, POOL, share=0.2, max_weight=1e9), "rank before it"),
  ):
    assert found.reasons is not None
    before = 1 - Q_N[last]
    assert found.reasons.text(last, {}).startswith(
      f"{before:.1%} of the tokens"
    )
    assert found.reasons.text(last, {}).endswith(told)
  soft = scoring.proportional(
    [np.log(1 + score_N)], POOL, num_targets=1, max_weight=1e9
  )
  assert soft.reasons is not None
  assert soft.reasons.text(last, {}).startswith("score ")
  # Kept or not: the weight says that already.
  assert scoring.chosen(score_N > 3, POOL, max_weight=9.0).reasons is None
  own = because("for no reason", x=score_N)
  assert soft.saying(own).telling(x=[1.0]).reasons is own


@pytest.mark.parametrize("parts", [3, 4, 7, 10])
def test_a_share_of_equal_documents_is_met_exactly(parts):
  size = 28 * parts
  pool = Documents(
    np.arange(size, dtype=np.uint64), np.full(size, 9), np.zeros((size, 1))
  )
  found = scoring.top(
    -np.arange(float(size)), pool, share=1 / parts, max_weight=100.0
  )
  assert np.flatnonzero(found.log_w_N > 0).tolist() == list(range(28))


@pytest.mark.parametrize("percent", [7, 14, 28, 29, 55, 57])
def test_the_first_hold_a_share_and_not_a_document_more(percent):
  pool = Documents(
    np.arange(100, dtype=np.uint64), np.ones(100, int), np.zeros((100, 1))
  )
  found_N = scoring.first(-np.arange(100.0), pool, share=percent / 100)
  assert found_N.sum() == percent


def test_noise_is_not_the_order_in_which_others_draw():
  """Random documents, or those whose influence is asked, by the same ids."""
  keys = np.random.default_rng(0).integers(2**63, size=4000, dtype=np.uint64)
  for seed in range(3):
    noise_N = scoring.gumbel(keys, jax.random.key(seed))
    for salt in range(4):
      drawn_N = sampler.mixed(keys ^ np.uint64(salt)).astype(np.float64)
      assert abs(np.corrcoef(noise_N, drawn_N)[0, 1]) < 0.08
