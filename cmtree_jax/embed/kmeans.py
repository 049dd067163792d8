"""Flat clusters of an embedding: other methods' partition, a tree's warm start."""

import warnings
from typing import NamedTuple

import numpy as np

from cmtree_jax.shapes import FloatL, FloatLE, FloatN, FloatNE, IntN
from cmtree_jax.types import UserError


class KMeans(NamedTuple):
  """Cluster centers, the heaviest cluster first."""

  center_LE: FloatLE  # unit length, float32
  mass_L: FloatL  # share of the fitted mass nearest to each center


def fit(
  embedding_NE: FloatNE,
  *,
  num_clusters: int,
  seed: int,
  mass_N: FloatN | None = None,
) -> KMeans:
  """Clusters on the unit sphere, in the order of their mass.

  k-means on unit rows is followed by scaling the centers to unit length, so that
  `assign`, and a tree's softmax of cosines, can read them.

  Args:
    embedding_NE: rows of any length above zero; a sample is enough for a large
      corpus.
    num_clusters: L.
    seed: chooses the starting centers.
    mass_N: what each row counts for; equal by default.
  """
  import sklearn.cluster
  import threadpoolctl
  from sklearn.exceptions import ConvergenceWarning

  num_rows = len(embedding_NE)
  if not 1 <= num_clusters <= num_rows:
    raise UserError(
      f"Cannot make {num_clusters} clusters of {num_rows} documents; ask for"
      f" 1 to {num_rows}."
    )
  rows_NE = _unit(embedding_NE)
  mass_N = np.ones(num_rows) if mass_N is None else np.asarray(mass_N, float)
  model = sklearn.cluster.KMeans(num_clusters, n_init=3, random_state=seed)
  with warnings.catch_warnings():
    # Of fewer different rows than clusters: some centers are equal.
    warnings.simplefilter("ignore", ConvergenceWarning)
    with threadpoolctl.threadpool_limits(1):  # more would round differently
      model.fit(rows_NE, sample_weight=mass_N)
  center_LE = _unit(model.cluster_centers_)
  mass_L = np.bincount(
    assign(rows_NE, center_LE), weights=mass_N, minlength=num_clusters
  )
  order_L = np.argsort(-mass_L, kind="stable")
  return KMeans(center_LE[order_L], mass_L[order_L] / mass_L.sum())


def assign(
  embedding_NE: FloatNE, center_LE: FloatLE, offset_L: FloatL | None = None
) -> IntN:
  """The center of largest cosine for each row, int32; the first of equal ones.

  Args:
    embedding_NE: rows of any length above zero.
    center_LE: of unit length, or scaled by what the cosine counts for.
    offset_L: what is added to the products of rows of unit length.
  """
  chunks = [np.zeros(0, np.int32)]
  for start in range(0, len(embedding_NE), _CHUNK):
    rows_BE = np.asarray(embedding_NE[start : start + _CHUNK], np.float64)
    score_BL = rows_BE @ np.asarray(center_LE, np.float64).T
    if offset_L is not None:
      length_B1 = np.linalg.norm(rows_BE, axis=1, keepdims=True)
      score_BL = score_BL / np.maximum(length_B1, 1e-12) + offset_L
    chunks.append(score_BL.argmax(axis=1).astype(np.int32))
  return np.concatenate(chunks)


_CHUNK = 65_536  # rows; bounds the memory of the cosines


def _unit(rows: FloatNE) -> np.ndarray:
  rows = np.asarray(rows)
  length = np.linalg.norm(rows, axis=1, keepdims=True)
  return np.asarray(rows / np.maximum(length, 1e-12), np.float32)
