"""Paths: links against all cosines at once, algorithm 1 by hand, ties and ends."""

import numpy as np
import pytest

from cmtree_jax.selection import neighbors, paths

N, E, K = 70, 5, 4
_GRID = 2.0**-20  # what cosines are rounded to


@pytest.fixture(scope="module")
def embedding_NE():
  return np.random.default_rng(0).normal(size=(N, E)).astype(np.float32)


@pytest.fixture(scope="module")
def cosine_NN(embedding_NE):
  unit_NE = neighbors.unit(embedding_NE)
  return np.where(np.eye(N), -np.inf, neighbors.rounded(unit_NE @ unit_NE.T))


def graph(strength: dict[tuple[int, int], float], size: int) -> paths.Links:
  """Links by hand."""
  both = {**strength, **{(j, i): s for (i, j), s in strength.items()}}
  rows = sorted(both, key=lambda ij: (ij[0], -both[ij], ij[1]))
  degree = np.bincount([i for i, _ in rows], minlength=size)
  return paths.Links(
    np.append(0, np.cumsum(degree)),
    np.array([j for _, j in rows], np.int32),
    np.array([both[ij] for ij in rows], np.float32),
  )


def dense(links: paths.Links) -> np.ndarray:
  size = len(links.start_N1) - 1
  found = np.full((size, size), -np.inf)
  found[np.repeat(np.arange(size), links.degree_N), links.other_M] = (
    links.strength_M
  )
  return found


@pytest.mark.parametrize("block_bytes", [2**27, 8 * 4 * 8])
def test_the_nearest_others_of_each(
  embedding_NE, cosine_NN, block_bytes, monkeypatch
):
  monkeypatch.setattr(neighbors, "_BLOCK_BYTES", block_bytes)
  index_NK, cosine_NK = neighbors.each(embedding_NE, k=K)
  expected = np.argsort(-cosine_NN, axis=1, kind="stable")[:, :K]
  np.testing.assert_array_equal(index_NK, expected)
  np.testing.assert_allclose(
    cosine_NK,
    np.take_along_axis(cosine_NN, expected, axis=1),
    atol=_GRID,
  )


@pytest.mark.parametrize("k", [0, N])
def test_more_others_than_there_are_are_refused(embedding_NE, k):
  with pytest.raises(ValueError, match=f"ask for 1 to {N - 1}"):
    neighbors.each(embedding_NE, k=k)


def test_of_equal_documents_the_first_are_nearest():
  embedding_NE = (
    np.random.default_rng(1)
    .normal(size=(3, E))[np.arange(60) % 3]
    .astype(np.float32)
  )
  index_NK, cosine_NK = neighbors.each(embedding_NE, k=2)
  assert (cosine_NK == 1).all()
  np.testing.assert_array_equal(index_NK[30:33], [[0, 3], [1, 4], [2, 5]])
  np.testing.assert_array_equal(index_NK[0], [3, 6])


def test_links_are_those_of_either_end(embedding_NE, cosine_NN):
  links = paths.link(embedding_NE, k=K)
  kth_N = np.sort(cosine_NN, axis=1)[:, -K]
  near_NN = cosine_NN >= kth_N[:, None]
  expected = np.where(near_NN | near_NN.T, cosine_NN, -np.inf)
  np.testing.assert_allclose(dense(links), expected, atol=_GRID)
  assert links.degree_N.min() >= K and links.degree_N.max() > K
  mean_N = [row[row > -np.inf].clip(min=0).mean() for row in expected]
  np.testing.assert_allclose(links.mean_strength_N, mean_N, rtol=1e-6)


def test_documents_of_one_group_are_linked_with_the_nearest_in_it(
  embedding_NE, cosine_NN, monkeypatch
):
  monkeypatch.setattr(paths, "_GROUP_ROWS", 3)
  group_N = np.arange(N)
  group_N[[3, 20, 41, 60, 61]], group_N[[5, 6]] = 3, 5
  links = paths.link(embedding_NE, k=2, group_N=group_N)
  more = dense(links) > dense(paths.link(embedding_NE, k=2))
  same_NN = np.where(group_N[:, None] == group_N, cosine_NN, -np.inf)
  kth_N = np.sort(same_NN, axis=1)[:, -2]
  expected = (same_NN >= kth_N[:, None]) & (same_NN > -np.inf)
  expected = expected | expected.T
  assert not (more & ~expected).any() and more.any()
  np.testing.assert_allclose(
    dense(links)[expected], cosine_NN[expected], atol=_GRID
  )


def test_the_path_of_a_graph_is_that_of_the_algorithm_by_hand():
  # 0 - 1 - 2 - 3 in a row, 1 - 3 strongest; 4 - 5 apart; 6 alone.
  links = graph(
    {(0, 1): 0.5, (1, 2): 0.7, (1, 3): 0.9, (2, 3): 0.6, (4, 5): 0.1}, 7
  )
  # 6 has no link. Then 0, the first of one link: 1, then 3, which is nearer to it
  # than 2 is, then 2. Then 4 and 5.
  path_N, starts = paths.walk(links)
  assert path_N.tolist() == [6, 0, 1, 3, 2, 4, 5]
  assert starts.tolist() == [0, 1, 5]


def test_a_path_starts_anew_at_the_fewest_links_and_equal_ones_at_the_first():
  # A star of 2: its points have one link each, and lead nowhere but to 2.
  star = graph({(2, j): 0.5 for j in (0, 1, 3, 4)}, 5)
  assert paths.walk(star)[0].tolist() == [0, 2, 1, 3, 4]
  # Two triangles that share 2, all alike.
  alike = graph(
    dict.fromkeys([(0, 1), (0, 2), (1, 2), (2, 3), (2, 4), (3, 4)], 0.5), 5
  )
  assert paths.walk(alike)[0].tolist() == [0, 1, 2, 3, 4]


def test_the_path_visits_each_document_once(embedding_NE):
  links = paths.link(embedding_NE, k=K)
  path_N, starts = paths.walk(links)
  assert sorted(path_N.tolist()) == list(range(N))
  strength_NN, visited = dense(links), set()
  for place, here in enumerate(path_N.tolist()):
    if place:
      before = path_N[place - 1]
      left = [
        j
        for j in range(N)
        if j not in visited and strength_NN[before, j] > -np.inf
      ]
      if left:
        assert place not in starts
        assert strength_NN[before, here] == strength_NN[before, left].max()
      else:
        assert place in starts
        rest = [j for j in range(N) if j not in visited]
        assert links.degree_N[here] == links.degree_N[rest].min()
    visited.add(here)


@pytest.mark.parametrize("size", [1, 2, 3])
def test_few_documents_have_a_path(size):
  links = paths.link(np.eye(3, E, dtype=np.float32)[:size], k=10)
  assert sorted(paths.walk(links)[0].tolist()) == list(range(size))
  assert (links.mean_strength_N == 0).all()
