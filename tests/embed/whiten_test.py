"""Numbers of any scale as unit rows: white, clipped, and nothing lost."""

import numpy as np
import pytest

from cmtree_jax.embed import whiten

RNG = np.random.default_rng(0)
# Five numbers; the fourth is all but the sum of two, the last never varies.
X_NF = RNG.normal(size=(300, 5)) @ RNG.normal(size=(5, 5)) * [1, 9, 2, 1, 1]
X_NF[:, 3] = X_NF[:, 0] + X_NF[:, 1] + 1e-3 * RNG.normal(size=300)
X_NF[:, 4] = 7.0
X_NF[0] += 100.0  # one document is far from all others


def spread(x_NF):
  return np.linalg.eigh(np.cov(x_NF.T, ddof=0))


def whitened(rows_NG, count):
  """The numbers before a row was brought to unit length: the constant tells."""
  return rows_NG[:, :-1] / rows_NG[:, -1:] * np.sqrt(count) / 2


def test_rows_are_the_clipped_numbers_by_the_formula():
  z_NF = (X_NF - X_NF.mean(0)) / np.maximum(X_NF.std(0), 1e-3)
  variance, vectors = spread(z_NF)
  root = vectors / np.sqrt(np.maximum(variance, 0.05)) @ vectors.T
  y_NF = z_NF @ root
  assert np.abs(y_NF).max() > 3
  rows = whiten.fit(X_NF)(X_NF)
  assert rows.shape == (300, 6) and rows.dtype == np.float32
  np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, rtol=1e-6)
  np.testing.assert_allclose(whitened(rows, 5), np.clip(y_NF, -3, 3), atol=1e-4)


@pytest.mark.parametrize("dim", [None, 2])
def test_what_varies_is_white_and_what_hardly_does_is_not_blown_up(dim):
  found = whiten.fit(X_NF[1:], dim=dim)
  z_NF = (X_NF[1:] - found.mean_F) / found.scale_F
  variance, _ = spread(z_NF)
  got, _ = spread(z_NF @ found.whiten_FG)
  expected = np.sort(np.minimum(1, variance / 0.05))
  np.testing.assert_allclose(got, expected[-(dim or 5) :], atol=1e-6)
  assert expected[0] < 0.01


def test_fewer_numbers_are_the_leading_components_with_one_sign():
  y_NG = X_NF[1:] - X_NF[1:].mean(0)
  y_NG = y_NG / np.maximum(X_NF[1:].std(0), 1e-3)
  _, vectors = spread(y_NG)
  found = whiten.fit(X_NF[1:], dim=2).whiten_FG
  for column, vector in zip(found.T, vectors.T[::-1], strict=False):
    cosine = column @ vector / np.linalg.norm(column)
    np.testing.assert_allclose(abs(cosine), 1, atol=1e-6)
    assert column[np.argmax(np.abs(column))] > 0


def test_a_row_does_not_depend_on_the_others():
  one = whiten.fit(X_NF)
  np.testing.assert_array_equal(one(X_NF)[3:4], one(X_NF[3:4]))
