"""How much a document is like those that come before it in its group."""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cmtree_jax.data.draw import sampler
from cmtree_jax.selection import neighbors
from cmtree_jax.selection.kmeans import Clusters
from cmtree_jax.shapes import Array, FloatN, FloatNE, IntN

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
    # Mixed twice: k-means starts from the first of what is mixed once.
    first_N = sampler.mixed(sampler.mixed(key_N) ^ np.uint64(seed))
  else:
    first_N = clusters.cosine_N
  order_N = np.lexsort((key_N, first_N, clusters.of_N))
  groups = np.split(order_N, np.cumsum(clusters.size_L)[:-1])
  return [rows[::-1] for rows in groups] if keep == "easy" else groups


class Likeness(NamedTuple):
  """What each document is most like of all that come earlier in its group."""

  # float32; 0: it is like none. To six digits, as in `Clusters`.
  cosine_N: FloatN
  other_N: IntN  # int64, number of that document; -1: there is none


def likeness(embedding_NE: FloatNE, groups: Iterable[np.ndarray]) -> Likeness:
  r"""M: the greatest cosine of each document with one that comes earlier.

  .. math:: M_j = \max\big(0, \max_{i < j} \langle e_i, e_j \rangle\big)

  within each group. So one pass serves every threshold.

  Cost: products of all pairs within a group, in blocks; 12 bytes a document.

  Args:
    embedding_NE: of any length; may lie on disk.
    groups: numbers of documents, in their order; each document is in one group.
  """
  cosine_N = np.zeros(len(embedding_NE), np.float32)
  other_N = np.full(len(embedding_NE), -1)
  for rows in groups:
    for place, x_BE in _blocks(embedding_NE, rows):
      most_B = np.zeros(len(x_BE), np.float32)
      other_B = np.full(len(x_BE), -1)
      for earlier, y_BE in _blocks(embedding_NE, rows[: place.stop]):
        found_B, place_B = jax.device_get(
          _most(x_BE, y_BE, place.start - earlier.start)
        )
        # Of equal ones the first; what padding is like is no document.
        nearer_B = found_B > most_B
        most_B = np.where(nearer_B, found_B, most_B)
        other_B[nearer_B] = rows[earlier.start + place_B[nearer_B]]
      count = place.stop - place.start
      cosine_N[rows[place]] = np.round(most_B[:count], 6)
      other_N[rows[place]] = other_B[:count]
  return Likeness(cosine_N, other_N)


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

  def near(x_BE, y_CE):
    # As `Likeness` tells them, or the two would differ at the edge.
    return np.round(np.asarray(_cosines(x_BE, y_CE)), 6) > 1 - epsilon

  kept_N = np.ones(len(embedding_NE), bool)
  for rows in groups:
    for place, x_BE in _blocks(embedding_NE, rows):
      out_B = np.zeros(len(x_BE), bool)
      for earlier, y_BE in _blocks(embedding_NE, rows[: place.start]):
        stays_B = np.zeros(len(y_BE), bool)
        stays_B[: earlier.stop - earlier.start] = kept_N[rows[earlier]]
        out_B |= near(x_BE, y_BE)[:, stays_B].any(axis=1)
      near_BB = near(x_BE, x_BE)
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
def _most(x_BE: Array, y_CE: Array, first: int) -> tuple[Array, Array]:
  """(greatest cosine with an earlier row, its place), both [B].

  Args:
    x_BE: rows.
    y_CE: rows that may be earlier.
    first: by how much row 0 of x comes later than that of y.
  """
  earlier_BC = jnp.arange(len(y_CE)) < jnp.arange(len(x_BE))[:, None] + first
  cosine_BC = jnp.where(earlier_BC, _cosines(x_BE, y_CE), 0.0)
  return jnp.max(cosine_BC, axis=1), jnp.argmax(cosine_BC, axis=1)


@jax.jit
def _cosines(x_BE: Array, y_CE: Array) -> Array:
  return jnp.einsum("be,ce->bc", x_BE, y_CE, precision="highest")
