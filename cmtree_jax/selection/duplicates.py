"""How much a document is like those that come before it in its group."""

from collections.abc import Iterable, Iterator

import jax
import jax.numpy as jnp
import numpy as np

from cmtree_jax.data.draw import sampler
from cmtree_jax.selection import neighbors
from cmtree_jax.selection.kmeans import Clusters
from cmtree_jax.shapes import Array, FloatN, FloatNE

KEEP = ("hard", "easy", "random")
_BLOCK = 1024  # documents that are compared with as many at a time


def in_order(
  clusters: Clusters, key_N: np.ndarray, *, keep: str, seed: int
) -> list[np.ndarray]:
  """Numbers of each cluster's documents, those first that stay of several alike.

  Args:
    clusters: of all documents.
    key_N: uint64, a hash of every id; it decides between equal ones.
    keep: "hard", the farthest from the center first; "easy", the reverse of it;
      "random", by hashes of the ids.
    seed: of "random".
  """
  if keep == "random":
    first_N = sampler.mixed(key_N ^ np.uint64(seed))
  else:
    # Equal rows may differ in the last bits of a product, by where they stand.
    first_N = np.round(clusters.cosine_N, 6)
  order_N = np.lexsort((key_N, first_N, clusters.of_N))
  groups = np.split(order_N, np.cumsum(clusters.size_L)[:-1])
  return [rows[::-1] for rows in groups] if keep == "easy" else groups


def likeness(embedding_NE: FloatNE, groups: Iterable[np.ndarray]) -> FloatN:
  r"""M: the greatest cosine of each document with one that comes earlier.

  .. math:: M_j = \max\big(0, \max_{i < j} \langle e_i, e_j \rangle\big)

  within each group. So one pass serves every threshold.

  Cost: products of all pairs within a group, in blocks; 4 bytes a document.

  Args:
    embedding_NE: of any length; may lie on disk.
    groups: numbers of documents, in their order; each document is in one group.
  """
  likeness_N = np.zeros(len(embedding_NE), np.float32)
  for rows in groups:
    for place, x_BE in _blocks(embedding_NE, rows):
      most_B = np.zeros(len(x_BE), np.float32)
      for earlier, y_BE in _blocks(embedding_NE, rows[: place.stop]):
        found = _most(x_BE, y_BE, place.start - earlier.start)
        most_B = np.maximum(most_B, found)
      likeness_N[rows[place]] = most_B[: place.stop - place.start]
  return np.minimum(likeness_N, 1.0)


def kept(
  embedding_NE: FloatNE, groups: Iterable[np.ndarray], *, epsilon: float
) -> np.ndarray:
  r"""Whether each document stays, where only those that stay count as earlier ones.

  .. math:: j \text{ stays} \iff \langle e_i, e_j \rangle \le 1 - \varepsilon
            \text{ for all } i < j \text{ that stay}

  Of a chain in which neighbors alone are alike every other one stays, where
  `likeness` leaves the first.

  Args:
    embedding_NE: of any length; may lie on disk.
    groups: numbers of documents, in their order; each document is in one group.
    epsilon: how far from one a cosine still makes two documents the same.
  """
  kept_N = np.ones(len(embedding_NE), bool)
  for rows in groups:
    for place, x_BE in _blocks(embedding_NE, rows):
      out_B = np.zeros(len(x_BE), bool)
      for earlier, y_BE in _blocks(embedding_NE, rows[: place.start]):
        stays_B = np.zeros(len(y_BE), bool)
        stays_B[: earlier.stop - earlier.start] = kept_N[rows[earlier]]
        out_B |= np.asarray(_near(x_BE, y_BE, epsilon))[:, stays_B].any(axis=1)
      near_BB = np.asarray(_near(x_BE, x_BE, epsilon))
      for one in range(place.stop - place.start):
        out_B[one] |= (near_BB[one, :one] & ~out_B[:one]).any()
      kept_N[rows[place]] = ~out_B[: place.stop - place.start]
  return kept_N


def _blocks(
  embedding_NE: FloatNE, rows: np.ndarray
) -> Iterator[tuple[slice, np.ndarray]]:
  """Places in a group and their unit rows, padded with zeros to a power of two."""
  size = min(_BLOCK, 2 ** max(4, (len(rows) - 1).bit_length()))
  for start in range(0, len(rows), size):
    place = slice(start, min(start + size, len(rows)))
    x_BE = neighbors.unit(embedding_NE[rows[place]])
    yield place, np.pad(x_BE, [(0, size - len(x_BE)), (0, 0)])


@jax.jit
def _most(x_BE: Array, y_CE: Array, first: Array) -> Array:
  """Greatest cosines with earlier rows; row 0 of x comes `first` after that of y."""
  earlier_BC = jnp.arange(len(y_CE)) < jnp.arange(len(x_BE))[:, None] + first
  return jnp.max(jnp.where(earlier_BC, _cosines(x_BE, y_CE), 0.0), axis=1)


@jax.jit
def _near(x_BE: Array, y_CE: Array, epsilon: float) -> Array:
  return _cosines(x_BE, y_CE) > 1 - epsilon


def _cosines(x_BE: Array, y_CE: Array) -> Array:
  return jnp.einsum("be,ce->bc", x_BE, y_CE, precision="highest")
