"""Spherical k-means on the device, and the groups of documents that it makes.

`embed/kmeans.py` makes the few clusters that a recipe is written with. Selection wants
hundreds or thousands of a whole pool that may lie on disk, each document's cosine
with its center, and centers that stay on the sphere in every round.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cmtree_jax.data.draw import packing, sampler
from cmtree_jax.selection import neighbors
from cmtree_jax.shapes import Array, FloatLE, FloatN, FloatNE, IntN
from cmtree_jax.types import UserError

# Documents per cluster that centers are fitted on, as in faiss: more move them little.
PER_CLUSTER = 256
_BLOCK = 4096  # documents whose cosines with all centers are held at a time
_ROUNDS = 100  # at most, as SemDeDup runs; it stops far earlier
_GAIN = 1e-5  # of the mean cosine: what a round must bring for another one


class Clusters(NamedTuple):
  """Groups of documents and their centers; none is empty."""

  center_LE: FloatLE  # float32; unit length
  of_N: IntN  # int32, the cluster of each document
  # float32, of each document with its own center. To six digits: equal rows may
  # differ in the last bits of a product, by where they stand, and must not.
  cosine_N: FloatN

  @property
  def size_L(self) -> np.ndarray:
    """Documents of each cluster."""
    return np.bincount(self.of_N, minlength=len(self.center_LE))


class Rows:
  """Some rows of an array that may lie on disk, read where they are asked for."""

  def __init__(self, whole: FloatNE, rows: np.ndarray):
    """Numbers of rows."""
    self.whole, self.rows = whole, rows

  @property
  def shape(self) -> tuple[int, ...]:
    """Of these rows alone."""
    return len(self.rows), *self.whole.shape[1:]

  def __len__(self) -> int:
    return len(self.rows)

  def __getitem__(self, which: Any) -> np.ndarray:
    return self.whole[self.rows[which]]


def cluster(
  embedding_NE: FloatNE, key_N: np.ndarray, *, num_clusters: int, seed: int
) -> Clusters:
  """Clusters of documents by their directions; fewer where some come out empty.

  The documents that centers start from and are fitted on are chosen by hashes of
  their ids, so neither the order nor the shards of a pool change the clusters.

  Cost: N L products of features and 8 bytes a document, beside 4 E bytes on the
  device for each of the 256 L documents that the centers are fitted on, and their L
  products in each of some 20 rounds.

  Args:
    embedding_NE: of any length; may lie on disk.
    key_N: uint64, a hash of every id.
    num_clusters: L; 0: the square root of N, which is about as many as SemDeDup
      makes of its corpora.
    seed: chooses where the centers start.
  Raises:
    UserError: more clusters are asked for than there are documents.
  """
  size = len(key_N)
  num_clusters = num_clusters or max(1, round(size**0.5))
  if not 1 <= num_clusters <= size:
    raise UserError(
      f"Cannot make {num_clusters} clusters of {size} documents; lower the method's "
      f"option clusters to {size} or less, or to 0 for the square root."
    )
  hash_N = sampler.mixed(key_N ^ np.uint64(seed))
  chosen_S = np.argsort(hash_N, kind="stable")[: PER_CLUSTER * num_clusters]
  unit_SE = neighbors.unit(_take(embedding_NE, chosen_S))
  center_LE = fit(unit_SE, unit_SE[:num_clusters])
  return _compact(center_LE, neighbors.nearest(embedding_NE, center_LE))


def given(embedding_NE: FloatNE, of_N: IntN) -> Clusters:
  """The clusters of a partition: each center is the mean direction of its documents.

  Args:
    embedding_NE: of any length; may lie on disk.
    of_N: the part of each document; a part without documents is left out.
  """
  present, of_N = np.unique(of_N, return_inverse=True)
  total_LE = np.zeros((len(present), embedding_NE.shape[1]))
  for rows in packing.chunks(len(of_N), _BLOCK):
    np.add.at(total_LE, of_N[rows], neighbors.unit(embedding_NE[rows]))
  center_LE = neighbors.unit(total_LE)
  cosine_N = np.empty(len(of_N), np.float32)
  for rows in packing.chunks(len(of_N), _BLOCK):
    x_BE = neighbors.unit(embedding_NE[rows])
    cosine_B = np.einsum("be,be->b", x_BE, center_LE[of_N[rows]])
    cosine_N[rows] = np.round(cosine_B, 6)
  return Clusters(center_LE, of_N.astype(np.int32), cosine_N)


def fit(unit_SE: FloatNE, start_LE: FloatLE) -> np.ndarray:
  r"""Centers after rounds of spherical k-means, unit length, float32.

  .. math:: k(i) = \arg\max_k \langle x_i, c_k \rangle, \qquad
            c_k \leftarrow \frac{\sum_{k(i) = k} x_i}{|\sum_{k(i) = k} x_i|}

  A center without documents moves to one of those that are farthest from theirs.
  Rounds end where the mean cosine has stopped rising.

  Args:
    unit_SE: rows of length one.
    start_LE: where the centers start, at most S.
  """
  size = len(unit_SE)
  block = min(_BLOCK, 2 ** max(3, (size - 1).bit_length()))
  padding = [(0, -size % block), (0, 0)]
  x_CBE = np.pad(unit_SE, padding).reshape(-1, block, unit_SE.shape[1])
  x_CBE, center_LE = jnp.asarray(x_CBE), jnp.asarray(start_LE)
  before = -np.inf
  for _ in range(_ROUNDS):
    center_LE, mean = _round(x_CBE, center_LE, size=size)
    if float(mean) - before < _GAIN:
      break
    before = float(mean)
  return np.asarray(center_LE)


@functools.partial(jax.jit, static_argnames="size")
def _round(x_CBE: Array, center_LE: Array, *, size: int) -> tuple[Array, Array]:
  """The next centers, and the mean cosine with those before."""
  product = functools.partial(jnp.einsum, precision="highest")

  def add(total_LE, x_BE):
    cosine_BL = product("be,le->bl", x_BE, center_LE)
    # A product sums in the same order every time; scattered sums may not.
    of_BL = jax.nn.one_hot(jnp.argmax(cosine_BL, axis=1), len(center_LE))
    return total_LE + product("bl,be->le", of_BL, x_BE), cosine_BL.max(axis=1)

  total_LE, cosine_CB = jax.lax.scan(add, jnp.zeros_like(center_LE), x_CBE)
  cosine_S = cosine_CB.ravel()[:size]
  farthest_S = jnp.argsort(cosine_S)
  length_L1 = jnp.linalg.norm(total_LE, axis=1, keepdims=True)
  empty_L = length_L1[:, 0] < 1e-6
  moved_L = farthest_S[(jnp.cumsum(empty_L) - 1) % size]
  moved_LE = x_CBE.reshape(-1, x_CBE.shape[2])[moved_L]
  mean_LE = total_LE / jnp.maximum(length_L1, 1e-6)
  return jnp.where(empty_L[:, None], moved_LE, mean_LE), jnp.mean(cosine_S)


def _take(embedding_NE: FloatNE, rows: np.ndarray) -> np.ndarray:
  """Rows in any order, read from disk in the order in which they lie there."""
  order = np.argsort(rows, kind="stable")
  taken = np.empty((len(rows), embedding_NE.shape[1]), np.float32)
  taken[order] = embedding_NE[rows[order]]
  return taken


def _compact(center_LE: np.ndarray, found: neighbors.Nearest) -> Clusters:
  present, of_N = np.unique(found.index_N, return_inverse=True)
  cosine_N = np.round(found.cosine_N, 6)
  return Clusters(center_LE[present], of_N.astype(np.int32), cosine_N)
