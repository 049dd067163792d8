"""What keeps the levels of a tree apart."""

import itertools

import jax.numpy as jnp

from cmtree_jax import shapes
from cmtree_jax.tree.model import Theta


def angle_overlap(theta: Theta) -> shapes.Scalar:
  r"""Mean overlap of the row spaces of two levels, between 0 and 1.

  .. math:: \frac{1}{P} \lVert Q_i Q_j^\top \rVert_F^2

  with orthonormal rows Q of each angle: the mean squared cosine of the principal
  angles between the spaces. Zero for a tree of one level.
  """
  if len(theta) < 2:
    return jnp.zeros(())
  basis = [jnp.linalg.qr(level.angle_PE.T)[0] for level in theta]
  overlap = [
    jnp.sum((a.T @ b) ** 2) / min(a.shape[1], b.shape[1])
    for a, b in itertools.combinations(basis, 2)
  ]
  return jnp.mean(jnp.stack(overlap))
