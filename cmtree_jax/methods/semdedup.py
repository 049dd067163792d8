"""SemDeDup: one of every group of documents that nearly say the same."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from cmtree_jax import checks, shapes
from cmtree_jax.methods import scoring
from cmtree_jax.methods.base import Facts, Method, Planted, Small

KEEP = ("hard", "easy")
_BLOCK = 256  # documents that are compared with all others at a time


SMALL = Small()
PLANTED = Planted()


def make(*, epsilon: float = 0.05, keep: str = "hard") -> Method:
  r"""Leaves out a document that is nearly the same as an earlier one of its domain.

  .. math:: M_j = \max_{i < j} \langle e_i, e_j \rangle, \qquad
            \text{left out where } M_j > 1 - \varepsilon

  Documents of a domain are ordered by their distance from its center, the farthest
  first: of two that are alike, the one less typical of the domain stays. Documents
  that are left out still count as earlier ones, as in the authors' code.

  Departures: the center is the mean of the domain's documents as they are now, not
  that of the last k-means step, and weights of kept documents are capped.

  Cost:
    Products of all pairs of features within a domain, no training.

  Args:
    epsilon: how far from equal (cosine one) two documents still count as the same.
    keep: "hard" keeps what is far from the center, "easy" what is near.
  Returns:
    A Method that reads the embedding of all documents.
  Raises:
    ValueError: for an epsilon that is not in (0, 1), or an unknown `keep`.
  References:
    Abbas et al., `SemDeDup <https://arxiv.org/abs/2303.09540>`_, 2023, section 3;
    facebookresearch/SemDeDup at 6b41945.
  """
  checks.one_of("keep", keep, KEEP)
  if not 0 < epsilon < 1:
    raise ValueError(f"epsilon {epsilon} must be between 0 and 1.")

  def init(key: shapes.Key, facts: Facts) -> scoring.Weighed:
    del key
    pool = facts.pool
    assert pool is not None
    assert pool.domain_N is not None
    likeness_N = np.zeros(len(pool.key_N), np.float32)
    for domain in np.unique(pool.domain_N):
      rows = np.flatnonzero(pool.domain_N == domain)
      likeness_N[rows] = _likeness(pool.embedding_NE[rows], keep)
    return scoring.chosen(
      likeness_N <= 1 - epsilon,
      pool,
      max_weight=facts.max_weight,
      score_N=-likeness_N,
    )

  return scoring.method(init, targeted=False)


def _likeness(embedding_BE: np.ndarray, keep: str) -> np.ndarray:
  """M of one domain, which is filled up so that sizes alike share a program."""
  size = len(embedding_BE)
  padding = (1 << (size - 1).bit_length()) - size
  padded_BE = np.pad(embedding_BE, [(0, padding), (0, 0)])
  return np.asarray(_compiled(padded_BE, size, keep))[:size]


@functools.partial(jax.jit, static_argnames="keep")
def _compiled(embedding_BE, size, keep):
  real_B = jnp.arange(len(embedding_BE)) < size
  unit_BE = _normalize(embedding_BE)
  center_E = _normalize(jnp.sum(jnp.where(real_B[:, None], unit_BE, 0), axis=0))
  distance_B = 1 - unit_BE @ center_E
  return likeness_to_earlier(unit_BE, rank(distance_B, keep), real_B)


def rank(distance_B: shapes.FloatB, keep: str) -> shapes.Array:
  """The places of documents by their distance from the center, ints from 0.

  The farthest comes first, of equal ones the first; "easy" is the reverse of it.
  """
  size = distance_B.shape[0]
  order_B = jnp.argsort(-distance_B, stable=True)
  rank_B = (
    jnp.zeros(size, jnp.int32)
    .at[order_B]
    .set(jnp.arange(size, dtype=jnp.int32))
  )
  return rank_B if keep == "hard" else size - 1 - rank_B


def likeness_to_earlier(
  unit_BE: shapes.FloatBE, rank_B: shapes.Array, real_B: shapes.Array
) -> shapes.FloatB:
  """M: the greatest cosine of each document with one that comes earlier.

  Args:
    unit_BE: features of length one.
    rank_B: see `rank`.
    real_B: the others are padding, and like nothing.
  """

  def most(one):
    unit_E, place = one
    earlier_B = (rank_B < place) & real_B
    return jnp.max(jnp.where(earlier_B, unit_BE @ unit_E, 0.0))

  return jax.lax.map(most, (unit_BE, rank_B), batch_size=_BLOCK)


def _normalize(x: shapes.Array) -> shapes.Array:
  """Along the last axis; zero stays zero."""
  length = jnp.linalg.norm(x, axis=-1, keepdims=True)
  return x / jnp.maximum(length, 1e-12)
