"""What the versions of a search's recipe weigh: its candidates, at any concentration."""

import math
from typing import NamedTuple

import numpy as np

from cmtree_jax.data.build import prepare
from cmtree_jax.data.draw import packing
from cmtree_jax.evaluate import concentration
from cmtree_jax.jobs.cells import Folder, Search, Version
from cmtree_jax.methods.base import DocumentWeights, Path
from cmtree_jax.recipe import concentrate
from cmtree_jax.recipe import partition as partitions

Recipe = partitions.Partition | DocumentWeights

# Shares that differ by less than this factor are the same, and so are weights of
# which all of the corpus but this part is kept and the natural ones.
_SAME_SHARE, _ALL = 1.1, 1e-3


class Versions(NamedTuple):
  """The recipes of the searches in a folder, on one corpus; see `make`."""

  data: prepare.Prepared
  folder: Folder
  max_weight: float  # R
  grounds: dict[tuple[Search, str], concentrate.Ground]  # what was asked for

  @classmethod
  def make(
    cls, data: prepare.Prepared, folder: Folder, *, max_weight: float
  ) -> "Versions":
    """Of the finished searches in a folder."""
    return cls(data, folder, max_weight, {})

  def recipe(self, search: Search, version: Version) -> Recipe:
    """Leaves with weights, or weights of documents."""
    found = self.folder.found(search)
    assert found is not None, search
    partition = found.partitions[version.candidate]
    recipe: Recipe = (
      DocumentWeights(
        self.folder.log_w_N(search, version.candidate), self.path(search)
      )
      if partition is None
      else partitions.partition_from_json(partition)
    )
    if not version.share:
      return recipe
    ground = self._ground(search, version.candidate, recipe)
    found = concentrate.to_share(
      recipe, version.share, ground, max_weight=self.max_weight
    )
    if isinstance(found, DocumentWeights):
      return found
    pool = self.data.pool
    return partitions.measured(found, pool.embedding_NE, pool.tokens.mass_N)

  def path(self, search: Search) -> Path | None:
    """What its documents are read along, at any concentration; None: one by one."""
    return self.folder.path_of(search)

  def log_w_N(self, search: Search, version: Version) -> np.ndarray:
    """Log-weights of the pool's documents, float64."""
    if not version.share:
      log_w_N = self.folder.log_w_N(search, version.candidate)
      return log_w_N.astype(np.float64)
    return self._documents(self.recipe(search, version))

  def share(self, search: Search, version: Version) -> float:
    """The share of the corpus that a version keeps in effect."""
    return concentration.effective_sample_size(
      self.log_w_N(search, version), self.data.pool.tokens.mass_N
    )

  def shares(
    self, search: Search, candidate: str, exponents: tuple[float, ...]
  ) -> tuple[float, ...]:
    r"""Kept shares :math:`R^{-x}` that are worth a trial beside the recipe's own.

    None where all weights are one, and none that no power of the weights reaches, or
    that is the recipe's own already.

    Args:
      search: finished.
      candidate: of it.
      exponents: x.
    """
    own = self.share(search, Version(candidate))
    if own > 1 - _ALL:
      return ()
    recipe = self.recipe(search, Version(candidate))
    ground = self._ground(search, candidate, recipe)
    found = []
    for x in exponents:
      share = round(self.max_weight**-x, 3)  # as cells are named by it
      at_share = concentrate.to_share(
        recipe, share, ground, max_weight=self.max_weight
      )
      reached = ground.share(concentrate.units(at_share, ground))
      if not _same(own, share) and _same(reached, share):
        found.append(share)
    return tuple(found)

  def _ground(
    self, search: Search, candidate: str, recipe: Recipe
  ) -> concentrate.Ground:
    key = (search, candidate)
    if key not in self.grounds:
      self.grounds[key] = concentrate.ground_of(recipe, self.data)
    return self.grounds[key]

  def _documents(self, recipe: Recipe) -> np.ndarray:
    if isinstance(recipe, DocumentWeights):
      return np.asarray(recipe.log_w_N, np.float64)
    pool, documents = self.data.pool, self.data.documents
    source_N, names = documents.labels("source")
    found = []
    for rows in packing.chunks(len(pool), concentrate.CHUNK):
      labels = [names[i] for i in source_N[rows]] if names else None
      some_NE = np.asarray(pool.embedding_NE[rows])
      log_p_NL = recipe.log_p_leaf(some_NE, labels)
      log_w_B = partitions.document_log_w(recipe, some_NE, log_p_NL)
      found.append(log_w_B.astype(np.float64))
    return np.concatenate(found)


def _same(a: float, b: float) -> bool:
  return abs(math.log(a / b)) < math.log(_SAME_SHARE)
