r"""Which documents belong together, and an order in which each meets its likes.

Documents are linked with those that are nearest to them, and a path goes along the
links through all of them. Documents come in the order of their ids: wherever two are
equally good, the first is taken.

References:
  Shi et al., `In-Context Pretraining <https://arxiv.org/abs/2310.10638>`_, 2023,
  section 2.2 and algorithm 1.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from cmtree_jax.selection import neighbors
from cmtree_jax.shapes import FloatNE

_GROUP_ROWS = 1024  # documents of a group that are compared with it at a time


class Links(NamedTuple):
  """An undirected graph of N documents, its links told from both ends."""

  # Those of document i are from start[i] to start[i + 1], the strongest first, of
  # equally strong ones the first document.
  start_N1: np.ndarray  # int64
  other_M: np.ndarray  # int32, the document at the other end
  strength_M: np.ndarray  # float32, the cosine

  @property
  def degree_N(self) -> np.ndarray:
    """How many links each document has."""
    return np.diff(self.start_N1)

  @property
  def mean_strength_N(self) -> np.ndarray:
    """Mean over each document's links, none below zero; zero without any."""
    degree_N = self.degree_N
    from_M = np.repeat(np.arange(len(degree_N)), degree_N)
    sum_N = np.bincount(
      from_M, np.maximum(self.strength_M, 0), minlength=len(degree_N)
    )
    return sum_N / np.maximum(degree_N, 1)


def link(
  embedding_NE: FloatNE, *, k: int, group_N: np.ndarray | None = None
) -> Links:
  r"""Links of each document with its nearest ones, and with those of its group.

  .. math:: i \sim j \iff j \in N_k(i) \text{ or } i \in N_k(j), \qquad
            s_{ij} = \cos(e_i, e_j)

  where N_k(i) are the k nearest documents, and the k nearest ones of the same group.

  Cost: N^2 products. About 100 k bytes a document while the links are sorted.

  Args:
    embedding_NE: documents of any length, in the order of their ids.
    k: nearest others of each; fewer where there are not so many.
    group_N: int, such as the file that each was cut from; None: no groups.
  """
  size = len(embedding_NE)
  pairs: list[np.ndarray] = [np.zeros((3, 0))]
  if size > 1:
    index_NK, cosine_NK = neighbors.each(embedding_NE, k=min(k, size - 1))
    from_M = np.repeat(np.arange(size), index_NK.shape[1])
    pairs.append(np.stack([from_M, index_NK.ravel(), cosine_NK.ravel()]))
  if group_N is not None:
    pairs += _within_groups(embedding_NE, group_N, k)
  one_M, two_M, strength_M = np.concatenate(pairs, axis=1)
  # A link that was found from both ends, or in a group as well, is one link.
  code_M = np.minimum(one_M, two_M) * size + np.maximum(one_M, two_M)
  order_M = np.lexsort((-strength_M, code_M))
  _, first_M = np.unique(code_M[order_M], return_index=True)
  kept_M = order_M[first_M]
  one_M, two_M, strength_M = one_M[kept_M], two_M[kept_M], strength_M[kept_M]
  from_M = np.concatenate([one_M, two_M])
  other_M = np.concatenate([two_M, one_M])
  strength_M = np.concatenate([strength_M, strength_M])
  order_M = np.lexsort((other_M, -strength_M, from_M))
  degree_N = np.bincount(from_M.astype(np.int64), minlength=size)
  return Links(
    np.concatenate([[0], np.cumsum(degree_N)]),
    other_M[order_M].astype(np.int32),
    strength_M[order_M].astype(np.float32),
  )


def walk(links: Links) -> tuple[np.ndarray, np.ndarray]:
  """A path through all documents: (their order, where it starts anew).

  It goes from a document to the one that is most strongly linked with it and has not
  been visited. Where none is left it starts anew, at the document of the fewest links
  that has not been visited: such a one is the first to lose all of its likes.

  Args:
    links: of the documents.
  Returns:
    Numbers of documents, int32 [N], and the places among them that no link leads to,
    the first one too.

  >>> links = Links(np.array([0, 1, 3, 4]), np.array([1, 2, 0, 1]), np.ones(4))
  >>> walk(links)[0].tolist()
  [0, 1, 2]
  """
  start_N1, size = links.start_N1, len(links.start_N1) - 1
  path_N, starts, at = np.empty(size, np.int32), [], 0
  visited_N = np.zeros(size, bool)
  for here in np.argsort(links.degree_N, kind="stable"):
    if not visited_N[here]:
      starts.append(at)
    while not visited_N[here]:
      path_N[at], visited_N[here] = here, True
      at += 1
      others = links.other_M[start_N1[here] : start_N1[here + 1]]
      left = others[~visited_N[others]]
      here = left[0] if len(left) else here
  return path_N, np.array(starts, int)


def _within_groups(
  embedding_NE: FloatNE, group_N: np.ndarray, k: int
) -> Iterator[np.ndarray]:
  """Rows (document, document of its group, cosine) of the k nearest in each group."""
  order_N = np.argsort(group_N, kind="stable")
  ends = np.flatnonzero(np.diff(group_N[order_N])) + 1
  for group in np.split(order_N, ends):
    near = min(k, len(group) - 1)
    if not near:
      continue
    x_GE = neighbors.unit(embedding_NE[group])
    for begin in range(0, len(group), _GROUP_ROWS):
      rows = np.arange(begin, min(begin + _GROUP_ROWS, len(group)))
      cosine_RG = neighbors.rounded(x_GE[rows] @ x_GE.T)
      cosine_RG[np.arange(len(rows)), rows] = -np.inf
      index_RK = np.argsort(-cosine_RG, axis=1, kind="stable")[:, :near]
      yield np.stack(
        [
          np.repeat(group[rows], near),
          group[index_RK].ravel(),
          np.take_along_axis(cosine_RG, index_RK, axis=1).ravel(),
        ]
      )
