"""Recipes that an experiment makes itself, as finished searches of a comparison.

They are tried and trained like all others. A planted recipe is a variant of the method
that it is made from, so it has that one's targets; its history says what it is.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from cmtree_jax import budget
from cmtree_jax.jobs import build
from cmtree_jax.jobs import plan as plans
from cmtree_jax.jobs.cells import Found, Search
from cmtree_jax.proxy.ledger import Cost
from cmtree_jax.recipe.partition import Partition
from experiments.claims import Results


class Bench:
  """What recipes are made on: a finished comparison, its corpus and its searches."""

  def __init__(self, found: Results):
    self.found, self.data = found, found.data()
    self.plan = plans.of_comparison(found.config)
    self.mass_N = np.asarray(self.data.pool.tokens.mass_N, np.float64)
    self.max_weight = build.budget(found.config, self.data).max_weight
    self.names: dict[
      str, tuple[str, ...]
    ] = {}  # what was planted -> its variant

  @property
  def targets(self) -> list[str]:
    """Sets of targets."""
    return list(self.plan.target_sets)

  @property
  def seeds(self) -> range:
    """Searches of each method."""
    return range(self.plan.search_seeds)

  @property
  def sample_rows(self) -> np.ndarray:
    """Documents that stand for the corpus."""
    from cmtree_jax.jobs import known

    return known.sample_rows(self.found.config, self.data)

  def searched(self, target: str) -> list[str]:
    """The targets of a set that its searches read."""
    return [place.searched for place in self.plan.target_sets[target]]

  def search(self, method: str, target: str, seed: int) -> Search:
    """The finished search of a method."""
    return self.plan.search(method, target, seed)

  def weight_N(self, method: str, target: str, seed: int) -> np.ndarray:
    """The weights that a search gave the documents; their mean is one."""
    log_w_N = self.found.cells.log_w_N(self.search(method, target, seed))
    return np.exp(log_w_N.astype(np.float64))

  def tree(self, method: str, target: str, seed: int) -> Partition:
    """The leaves that a search found."""
    from cmtree_jax.recipe import partition as partitions

    found = self.found.cells.found(self.search(method, target, seed))
    assert found is not None and found.partition is not None
    return partitions.partition_from_json(found.partition)

  def plant(
    self,
    name: str,
    base: str,
    search: Search,
    recipe: Partition | np.ndarray,
  ) -> None:
    """Ends a search of this name with a recipe, unless it has ended before.

    Args:
      name: of the recipe.
      base: the method or variant that it is made from; it decides which targets the
        recipe is for.
      search: of the base, for whose targets and seed the recipe stands.
      recipe: weights of documents, zero or more, of any scale, or leaves.
    """
    config, folder = self.found.config, self.found.cells
    self.names[name] = tuple(config.variants.get(base, (base,)))
    cell = search._replace(method=name)
    if folder.found(cell) is not None:
      return
    leaves = None
    if isinstance(recipe, np.ndarray):
      weight_N = budget.capped(recipe, self.mass_N, max_weight=self.max_weight)
      with np.errstate(divide="ignore"):
        log_w_N = np.log(weight_N)
    else:
      leaves = recipe.to_json()
      log_w_N = self.of_leaves(recipe)
    facts = Found(
      Cost(), [{"planted": name}], list(self.names[name]), {"": leaves}
    )
    folder.save_found(cell, facts, {"": log_w_N}, np.full(len(log_w_N), np.nan))

  def of_leaves(self, leaves: Partition) -> np.ndarray:
    """Log-weights of documents whose leaves have these weights."""
    return np.log(self.p_NL(leaves) @ np.exp(np.asarray(leaves.log_w_L)))

  def through(self, leaves: Partition, weight_N: np.ndarray) -> Partition:
    """The leaves with the mean weight of their documents, capped."""
    p_NL = self.p_NL(leaves)
    q_L = self.mass_N @ p_NL
    weight_L = (self.mass_N * weight_N) @ p_NL / np.maximum(q_L, 1e-12)
    weight_L = budget.capped(weight_L, q_L, max_weight=self.max_weight)
    log_w_L = np.log(np.maximum(weight_L, 1e-9))  # JSON has no weight of zero
    return leaves.with_weights(log_w_L.astype(np.float32))

  def p_NL(self, leaves: Partition) -> np.ndarray:
    """The probability of every leaf for every document of the pool."""
    embedding_NE = np.asarray(self.data.pool.embedding_NE)
    return np.exp(np.asarray(leaves.log_p_leaf(embedding_NE), np.float64))

  def config(self, methods: Sequence[str]) -> Any:
    """That of a comparison of these methods and all that was planted."""
    own = self.found.config.copy_and_resolve_references().unlock()
    own.variants.update(self.names)
    own.compare.methods = (*methods, *self.names)
    return own.lock()
