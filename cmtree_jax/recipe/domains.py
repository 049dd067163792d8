"""Domains: a frozen partition of the corpus, which mixture methods weigh.

Every method runs on any of them: the labelled sources, k-means, the groups that
CLIMB and R&B make of k-means, the balanced clusters of GEM, the cells of HERMES, those
of topic times form, or the leaves of a tree that was learned before.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cmtree_jax import checks, embed
from cmtree_jax.data import mirror
from cmtree_jax.data.build import prepare
from cmtree_jax.data.draw import packing
from cmtree_jax.embed import kmeans
from cmtree_jax.recipe import partition as partitions
from cmtree_jax.recipe import recipe as recipes
from cmtree_jax.types import UserError

CHUNK = 65_536  # documents that are looked at together; bounds memory

KINDS = (
  *("gem", "hermes", "kmeans", "product", "silhouette", "sources"),
  *("tree:WORKDIR", "ward"),
)
STAGES = 3  # codes of a document that hermes learns
MOST_CELLS = 4096  # that hermes may have: documents have a number for each
VIEWS = (*embed.VIEWS, *embed.MODEL_VIEWS)


class Plan(NamedTuple):
  """How the corpus is divided into domains; the block `partition`."""

  # kmeans; ward, k-means of many clusters merged as in CLIMB; silhouette, k-means
  # with the number of clusters that has the best silhouette, as in R&B; gem, clusters
  # of directions with masses nearly alike; hermes, cells of documents whose first
  # codes are equal; product, cells of documents that are in one cluster by every one of
  # `views`, as WebOrganizer's of topic times format; sources, the labels; tree:WORKDIR,
  # the leaves of a recipe, each document in its likeliest one.
  kind: str = "kmeans"
  num_clusters: int = 64  # of kmeans, ward and gem; of product, the cells
  # Of product, those of the embedding that a k-means of its own cuts; a single one is
  # cut into all the cells, and V of them into the V-th root of their number each.
  views: tuple[str, ...] = ("topic", "form")
  fine_clusters: int = 1000  # that ward merges
  candidates: tuple[int, ...] = (4, 8, 16, 32, 64)  # that silhouette tries
  # How much gem cares for equal masses, in units of its clusters' concentration;
  # the paper's 5000 for 900.
  balance: float = 5.6
  codes: int = 8  # of hermes, at each of its three stages; the paper's are 256
  prefix: int = 2  # codes that make a cell of hermes, 1 to 3
  # Documents that clusters and the start of a tree are fitted on.
  sample_documents: int = 50_000

  def check(self) -> None:
    """Refuses what makes no domains, with a ValueError."""
    name, _, address = self.kind.partition(":")
    if self.kind not in KINDS and not (name == "tree" and address):
      raise ValueError(
        f"kind = {self.kind!r} is unknown. Known: {', '.join(KINDS)}."
      )
    if not self.candidates or min(self.candidates) < 2:
      raise ValueError(
        f"candidates = {tuple(self.candidates)} must be numbers above 1."
      )
    checks.at_least(
      1,
      num_clusters=self.num_clusters,
      fine_clusters=self.fine_clusters,
      sample_documents=self.sample_documents,
    )
    if not self.views or len(set(self.views)) < len(self.views):
      raise ValueError(
        f"views = {', '.join(self.views) or 'none'} must name one view or more, each "
        "once."
      )
    for name in self.views:
      checks.one_of("views", name, VIEWS)
    if self.kind == "product" and self.side ** len(self.views) != (
      self.num_clusters
    ):
      raise ValueError(
        f"num_clusters = {self.num_clusters} are no product of equal numbers for each "
        f"of {', '.join(self.views)}; try {self.side ** len(self.views)}."
      )
    checks.at_least(1, codes=self.codes)
    if not 1 <= self.prefix <= STAGES:
      raise ValueError(f"prefix = {self.prefix} must be from 1 to {STAGES}.")
    if self.codes**self.prefix > MOST_CELLS:
      raise ValueError(
        f"codes = {self.codes} and prefix = {self.prefix} make "
        f"{self.codes**self.prefix:,} cells; lower one of them, to {MOST_CELLS:,} "
        "cells at most."
      )
    checks.at_least(0, balance=self.balance)
    checks.finite(balance=self.balance)

  @property
  def side(self) -> int:
    """Clusters of each view of a product."""
    return round(self.num_clusters ** (1 / len(self.views)))


class Domains(NamedTuple):
  """K domains and where the pool's documents fall."""

  partition: partitions.Partition  # its weights are one
  domain_N: np.ndarray  # int32
  mass_K: np.ndarray  # float64, shares of the pool's tokens

  def of(self, embedding_BE: np.ndarray) -> np.ndarray:
    """The domains of documents whose source is not known, int32."""
    log_p_BK = self.partition.log_p_leaf(embedding_BE)
    return np.argmax(log_p_BK, axis=1).astype(np.int32)

  def shares(self, documents: prepare.DocumentSet) -> np.ndarray:
    """The domains' shares of the tokens of other documents, float64 [K]."""
    domain_B = self.of(np.asarray(documents.embedding_NE))
    return np.bincount(
      domain_B, documents.tokens.mass_N, minlength=len(self.mass_K)
    )


def make(
  plan: Plan,
  data: prepare.Prepared,
  sample_rows: np.ndarray,
  *,
  seed: int,
) -> Domains:
  """The domains of a corpus.

  Args:
    plan: of which kind they are; checked.
    data: the corpus.
    sample_rows: documents that clusters are fitted on.
    seed: of k-means.
  Raises:
    UserError: sources have no labels, the recipe no leaves or another embedding.
  """
  name, _, address = plan.kind.partition(":")
  if name == "sources":
    return _sources(data)
  if name == "tree" and address:
    return _placed(_tree(mirror.reading(address), data), data.pool)
  sample_NE = np.asarray(data.pool.embedding_NE[sample_rows])
  mass_N = data.pool.tokens.mass_N[sample_rows]
  if name == "product":
    views = _columns(plan.views, data.blocks)
    partition = _product(plan.side, sample_NE, views, seed=seed, mass_N=mass_N)
    return _placed(partition, data.pool)
  partition = _CLUSTERS[name](plan, sample_NE, seed=seed, mass_N=mass_N)
  return _placed(partition, data.pool)


def _product(
  side: int, sample_NE: np.ndarray, views: Sequence[embed.Block], **fit: Any
):
  """Clusters of every view, and a cell for each choice of one of each view.

  A cell's center has the clusters' centers side by side. Its product with a document
  is the sum of theirs, so the nearest cell has the nearest cluster of every view.

  Args:
    side: clusters of each view.
    sample_NE: rows that clusters are fitted on.
    views: where these have their columns.
    fit: see `kmeans.fit`.
  """
  count = min(side, len(sample_NE))
  shape = (count,) * len(views)
  center_LE = np.zeros((count ** len(views), sample_NE.shape[1]), np.float32)
  for view, of_cell_L in zip(views, np.indices(shape), strict=True):
    columns = slice(view.start, view.stop)
    found = kmeans.fit(sample_NE[:, columns], num_clusters=count, **fit)
    center_LE[:, columns] = found.center_LE[of_cell_L.ravel()]
  return partitions.clusters(center_LE)


def _columns(
  names: Sequence[str], blocks: Sequence[embed.Block]
) -> list[embed.Block]:
  """Where the views of these names are in the embedding."""
  of_name = {one.name: one for one in blocks}
  if missing := [one for one in names if one not in of_name]:
    raise UserError(
      f"config.partition.views names {', '.join(missing)}; the embedding has "
      f"{', '.join(of_name)}. Set config.embedding.views, or cut another view."
    )
  return [of_name[one] for one in names]


def _kmeans(plan: Plan, sample_NE: np.ndarray, **fit: Any):
  num_clusters = min(plan.num_clusters, len(sample_NE))
  found = kmeans.fit(sample_NE, num_clusters=num_clusters, **fit)
  return partitions.clusters(found.center_LE)


def _silhouette(plan: Plan, sample_NE: np.ndarray, **fit: Any):
  from cmtree_jax.embed import regroup

  best = regroup.choose_num_clusters(sample_NE, plan.candidates, **fit)
  return _kmeans(plan._replace(num_clusters=best), sample_NE, **fit)


def _ward(plan: Plan, sample_NE: np.ndarray, **fit: Any):
  from cmtree_jax.embed import regroup

  fine = min(max(plan.fine_clusters, plan.num_clusters), len(sample_NE))
  groups = min(plan.num_clusters, fine)
  merged = regroup.fit(sample_NE, num_fine=fine, num_groups=groups, **fit)
  size = int(merged.group_F.max()) + 1
  return partitions.ClusterPartition(
    merged.center_FE, np.zeros(size, np.float32), merged.group_F
  )


def _gem(plan: Plan, sample_NE: np.ndarray, **fit: Any):
  from cmtree_jax.embed import gem

  num_clusters = min(plan.num_clusters, len(sample_NE))
  found = gem.fit(
    sample_NE, num_clusters=num_clusters, balance=plan.balance, **fit
  )
  return partitions.clusters(found.center_LE)._replace(offset_F=found.offset_L)


def _hermes(plan: Plan, sample_NE: np.ndarray, **fit: Any):
  from cmtree_jax.embed import codes

  count = min(plan.codes, len(sample_NE))
  found = codes.fit(sample_NE, codes=count, stages=STAGES, **fit)
  found = found._replace(book_SKE=found.book_SKE[: plan.prefix])
  log_w_L = np.zeros(count**plan.prefix, np.float32)
  return partitions.CodePartition(found, log_w_L)


_CLUSTERS: dict[str, Callable[..., partitions.Partition]] = {
  "gem": _gem,
  "hermes": _hermes,
  "kmeans": _kmeans,
  "silhouette": _silhouette,
  "ward": _ward,
}


def log_weights_of_sources(folder: Path) -> dict[str, float]:
  """Label -> log-weight in the recipe of a workdir.

  Raises:
    UserError: there is no recipe, or its leaves are not labelled sources.
  """
  leaves = recipes.load(folder).partition
  if not isinstance(leaves, partitions.ClusterPartition) or not leaves.sources:
    raise UserError(
      f"The recipe of {folder} weighs no labelled sources, so its domains cannot "
      "be found again; it must be made with config.partition.kind = sources."
    )
  return dict(zip(leaves.sources, leaves.log_w_L.tolist(), strict=True))


def check_earlier(folder: Path, plan: Plan) -> None:
  """Refuses an earlier recipe whose domains are not found again in those of a plan.

  Raises:
    UserError: there is no recipe, or its leaves are neither labelled sources nor the
      plan's own, `tree:FOLDER`.
  """
  address = plan.kind.partition(":")[2]
  if address and mirror.reading(address).resolve() == folder.resolve():
    _leaves(folder)
  else:
    log_weights_of_sources(folder)


def earlier_log_w(folder: Path, domains: Domains) -> np.ndarray:
  """Log-weights of the domains in an earlier recipe; NaN for a new one.

  The domains are its leaves, or sources that are known by their labels.

  Raises:
    UserError: these domains are not its leaves, and they or those of the recipe have
      no labels, or none is in both.
  """
  partition, leaves = domains.partition, recipes.load(folder).partition
  if leaves is not None and are_alike(leaves, partition):
    return np.asarray(leaves.log_w_L, np.float64)
  log_w_of = log_weights_of_sources(folder)
  is_labelled = isinstance(partition, partitions.ClusterPartition)
  labels = partition.sources if is_labelled else ()
  if not set(labels) & set(log_w_of):
    raise UserError(
      f"None of the domains here ({', '.join(labels) or 'without labels'}) is in "
      f"the recipe of {folder} ({', '.join(log_w_of)}); with config.partition.kind "
      "= sources those with equal labels are the same."
    )
  return np.array([log_w_of.get(label, np.nan) for label in labels])


def are_alike(one: partitions.Partition, other: partitions.Partition) -> bool:
  """Whether two partitions put every document into the same leaf."""
  return _places(one) == _places(other)


def _places(partition: partitions.Partition) -> dict[str, Any]:
  """What says where a partition puts documents, without weights."""
  told = partition.to_json()
  if "levels" in told:
    told["levels"] = [
      {x: level[x] for x in level if x != "score_MCP"}
      for level in told["levels"]
    ]
  return {x: told[x] for x in told if x not in ("log_w_leaf", "hard", "score")}


def _placed(
  partition: partitions.Partition, pool: prepare.DocumentSet
) -> Domains:
  """The domains of a partition that reads embeddings."""
  size = len(partition.log_w_L)
  domain_N = np.concatenate(
    [
      np.argmax(partition.log_p_leaf(embedding_BE), axis=1).astype(np.int32)
      for embedding_BE in _embeddings(pool)
    ]
  )
  mass_K = np.bincount(domain_N, pool.tokens.mass_N, minlength=size)
  return Domains(partition, domain_N, mass_K)


def _sources(data: prepare.Prepared) -> Domains:
  """The labels; a document without one is in the source nearest to it in mean."""
  label_N, labels = data.documents.labels("source")
  names = tuple(name for name in labels if name)
  if len(names) < 2:
    raise UserError(
      "config.partition.kind = sources (and the method uniform_sources) needs "
      f"documents of at least 2 labelled sources, came {', '.join(names) or 'none'}. Set "
      "config.data.source_field, or choose another partition."
    )
  # Labels are in the order of the alphabet, so a blank one is the first.
  domain_N = label_N - np.int32(len(labels) - len(names))
  pool = data.pool
  center_KE = np.zeros((len(names), pool.embedding_NE.shape[1]))
  start = 0
  for embedding_BE in _embeddings(pool):
    own_B = domain_N[start : start + len(embedding_BE)]
    np.add.at(center_KE, own_B[own_B >= 0], embedding_BE[own_B >= 0])
    start += len(embedding_BE)
  length_K = np.linalg.norm(center_KE, axis=1, keepdims=True)
  center_KE = (center_KE / np.maximum(length_K, 1e-12)).astype(np.float32)
  blank_N = np.flatnonzero(domain_N < 0)
  for rows in packing.chunks(len(blank_N), CHUNK):
    some_NE = np.asarray(pool.embedding_NE[blank_N[rows]])
    domain_N[blank_N[rows]] = kmeans.assign(some_NE, center_KE)
  mass_K = np.bincount(domain_N, pool.tokens.mass_N, minlength=len(names))
  partition = partitions.clusters(center_KE)._replace(sources=names)
  return Domains(partition, domain_N, mass_K)


def _tree(folder: Path, data: prepare.Prepared) -> partitions.Partition:
  """The leaves of a recipe, with weight one."""
  leaves = _leaves(folder)
  file = prepare.EMBEDDER_FILE
  if (folder / file).read_bytes() != (data.folder / file).read_bytes():
    raise UserError(
      f"The recipe of {folder} reads another embedding than this corpus has; "
      "config.partition.kind = tree wants one that was learned on this corpus "
      "with this config.embedding."
    )
  if isinstance(leaves, partitions.TreePartition):
    leaves = leaves._replace(hard=True)
  return leaves.with_weights(np.zeros(len(leaves.log_w_L), np.float32))


def _leaves(folder: Path) -> partitions.Partition:
  leaves = recipes.load(folder).partition
  if leaves is None:
    raise UserError(
      f"The recipe of {folder} weighs single documents and has no leaves; "
      "config.partition.kind = tree wants one that has."
    )
  return leaves


def _embeddings(documents: prepare.DocumentSet) -> Iterator[np.ndarray]:
  for rows in packing.chunks(len(documents), CHUNK):
    yield np.asarray(documents.embedding_NE[rows])
