"""What keeps the levels of a tree apart, and the scores of its leaves small."""

import itertools

import jax.numpy as jnp

from cmtree_jax import shapes
from cmtree_jax.tree.model import Theta


def angle_overlap(theta: Theta) -> shapes.Scalar:
  r"""Mean overlap of the row spaces of two levels, between 0 and 1.

  .. math:: \frac{1}{P} \lVert Q_i Q_j^\top \rVert_F^2

  with orthonormal rows Q of each angle: the mean squared cosine of the principal
  angles between the spaces. Zero for a tree of one level. Levels of growth do not
  count: each of their cuts has a direction of its own.
  """
  fixed = tuple(level for level in theta if level.open_M is None)
  if len(fixed) < 2:
    return jnp.zeros(())
  return jnp.mean(jnp.stack(list(pair_overlaps(fixed).values())))


def score_norm(theta: Theta) -> shapes.Scalar:
  r"""Mean length of the leaves' score vectors: a group lasso with a group per leaf.

  .. math:: \frac1L \sum_L \lVert s_L \rVert

  Zero where leaves do not score. A slope of zero stands for the missing one at a
  vector of zeros.
  """
  score_MCP = theta[-1].score_MCP
  if score_MCP is None:
    return jnp.zeros(())
  square_MC = jnp.sum(score_MCP**2, axis=-1)
  is_zero_MC = square_MC == 0
  length_MC = jnp.sqrt(jnp.where(is_zero_MC, 1.0, square_MC))
  return jnp.mean(jnp.where(is_zero_MC, 0.0, length_MC))


def pair_overlaps(theta: Theta) -> dict[tuple[int, int], shapes.Scalar]:
  """The overlap of every pair of levels, by their depths from the root.

  An angle as wide as the embedding sees all of it, so that its overlap with any other
  is one, and costs no decomposition.
  """
  basis = [_basis(level.angle_PE) for level in theta]
  return {
    (i, j): _overlap(a, b)
    for (i, a), (j, b) in itertools.combinations(enumerate(basis), 2)
  }


def _basis(angle_PE):
  """Orthonormal columns [E, P] of its row space; None where that is the whole space."""
  dim, space = angle_PE.shape
  return None if dim >= space else jnp.linalg.qr(angle_PE.T)[0]


def _overlap(a_EP, b_EP):
  """Of two spaces by their bases."""
  if a_EP is None or b_EP is None:
    return jnp.ones(())
  return jnp.sum((a_EP.T @ b_EP) ** 2) / min(a_EP.shape[1], b_EP.shape[1])
