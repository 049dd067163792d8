"""Hidden labels of the pool's documents, by which a recipe is scored afterwards.

The source, as far as it is labelled; in a test bed also its factor, which says what was
done to each document (`data/corpora/bed.py`).
"""

from typing import Any

import numpy as np

from cmtree_jax.data.build.prepare import Prepared
from cmtree_jax.data.corpora import bed
from cmtree_jax.evaluate import angles
from cmtree_jax.recipe.partition import Partition, TreePartition

Labels = dict[str, tuple[np.ndarray, tuple[str, ...]]]


def labels(data: Prepared) -> Labels:
  """Name -> (the number of each document's label, all labels)."""
  names = ["source"]
  if has_factor(data):
    names.append(bed.FACTOR)
  return {name: data.documents.labels(name) for name in names}


def has_factor(data: Prepared) -> bool:
  """Whether the corpus is a bed whose documents have a hidden factor."""
  line = data.manifest.get("bed", {}).get("name", "")
  return bool(line) and bed.parse(line).has_factor


def separations(
  weights: Partition, data: Prepared, rows: np.ndarray
) -> list[dict[str, Any]]:
  """What each level of a tree tells of the labels, and what levels share.

  Args:
    weights: leaves of a recipe; none but a tree has levels.
    data: the corpus.
    rows: documents that stand for it.
  Returns:
    A row for each level and label, in bits; and one for each pair of levels.
  """
  if not isinstance(weights, TreePartition):
    return []
  theta = weights.weights.theta
  found = angles.separations(
    theta,
    np.asarray(data.pool.embedding_NE[rows]),
    data.pool.tokens.mass_N[rows],
    {name: label_N[rows] for name, (label_N, _) in labels(data).items()},
  )
  told: list[dict[str, Any]] = []
  for one in found:
    row = one._asdict()
    if np.isnan(row["child"]):  # JSON has no NaN
      row["child"] = None
    told.append({**row, "added_share": _share(one.added, one.entropy)})
  for (first, second), overlap in angles.overlaps(theta).items():
    told.append({"levels": [first, second], "overlap": overlap})
  return told


def _share(bits: float, entropy: float) -> float:
  return bits / entropy if entropy > 0 else 0.0
