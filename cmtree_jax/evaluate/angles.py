r"""What each level of a tree separates: information between children and labels.

All in bits, from a table of masses of nodes and labels. Entropies are corrected for
the finite sample by Miller and Madow: :math:`H = \hat H + (m - 1) / 2n` nats, with m
the cells that are not empty and n the effective number of documents,
:math:`1 / \sum_i q_i^2`. An estimate without bias is below zero as often as above
where nothing is separated; it is not cut off.
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from cmtree_jax import shapes
from cmtree_jax.evaluate.statistics import Values
from cmtree_jax.tree import model, penalties, views
from cmtree_jax.tree.mixture import Sample


class Separation(NamedTuple):
  """What one level tells of one label, in bits."""

  level: int  # from the root down
  label: str
  node: float  # I(node; label): all that the path down to the level tells
  added: float  # I(child; label | parent): what the level adds to those above
  # I(child; label), of the child's number alone: what the level's own cut tells.
  # NaN where nodes have prototypes of their own, so that numbers mean nothing.
  child: float
  entropy: float  # of the label: the most that there is to tell

  @property
  def added_share(self) -> float:
    """`added` as a share of the label's entropy."""
    return self.added / self.entropy if self.entropy > 0 else math.nan


def separations(
  theta: model.Theta,
  features_NE: shapes.FloatNE,
  mass_N: shapes.FloatN,
  labels: Mapping[str, Values],
) -> list[Separation]:
  """What every level separates, for every label.

  A document goes down the path to its most probable leaf, as in a recipe.

  Args:
    theta: the tree, `weights.theta` of a recipe's TreePartition.
    features_NE: document features.
    mass_N: their masses, of any scale.
    labels: integers, one per document; a number as a label goes through
      `quantile_bins` first.
  Returns:
    Rows, level by level.
  Raises:
    ValueError: a label is not one integer per document.
  """
  mass_N = np.asarray(mass_N, np.float64)
  mass_N = mass_N / mass_N.sum()
  for name, label_N in labels.items():
    _check_label(name, label_N, len(mass_N))
  leaf_N = np.argmax(np.asarray(model.log_p_leaf(theta, features_NE)), axis=1)
  branching = [level.tilt_MC.shape[1] for level in theta]
  rows, above = [], dict.fromkeys(labels, 0.0)
  for depth, children in enumerate(branching):
    node_N = leaf_N // math.prod(branching[depth + 1 :])
    alone = depth == 0 or theta[depth].prototype_MCP.shape[0] == 1
    for name, label_N in labels.items():
      node = information(node_N, label_N, mass_N)
      child = information(node_N % children, label_N, mass_N)
      rows.append(
        Separation(
          level=depth,
          label=name,
          node=node,
          added=node - above[name],  # the chain rule
          child=child if alone else math.nan,
          entropy=entropy(label_N, mass_N),
        )
      )
      above[name] = node
  return rows


def overlaps(theta: model.Theta) -> dict[tuple[int, int], float]:
  """The overlap of the angles of every pair of levels, between 0 and 1."""
  pairs = penalties.pair_overlaps(theta)
  return {pair: float(overlap) for pair, overlap in pairs.items()}


def view_shares(
  theta: model.Theta,
  features_NE: shapes.FloatNE,
  mass_N: shapes.FloatN,
  blocks: Sequence[tuple[str, int, int]],
) -> list[dict[str, float]]:
  """What each level sees of each view, from the root down; nothing of one view alone.

  Args:
    theta: the tree.
    features_NE: of a sample of the corpus.
    mass_N: their masses, of any scale.
    blocks: name and columns of every view, as a prepared corpus tells them.
  """
  masks = views.masks(blocks, features_NE.shape[1])
  if not masks:
    return []
  scatter_EE = views.scatter(Sample(features_NE, mass_N))
  share_of = views.level_shares(theta, scatter_EE, masks)
  return [
    {name: float(share_D[depth]) for name, share_D in share_of.items()}
    for depth in range(len(theta))
  ]


def information(one_N: Values, two_N: Values, mass_N: Values) -> float:
  """I(one; two) in bits, of integers with masses.

  >>> information([0, 0, 1, 1] * 1000, [0, 1, 0, 1] * 1000, np.ones(4000))
  -0.00018...
  """
  one_N, two_N = (_numbered(x) for x in (one_N, two_N))
  joint_N = one_N * (int(two_N.max()) + 1) + two_N
  single = entropy(one_N, mass_N) + entropy(two_N, mass_N)
  return single - entropy(joint_N, mass_N)


def entropy(label_N: Values, mass_N: Values) -> float:
  """Entropy in bits of integers with masses."""
  import scipy.stats

  share_N = np.asarray(mass_N, np.float64) / np.sum(mass_N)
  share = np.bincount(_numbered(label_N), share_N)
  cells = np.count_nonzero(share)
  correction = (cells - 1) * np.sum(share_N**2) / 2 / math.log(2)
  return float(scipy.stats.entropy(share, base=2) + correction)


def nmi(leaf_N: Values, label_N: Values) -> float:
  """Normalized mutual information of a partition and hidden labels.

  >>> nmi([0, 0, 1, 1], [7, 7, 3, 3])
  1.0
  """
  from sklearn.metrics import normalized_mutual_info_score

  return float(normalized_mutual_info_score(label_N, leaf_N))


def quantile_bins(x_N: Values, mass_N: Values, count: int) -> np.ndarray:
  """The bin of each number, int32: bins of about equal mass, smallest first.

  Equal numbers share a bin, so there may be fewer bins than asked for.

  Args:
    x_N: numbers, such as documents' lengths or losses; none is NaN.
    mass_N: what each counts for.
    count: of bins.
  Raises:
    ValueError: a number is NaN, or there is no bin.

  >>> quantile_bins([5.0, 1.0, 9.0, 7.0], [1, 1, 1, 1], 2).tolist()
  [0, 0, 1, 1]
  """
  x_N = np.asarray(x_N, np.float64)
  if count < 1 or np.isnan(x_N).any():
    raise ValueError(
      f"quantile_bins wants at least 1 bin and numbers that are not NaN; came "
      f"{count} bins and {np.isnan(x_N).sum()} NaN. Leave those documents out."
    )
  found, group_N = np.unique(x_N, return_inverse=True)
  mass_G = np.bincount(group_N, mass_N, minlength=len(found))
  middle_G = (np.cumsum(mass_G) - mass_G / 2) / mass_G.sum()
  bin_G = np.minimum(np.floor(middle_G * count), count - 1)
  return bin_G.astype(np.int32)[group_N]


def _numbered(label_N: Values) -> np.ndarray:
  """The same labels as 0, 1, ... without gaps."""
  return np.unique(label_N, return_inverse=True)[1]


def _check_label(name: str, label_N: Values, size: int) -> None:
  label_N = np.asarray(label_N)
  if label_N.shape != (size,) or not np.issubdtype(label_N.dtype, np.integer):
    raise ValueError(
      f"Label {name!r} must be an integer for each of the {size} documents; "
      f"came {label_N.dtype} of shape {label_N.shape}. Put numbers through "
      "quantile_bins."
    )
