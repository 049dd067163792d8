r"""A recipe made more or less concentrated: a power of its weights, capped.

.. math:: v_u = \min(R,\, c\, w_u^{\beta}), \qquad \sum_u q_u v_u = 1

A unit u is what has a weight of its own: a leaf of a partition, so that its recipe
stays one of leaves, or a document. Where leaves score it is a document, too, and w is
c e^f before it is capped, so that the recipe stays one for any documents. The share of
the corpus that a recipe keeps is always that of the documents.
"""

from typing import NamedTuple, TypeVar, cast

import jax
import jax.numpy as jnp
import numpy as np

from cmtree_jax import budget
from cmtree_jax.data.build import prepare
from cmtree_jax.data.draw import packing
from cmtree_jax.methods.base import DocumentWeights
from cmtree_jax.recipe.partition import (
  ClusterPartition,
  Partition,
  TreePartition,
)
from cmtree_jax.tree import mixture

Weights = TypeVar("Weights", bound=Partition | DocumentWeights)

CHUNK = 65_536  # documents that are placed together; bounds memory


class Ground(NamedTuple):
  """The corpus as the units of a recipe divide it; see `ground_of`."""

  mass_U: np.ndarray  # q: shares of the corpus's tokens; sum to one
  # sum over documents of their mass times their parts in two leaves; None where the
  # units are documents, which do not overlap.
  overlap_UU: np.ndarray | None = None
  f_U: np.ndarray | None = None  # of documents, where leaves score

  def share(self, log_w_U: np.ndarray) -> float:
    """The effective sample size, 1 / E[w^2] of documents, as a share of the corpus."""
    w_U = np.exp(np.asarray(log_w_U, np.float64))
    if self.overlap_UU is None:
      square = self.mass_U @ w_U**2
    else:
      square = w_U @ self.overlap_UU @ w_U
    return float((self.mass_U @ w_U) ** 2 / square)


def ground_of(
  weights: Partition | DocumentWeights, data: prepare.Prepared
) -> Ground:
  """What the weights of a recipe stand on: once per partition, for any weights.

  Args:
    weights: of leaves, or of the corpus's own documents.
    data: the corpus.
  """
  mass_N = np.asarray(data.pool.tokens.mass_N, np.float64)
  if isinstance(weights, DocumentWeights):
    return Ground(mass_N)
  source_N, names = np.zeros(0, int), ()
  if isinstance(weights, ClusterPartition) and weights.sources:
    source_N, names = data.documents.labels("source")
  if isinstance(weights, TreePartition) and weights.scores:
    return Ground(mass_N, f_U=_scores(weights, data.pool.embedding_NE))
  size = len(weights.log_w_L)
  overlap_LL = np.zeros((size, size))
  for rows in packing.chunks(len(mass_N), CHUNK):
    labels = [names[i] for i in source_N[rows]] if names else None
    embedding_NE = np.asarray(data.pool.embedding_NE[rows])
    log_p_NL = weights.log_p_leaf(embedding_NE, labels)
    p_NL = np.exp(np.asarray(log_p_NL, np.float64))
    overlap_LL += p_NL.T @ (mass_N[rows, None] * p_NL)
  overlap_LL /= overlap_LL.sum()  # float32 probabilities sum to one up to 1e-6
  return Ground(overlap_LL.sum(axis=1), overlap_LL)


def _scores(leaves: TreePartition, embedding_NE: np.ndarray) -> np.ndarray:
  found = []
  for rows in packing.chunks(len(embedding_NE), CHUNK):
    some_NE = np.asarray(embedding_NE[rows])
    found.append(leaves.score(some_NE, leaves.log_p_leaf(some_NE)))
  return np.concatenate(found)


def at_power(
  weights: Weights, power: float, ground: Ground, *, max_weight: float
) -> Weights:
  """The same leaves or documents, with a power of their weights.

  Args:
    weights: w, of leaves or of documents.
    power: beta; zero is natural on all that has a weight above zero.
    ground: of `ground_of` for these leaves or documents.
    max_weight: R, at least one.
  Returns:
    v, of the type of `weights`.
  """
  log_w_U = _log_w(weights, ground)
  log_v_U = _powers(log_w_U, power, ground, max_weight)
  if isinstance(weights, DocumentWeights):
    return cast(Weights, weights._replace(log_w_N=log_v_U))
  if ground.f_U is not None:
    # What is capped is below c w^beta, all else is there.
    log_c = float(np.max(log_v_U - power * log_w_U))
    return cast(Weights, _tempered(weights, power, log_c, max_weight))
  return cast(Weights, weights.with_weights(log_v_U.astype(np.float32)))


def to_share(
  weights: Weights, share: float, ground: Ground, *, max_weight: float
) -> Weights:
  """The power of the weights that keeps so large a share of the corpus.

  Args:
    weights: w, of leaves or of documents.
    share: s, the effective sample size of the documents, from 0 to 1.
    ground: of `ground_of` for these leaves or documents.
    max_weight: R; a share below 1 / R is out of reach, and where leaves overlap
      one somewhat above it.
  Returns:
    v, of the type of `weights`.

  >>> ground = Ground(np.full(4, 0.25))
  >>> weights = DocumentWeights(np.log([1.0, 1.0, 1.0, 2.0]))
  >>> found = to_share(weights, 0.5, ground, max_weight=4.0)
  >>> round(ground.share(found.log_w_N), 3)
  0.5
  """
  power = power_of(weights, share, ground, max_weight=max_weight)
  return at_power(weights, power, ground, max_weight=max_weight)


def power_of(
  weights: Partition | DocumentWeights,
  share: float,
  ground: Ground,
  *,
  max_weight: float,
) -> float:
  """The power that `to_share` takes.

  It is found by bisection. Where no power reaches the share (all units of the highest
  weight together are more than it, or the cap forbids it), it is the largest one of
  the search; where already natural on what has a weight is less, it is zero.
  """
  log_w_U = _log_w(weights, ground)
  low, high = 0.0, _LARGEST_POWER
  for _ in range(_HALVINGS):
    power = (low + high) / 2
    found = ground.share(_powers(log_w_U, power, ground, max_weight))
    low, high = (power, high) if found > share else (low, power)
  return high


_LARGEST_POWER, _HALVINGS = 64.0, 30  # beta to 1e-7


def units(weights: Partition | DocumentWeights, ground: Ground) -> np.ndarray:
  """Log-weights of leaves or documents, whichever the units are, float64."""
  if ground.f_U is not None:
    assert isinstance(weights, TreePartition)
    return weights.log_w_of(ground.f_U)
  return _log_w(weights, ground)


def _log_w(weights: Partition | DocumentWeights, ground: Ground) -> np.ndarray:
  """The same, where leaves score before the cap."""
  if isinstance(weights, DocumentWeights):
    return np.asarray(weights.log_w_N, np.float64)
  if ground.f_U is not None:
    assert isinstance(weights, TreePartition)
    return weights.log_scale + weights.power * ground.f_U
  return np.asarray(weights.log_w_L, np.float64)


def _tempered(weights, power, log_c, max_weight) -> TreePartition:
  """Leaves that score, with c w^beta for w; what is inside is to be measured."""
  assert isinstance(weights, TreePartition)
  return weights._replace(
    weights=weights.weights._replace(max_weight=np.float32(max_weight)),
    power=power * weights.power,
    log_scale=log_c + power * weights.log_scale,
    inside_L=None,
  )


def _powers(log_w_U, power, ground, max_weight):
  if ground.overlap_UU is not None:
    # In logarithms, as JSON has no weight of zero.
    return np.asarray(
      _of_leaves(power * log_w_U, ground.mass_U, max_weight), np.float64
    )
  above_N = log_w_U > -np.inf  # a weight of zero is zero at every power
  log_v_N = np.full(len(log_w_U), -np.inf)
  log_v_N[above_N] = power * (log_w_U[above_N] - log_w_U.max())
  with np.errstate(divide="ignore"):
    return np.log(
      budget.capped(np.exp(log_v_N), ground.mass_U, max_weight=max_weight)
    )


@jax.jit
def _of_leaves(tilt_L, mass_L, max_weight):
  # An empty leaf has a weight although it takes no part.
  log_q_L = jnp.log(jnp.maximum(mass_L, 1e-30))
  return mixture.leaf_log_w(tilt_L, log_q_L, max_weight=max_weight)
