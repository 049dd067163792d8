"""Room for leaves to come: levels of two children whose nodes are closed at first.

A tree that grows is not balanced, and its shapes must not change. So room for all of
its leaves is made once, as levels below those that it starts with, and a mask says
which of their nodes are split. A node that is not sends all of its documents to its
first child. Whatever reads a tree reads it as before, and a leaf keeps its place
whatever happens elsewhere.

Such levels project nothing away: in all of the embedding every node's prototypes are
free to cut in a direction of their own.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from cmtree_jax import shapes
from cmtree_jax.tree import model
from cmtree_jax.tree.model import Theta


def one_leaf(dim: int, max_leaves: int, *, kappa: float) -> Theta:
  """A tree of a single leaf with room for more, for features of `dim` numbers."""
  return _levels(dim, 1, max_leaves, kappa=kappa)


def with_room(theta: Theta, max_leaves: int, *, kappa: float) -> Theta:
  """The same tree with room for more leaves below each of its own.

  There are twice as many places as leaves may be, so that a branch may go deeper than
  the others.

  Args:
    theta: what the tree starts from.
    max_leaves: more than it has.
    kappa: sharpness of the cuts to come.
  Raises:
    ValueError: it has so many already.
  """
  leaves = model.num_leaves(theta)
  if max_leaves <= leaves:
    raise ValueError(
      f"max_leaves = {max_leaves} must be above the {leaves} leaves that the tree "
      "starts with."
    )
  dim = theta[0].angle_PE.shape[1]
  return (*theta, *_levels(dim, leaves, max_leaves, kappa=kappa))


def _levels(dim, leaves, max_leaves, *, kappa):
  depth = int(np.ceil(np.log2(max_leaves / leaves))) + 1
  return tuple(
    model.Level(
      angle_PE=jnp.eye(dim),
      prototype_MCP=jnp.zeros((nodes, 2, dim)),
      log_kappa=jnp.log(jnp.float32(kappa)),
      tilt_MC=jnp.zeros((nodes, 2)),
      open_M=jnp.zeros(nodes),
    )
    for nodes in (leaves * 2**level for level in range(depth))
  )


def grows(theta: Theta) -> bool:
  """Whether the tree has room for more leaves."""
  return theta[-1].open_M is not None


def below(x_L: shapes.Array, nodes: int) -> shapes.Array:
  """Sums of what all leaves below each of so many nodes have [..., M]."""
  return jnp.sum(x_L.reshape(*x_L.shape[:-1], nodes, -1), axis=-1)


def open_nodes(theta: Theta) -> tuple[jax.Array, ...]:
  """Which nodes of every level are split [M]."""
  return tuple(
    jnp.ones(level.tilt_MC.shape[0], bool)
    if level.open_M is None
    else jnp.asarray(level.open_M) > 0
    for level in theta
  )


def leaves_at(theta: Theta) -> tuple[jax.Array, ...]:
  """Which nodes at depths 0, 1, ... hold documents and are not split: the leaves."""
  found, held = [], jnp.ones(1, bool)
  for level, open_M in zip(theta, open_nodes(theta), strict=True):
    found.append(held & ~open_M)
    held = jnp.repeat(held & open_M, level.tilt_MC.shape[1])
  return (*found, held)


def num_open(theta: Theta) -> shapes.Array:
  """The number of leaves that hold documents."""
  return sum(jnp.sum(leaf_M) for leaf_M in leaves_at(theta))


def paths(theta: Theta) -> tuple[str, ...]:
  """The path of every place of a leaf, in order; "" where there is no leaf yet.

  A path ends at the last node that is split: the child numbers from the root. The
  paths of other leaves stay as they are when one is split or two are fused.
  """
  shape = [level.tilt_MC.shape[1] for level in theta]
  found = [""] * model.num_leaves(theta)
  for depth, leaf_M in enumerate(leaves_at(theta)):
    places = int(np.prod(shape[depth:], dtype=int))
    for node in np.flatnonzero(leaf_M):
      # All documents of a node that is not split are in its first place.
      found[int(node) * places] = path(int(node), shape[:depth])
  return tuple(found)


def path(node: int, branching: Sequence[int]) -> str:
  """Child numbers from the root to a node below levels of so many children.

  >>> path(9, (4, 4))
  '2.1'
  """
  digits = []
  for children in reversed(branching):
    node, digit = divmod(node, children)
    digits.append(str(digit))
  return ".".join(reversed(digits))
