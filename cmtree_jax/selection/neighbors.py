"""Exact nearest neighbors by cosine, on the device in blocks of documents.

Every document is compared with every center or query. No index stands between, so
the answer does not depend on how one was built; blocks bound the memory, and the
rows may lie on disk. Where documents are ranked, cosines are rounded to 2**-20, for
where a product stands in a block moves its last digits: so equal documents are equally
near wherever they stand.
"""

import functools
from collections.abc import Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from cmtree_jax.shapes import Array, FloatLE, FloatN, FloatNE, IntN

_BLOCK_BYTES = 2**27  # of one block of cosines


class Nearest(NamedTuple):
  """The row that is nearest to each document, and how near it is."""

  index_N: IntN  # int32; of equally near ones the first
  cosine_N: FloatN  # float32


def unit(rows: FloatNE) -> np.ndarray:
  """Rows of length one, float32; a row of zeros stays one."""
  rows = np.asarray(rows, np.float32)
  length = np.linalg.norm(rows, axis=1, keepdims=True)
  return rows / np.maximum(length, 1e-12)


def nearest(embedding_NE: FloatNE, among_LE: FloatLE) -> Nearest:
  """For each document the nearest of L rows, such as centers or a target's texts.

  Cost: N L products of features, 8 bytes a document.

  Args:
    embedding_NE: documents, of any length.
    among_LE: L rows of any length, at least one.
  """
  unit_LE = jnp.asarray(unit(among_LE))
  index_N = np.empty(len(embedding_NE), np.int32)
  cosine_N = np.empty(len(embedding_NE), np.float32)
  for rows, x_BE in _blocks(embedding_NE, len(unit_LE)):
    found = jax.device_get(_nearest(x_BE, unit_LE))
    count = rows.stop - rows.start
    index_N[rows], cosine_N[rows] = (x_B[:count] for x_B in found)
  return Nearest(index_N, cosine_N)


def top(
  query_QE: Float[Array, "Q E"], embedding_NE: FloatNE, *, k: int
) -> tuple[Int[np.ndarray, "Q k"], Float[np.ndarray, "Q k"]]:
  """(numbers, cosines) of the k documents nearest to each query, nearest first.

  Of equally near ones the first comes first. Documents stream by, and the best k so
  far are kept.

  Args:
    query_QE: of any length.
    embedding_NE: documents, of any length.
    k: at most N.
  Raises:
    ValueError: for a k that is not from 1 to N.
  """
  num_rows = len(embedding_NE)
  if not 1 <= k <= num_rows:
    raise ValueError(
      f"Wanted the {k} nearest of {num_rows} documents; ask for 1 to {num_rows}."
    )
  unit_QE = jnp.asarray(unit(query_QE))
  index_QK = np.zeros((len(unit_QE), 0), np.int64)
  cosine_QK = np.zeros((len(unit_QE), 0), np.float32)
  for rows, x_BE in _blocks(embedding_NE, len(unit_QE)):
    cosine_QB = np.asarray(_cosines(unit_QE, x_BE))[:, : rows.stop - rows.start]
    cosine_QK = np.concatenate([cosine_QK, cosine_QB], axis=1)
    number_QB = np.broadcast_to(
      np.arange(rows.start, rows.stop), cosine_QB.shape
    )
    index_QK = np.concatenate([index_QK, number_QB], axis=1)
    # What came earlier stands before what is as near: the sort is stable.
    order_QK = np.argsort(-cosine_QK, axis=1, kind="stable")[:, :k]
    cosine_QK = np.take_along_axis(cosine_QK, order_QK, axis=1)
    index_QK = np.take_along_axis(index_QK, order_QK, axis=1)
  return index_QK, cosine_QK


def each(
  embedding_NE: FloatNE, *, k: int
) -> tuple[Int[np.ndarray, "N k"], Float[np.ndarray, "N k"]]:
  """(numbers, cosines) of the k documents nearest to each, itself left out.

  Nearest first; of equally near ones the first comes first.

  Cost: N^2 products of features. The documents are held on the device, 4 E bytes
  each, and a block of cosines; what is given takes 8 k bytes a document.

  Args:
    embedding_NE: documents, of any length.
    k: from 1 to N - 1.
  Raises:
    ValueError: there are not so many others.
  """
  num_rows = len(embedding_NE)
  if not 1 <= k < num_rows:
    raise ValueError(
      f"Wanted the {k} nearest others of each of {num_rows} documents; ask for 1 to "
      f"{num_rows - 1}."
    )
  unit_NE = jnp.asarray(unit(embedding_NE))
  index_NK = np.empty((num_rows, k), np.int32)
  cosine_NK = np.empty((num_rows, k), np.float32)
  for rows, x_BE in _blocks(embedding_NE, num_rows):
    cosine_BK, index_BK = jax.device_get(
      _nearest_others(x_BE, unit_NE, rows.start, k)
    )
    count = rows.stop - rows.start
    index_NK[rows], cosine_NK[rows] = index_BK[:count], cosine_BK[:count]
  return index_NK, cosine_NK


def rounded(cosine: Array) -> Array:
  """Cosines without the digits in which equal products may differ."""
  return (cosine * 2**20).round() / 2**20


def best_rank(example_ME: Float[Array, "M E"], embedding_NE: FloatNE) -> IntN:
  r"""The best place of each document in the rankings of all examples, from 0.

  .. math:: r_i = \min_m |\{j : \langle x_m, e_j \rangle >
            \langle x_m, e_i \rangle\}|

  Every example ranks all documents by their cosine; of equal ones the first comes
  first, so that each place is taken once.

  Cost: M N products and a sort of N numbers for each example; the documents are held
  on the device, 4 E + 8 bytes each.

  Args:
    example_ME: of any length; at least one.
    embedding_NE: the documents that are ranked.
  """
  unit_NE = jnp.asarray(unit(embedding_NE))
  place_N = np.arange(len(unit_NE))
  best_N = np.full(len(unit_NE), len(unit_NE))
  for rows, x_BE in _blocks(example_ME, len(unit_NE)):
    cosine_BN = np.asarray(_cosines(x_BE, unit_NE))
    for cosine_N in cosine_BN[: rows.stop - rows.start]:
      order_N = np.argsort(-cosine_N, kind="stable")
      best_N[order_N] = np.minimum(best_N[order_N], place_N)
  return best_N


def _blocks(rows_NE: FloatNE, others: int) -> Iterator[tuple[slice, jax.Array]]:
  """Slices and their unit rows; all blocks have one shape, the last is padded."""
  size = len(rows_NE)
  block = 2 ** max(3, (_BLOCK_BYTES // (4 * others)).bit_length() - 1)
  block = min(block, 2 ** max(3, (size - 1).bit_length()))
  for start in range(0, size, block):
    x_BE = unit(rows_NE[start : start + block])
    padding = [(0, block - len(x_BE)), (0, 0)]
    yield (
      slice(start, start + len(x_BE)),
      jnp.asarray(np.pad(x_BE, padding)),
    )


# Accelerators round products to half precision unless they are told not to; then
# duplicates would not be found again.
_product = functools.partial(jnp.einsum, precision="highest")


@jax.jit
def _cosines(x_BE: Array, y_LE: Array) -> Array:
  return rounded(_product("be,le->bl", x_BE, y_LE))


@jax.jit
def _nearest(x_BE: Array, y_LE: Array) -> tuple[Array, Array]:
  cosine_BL = _product("be,le->bl", x_BE, y_LE)
  return jnp.argmax(cosine_BL, axis=1), jnp.max(cosine_BL, axis=1)


@functools.partial(jax.jit, static_argnames="k")
def _nearest_others(x_BE: Array, y_NE: Array, first: int, k: int):
  cosine_BN = rounded(_product("be,le->bl", x_BE, y_NE))
  own_B1 = first + jnp.arange(len(x_BE))[:, None]
  is_own_BN = jnp.arange(len(y_NE)) == own_B1
  # Of equal ones the lower number comes first.
  return jax.lax.top_k(jnp.where(is_own_BN, -jnp.inf, cosine_BN), k)
