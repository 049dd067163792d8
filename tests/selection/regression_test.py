"""The linear head on embeddings: its equation, what chooses the penalty, bad input."""

import numpy as np
import pytest

from cmtree_jax.selection import regression
from cmtree_jax.types import UserError


def fit(*given):
  return regression.fit(*given, source="the test")


M, E = 120, 5
RNG = np.random.default_rng(0)
X_ME = RNG.normal(size=(M, E)) * [1, 2, 0.5, 1, 1] + 3
KEY_M = RNG.integers(2**63, size=M, dtype=np.uint64)
SLOPE_E = np.array([1.0, -1.0, 2.0, 0.0, 0.0])


def scores(noise: float, seed: int = 1) -> np.ndarray:
  noise_M = np.random.default_rng(seed).normal(size=M)
  return X_ME @ SLOPE_E - 4 + noise * noise_M


def test_the_head_is_the_ridge_regression_of_scikit_learn():
  from sklearn.linear_model import Ridge

  y_M = scores(2.0)
  found = fit(X_ME, y_M, KEY_M)
  strength = found.penalty * X_ME.var(axis=0).mean() * M
  expected = Ridge(alpha=strength).fit(X_ME, y_M)
  np.testing.assert_allclose(found.slope_E, expected.coef_, rtol=1e-8)
  np.testing.assert_allclose(
    found.score(X_ME), expected.predict(X_ME), rtol=1e-8
  )


def test_what_is_held_out_chooses_the_penalty_and_tells_the_ranking():
  exact = fit(X_ME, scores(0.0), KEY_M)
  assert exact.penalty == min(regression.PENALTIES)
  assert exact.spearman == pytest.approx(1.0)
  np.testing.assert_allclose(exact.slope_E, SLOPE_E, atol=1e-3)
  lost = fit(X_ME, scores(1000.0), KEY_M)
  assert lost.penalty >= 1.0
  assert abs(lost.spearman) < 0.7
  # The rank correlation is that of a fit that has not seen the held-out documents.
  y_M = scores(3.0)
  held = np.argsort(KEY_M)[: M // 10]
  spoiled_M = y_M.copy()
  spoiled_M[held] = y_M[held][::-1]
  assert fit(X_ME, spoiled_M, KEY_M).spearman < fit(X_ME, y_M, KEY_M).spearman


def test_order_and_chunks_change_nothing(monkeypatch):
  y_M, order = scores(1.0), RNG.permutation(M)
  found = fit(X_ME, y_M, KEY_M)
  monkeypatch.setattr(regression, "_CHUNK", 7)
  moved = fit(X_ME[order], y_M[order], KEY_M[order])
  assert moved.penalty == found.penalty
  np.testing.assert_allclose(moved.slope_E, found.slope_E, rtol=1e-8)
  np.testing.assert_allclose(moved.score(X_ME), found.score(X_ME), rtol=1e-8)
  assert moved.score(X_ME[:0]).shape == (0,)


def test_neither_scale_nor_shift_of_the_embedding_matters():
  y_M = scores(3.0)
  found = fit(X_ME, y_M, KEY_M)
  other = fit(100 * X_ME + 7, y_M, KEY_M)
  assert other.penalty == found.penalty
  np.testing.assert_allclose(
    other.score(100 * X_ME + 7), found.score(X_ME), rtol=1e-6
  )


def test_an_embedding_that_never_varies_gives_the_mean_score():
  y_M = scores(1.0)
  found = fit(np.full((M, E), 0.3), y_M, KEY_M)
  np.testing.assert_allclose(
    found.score(np.full((2, E), 0.3)), y_M.mean(), rtol=1e-6
  )
  assert found.spearman == 0.0


def test_rank_correlation_is_scipys():
  import scipy.stats

  one_N, other_N = RNG.integers(0, 5, 30), RNG.normal(size=30)
  assert regression.spearman(one_N, other_N) == pytest.approx(
    scipy.stats.spearmanr(one_N, other_N).statistic
  )


@pytest.mark.parametrize(
  ("y_M", "told"),
  [
    (np.arange(9.0), "at least 10 scored documents, came 9"),
    (np.full(20, 0.5), "All 20 scores of the test are 0.5"),
    (np.append(np.arange(19.0), np.nan), "came nan as number 20 of 20"),
  ],
)
def test_scores_that_nothing_can_be_learned_from_are_refused(y_M, told):
  with pytest.raises(UserError, match=told):
    fit(X_ME[: len(y_M)], y_M, KEY_M[: len(y_M)])
