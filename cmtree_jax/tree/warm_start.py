"""Where a tree starts: grown from the root down, tilted by similarity to the target.

The start is CRISP on the tree's own leaves, so what is learned after it is what the
joint learning is worth. How a level's angle and a node's prototypes are found is an
argument: the principal directions here and k-means, or those of `random_start`.
"""

from collections.abc import Callable, Sequence

import jax.numpy as jnp
import numpy as np

from cmtree_jax import shapes
from cmtree_jax.tree import mixture, model

# (points [N, P], masses [N], number of clusters) -> centers [C, P]
Cluster = Callable[[np.ndarray, np.ndarray, int], np.ndarray]
# (features [N, E], masses [N], node of each [N], levels above) -> angle [P, E]
Angle = Callable[[np.ndarray, np.ndarray, np.ndarray, model.Theta], np.ndarray]


def fit(
  sample_NE: np.ndarray,
  mass_N: np.ndarray,
  *,
  branching: Sequence[int],
  kappa: float,
  oblivious: bool,
  angle: Angle,
  cluster: Cluster,
) -> model.Theta:
  """A tree of cluster centers with zero tilt, grown from the root down.

  Each level projects by an angle of its own and clusters every node's documents
  there.

  Args:
    sample_NE: document features.
    mass_N: their masses.
    branching: children per node of every level.
    kappa: sharpness of every level.
    oblivious: one set of prototypes per level, the same for all of its nodes.
    angle: finds a level's projection.
    cluster: finds a node's prototypes.
  """
  theta: list[model.Level] = []
  node_N = np.zeros(len(sample_NE), np.int64)
  nodes = 1
  for children in branching:
    angle_PE = angle(sample_NE, mass_N, node_N, tuple(theta))
    z_NP = sample_NE @ angle_PE.T
    z_NP /= np.linalg.norm(z_NP, axis=1, keepdims=True) + 1e-12
    # An oblivious level has one set of prototypes, for documents of all nodes.
    group_N, groups = (0 * node_N, 1) if oblivious else (node_N, nodes)
    prototype_MCP = np.stack(
      [
        cluster(z_NP[group_N == group], mass_N[group_N == group], children)
        for group in range(groups)
      ]
    )
    tilt_nodes = int(np.prod([level.tilt_MC.shape[1] for level in theta]))
    theta.append(
      model.Level(
        jnp.asarray(angle_PE, jnp.float32),
        jnp.asarray(prototype_MCP, jnp.float32),
        jnp.log(jnp.float32(kappa)),
        jnp.zeros((tilt_nodes, children)),
      )
    )
    cosine_NC = np.einsum("np,ncp->nc", z_NP, prototype_MCP[group_N])
    node_N = node_N * children + np.argmax(cosine_NC, axis=1)
    nodes *= children
  return tuple(theta)


def principal_angle(
  sample_NE: np.ndarray,
  mass_N: np.ndarray,
  node_N: np.ndarray,
  above: model.Theta,
  *,
  angle_dim: int,
) -> np.ndarray:
  """The leading principal directions of what the levels above left unexplained.

  The root keeps the mean: cosines are taken from the origin.

  Args:
    sample_NE: document features.
    mass_N: their masses.
    node_N: the node of each, whose mean is taken off.
    above: the levels so far.
    angle_dim: P; at most E.
  """
  residual_NE = sample_NE
  if above:
    count = node_N.max() + 1
    weight = np.bincount(node_N, mass_N, count)[:, None] + 1e-12
    sums = np.zeros((count, sample_NE.shape[1]))
    np.add.at(sums, node_N, mass_N[:, None] * sample_NE)
    residual_NE = sample_NE - (sums / weight)[node_N]
  scatter_EE = residual_NE.T @ (mass_N[:, None] * residual_NE)
  _, vectors = np.linalg.eigh(scatter_EE)
  angle_PE = vectors[:, ::-1][:, :angle_dim].T
  # A sign convention makes the start independent of the solver's.
  largest = np.argmax(np.abs(angle_PE), axis=1)
  return (
    angle_PE * np.sign(angle_PE[np.arange(len(angle_PE)), largest])[:, None]
  )


def with_similarity_tilts(
  theta: model.Theta,
  sample_NE: shapes.FloatNE,
  mass_N: shapes.FloatN,
  target_NE: shapes.Array,
  target_mass_N: shapes.Array,
  *,
  smoothing: float = 1e-3,
) -> model.Theta:
  r"""Tilts at the log density ratio P(leaf|target) / P(leaf|corpus).

  Every node's tilt is that of its mass; a leaf's sum along the path is then its
  own log ratio.

  Args:
    theta: the partition; its tilts are replaced.
    sample_NE: corpus features.
    mass_N: their masses.
    target_NE: features of target documents.
    target_mass_N: their masses.
    smoothing: share of the corpus mixed into the target.
  """
  corpus_L = _mass(theta, sample_NE, mass_N)
  target_L = _mass(theta, target_NE, target_mass_N)
  target_L = (1 - smoothing) * target_L + smoothing * corpus_L
  levels, parent = [], jnp.zeros(1)
  leaves = corpus_L.shape[0]
  nodes = 1
  for level in theta:
    nodes *= level.tilt_MC.shape[1]
    ratio = jnp.log(
      jnp.sum(target_L.reshape(nodes, leaves // nodes), axis=1)
      / jnp.sum(corpus_L.reshape(nodes, leaves // nodes), axis=1)
    )
    tilt_MC = ratio.reshape(level.tilt_MC.shape) - parent[:, None]
    levels.append(level._replace(tilt_MC=tilt_MC))
    parent = ratio
  return tuple(levels)


def _mass(theta, features, mass_N):
  log_p_NL = model.log_p_leaf(theta, jnp.asarray(features, jnp.float32))
  return jnp.exp(mixture.leaf_mass(log_p_NL, jnp.asarray(mass_N))) + 1e-9
