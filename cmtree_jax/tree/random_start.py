"""A start that knows nothing: random projections, random documents as prototypes.

It is what a learned partition is measured against, and where a tree would begin
without a warm start.
"""

import numpy as np

from cmtree_jax.tree import model
from cmtree_jax.types import UserError

# Choices of documents, of which the most even is kept. One choice often has a
# document that is nearest to hardly any other, and so a nearly empty leaf.
DRAWS = 16


def random_angle(
  sample_NE: np.ndarray,
  mass_N: np.ndarray,
  node_N: np.ndarray,
  above: model.Theta,
  *,
  angle_dim: int,
  rng: np.random.Generator,
) -> np.ndarray:
  """Orthonormal rows of a random space, all spaces alike probable.

  Args:
    sample_NE: document features; their width E is read.
    mass_N: not read, as the next two.
    node_N: the node of each document.
    above: the levels so far.
    angle_dim: P; at most E.
    rng: draws the space.
  """
  del mass_N, node_N, above
  normal_EP = rng.normal(size=(sample_NE.shape[1], angle_dim))
  return np.linalg.qr(normal_EP)[0].T


def random_documents(
  points_NP: np.ndarray,
  mass_N: np.ndarray,
  count: int,
  *,
  rng: np.random.Generator,
) -> np.ndarray:
  """Random documents as prototypes [C, P], drawn by mass without replacement.

  Features are not centered, so all documents lie about equally far from a random
  direction; random documents cut where documents are (the usual start of
  k-means). Of some choices, the one is kept whose lightest child is heaviest.

  Args:
    points_NP: projected documents, of unit length.
    mass_N: their masses.
    count: C.
    rng: draws the documents.
  Raises:
    UserError: there are fewer documents than children.
  """
  share_N = np.asarray(mass_N, np.float64)
  share_N = share_N / max(np.sum(share_N), 1e-30)
  if np.count_nonzero(share_N) < count:
    raise UserError(
      f"Cannot draw {count} prototypes from {np.count_nonzero(share_N)} "
      "documents of a node; ask for fewer children in config.cmtree.branching."
    )
  best_CP, best_least = None, -1.0
  for _ in range(DRAWS):
    rows = rng.choice(len(points_NP), count, replace=False, p=share_N)
    center_CP = points_NP[rows]
    child_N = np.argmax(points_NP @ center_CP.T, axis=1)
    least = np.bincount(child_N, share_N, minlength=count).min()
    if least > best_least:
      best_CP, best_least = center_CP, least
  assert best_CP is not None
  return best_CP
