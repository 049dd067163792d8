"""Neighbors in blocks against all cosines at once; ties, padding, ends."""

import numpy as np
import pytest

from cmtree_jax.selection import neighbors

N, Q, E = 90, 7, 6


@pytest.fixture(scope="module")
def points():
  rng = np.random.default_rng(0)
  embedding_NE = rng.normal(size=(N, E)).astype(np.float32)
  query_QE = rng.normal(size=(Q, E)).astype(np.float32)
  unit = lambda x: x / np.linalg.norm(x, axis=1, keepdims=True)  # noqa: E731
  return embedding_NE, query_QE, unit(query_QE) @ unit(embedding_NE).T


@pytest.fixture(params=[2**27, 8 * 4 * 8])
def blocks(request, monkeypatch):
  """All in one block, or eight rows in each."""
  monkeypatch.setattr(neighbors, "_BLOCK_BYTES", request.param)


@pytest.mark.usefixtures("blocks")
def test_the_nearest_of_some_rows(points):
  embedding_NE, query_QE, cosine_QN = points
  found = neighbors.nearest(embedding_NE, query_QE)
  np.testing.assert_array_equal(found.index_N, cosine_QN.argmax(axis=0))
  np.testing.assert_allclose(found.cosine_N, cosine_QN.max(axis=0), atol=1e-6)


@pytest.mark.usefixtures("blocks")
@pytest.mark.parametrize("k", [1, 5, N])
def test_the_top_of_each_query(points, k):
  embedding_NE, query_QE, cosine_QN = points
  index_QK, cosine_QK = neighbors.top(query_QE, embedding_NE, k=k)
  order_QN = np.argsort(-cosine_QN, axis=1)
  np.testing.assert_array_equal(index_QK, order_QN[:, :k])
  expected = np.take_along_axis(cosine_QN, order_QN, axis=1)[:, :k]
  np.testing.assert_allclose(cosine_QK, expected, atol=1e-6)


@pytest.mark.usefixtures("blocks")
def test_the_best_place_in_several_rankings(points):
  embedding_NE, query_QE, cosine_QN = points
  place_QN = (cosine_QN[:, :, None] < cosine_QN[:, None, :]).sum(axis=2)
  np.testing.assert_array_equal(
    neighbors.best_rank(query_QE, embedding_NE), place_QN.min(axis=0)
  )


@pytest.mark.usefixtures("blocks")
def test_of_equal_rows_the_first_is_taken(points):
  embedding_NE, query_QE, _ = points
  query_QE = neighbors.unit(query_QE)
  twice_QE = np.repeat(query_QE, 2, axis=0)
  found = neighbors.nearest(embedding_NE, twice_QE)
  assert set(found.index_N.tolist()) <= set(range(0, 2 * Q, 2))
  row_N = np.random.default_rng(1).integers(Q, size=200)
  index_QK, _ = neighbors.top(query_QE, query_QE[row_N], k=5)
  first_QK = [np.flatnonzero(row_N == q)[:5] for q in range(Q)]
  np.testing.assert_array_equal(index_QK, first_QK)
  (query_E,) = query_QE[:1]
  order = np.lexsort((np.arange(200), -(query_QE @ query_E)[row_N]))
  found = neighbors.best_rank(query_QE[:1], query_QE[row_N] * 1.0)
  np.testing.assert_array_equal(found[order], np.arange(200))


def test_a_row_of_zeros_has_no_direction():
  rows = neighbors.unit(np.array([[0.0, 0.0], [3.0, 4.0]]))
  np.testing.assert_allclose(rows, [[0, 0], [0.6, 0.8]])


@pytest.mark.parametrize("k", [0, N + 1])
def test_more_neighbors_than_documents_are_refused(points, k):
  with pytest.raises(ValueError, match=f"ask for 1 to {N}"):
    neighbors.top(points[1], points[0], k=k)
