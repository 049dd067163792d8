"""Leaves with weights: of a tree, of clusters or of labelled sources."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import jax.numpy as jnp
import numpy as np

from cmtree_jax import shapes
from cmtree_jax.data.draw import packing
from cmtree_jax.embed import codes as quantizers
from cmtree_jax.embed import kmeans
from cmtree_jax.methods.base import (
  DomainWeights,
  EqualWeights,
  Method,
  Weights,
)
from cmtree_jax.methods.cmtree import TreeWeights
from cmtree_jax.tree import mixture, model, room


class Partition(Protocol):
  """Leaves and their weights, whichever method they come from."""

  @property
  def branching(self) -> tuple[int, ...]:
    """Children per node of each level."""
    ...

  @property
  def log_w_L(self) -> np.ndarray:
    """Log-weight of every leaf: of its documents, or the mean of theirs."""
    ...

  def log_p_leaf(
    self, embedding_NE: np.ndarray, source_N: Sequence[str] | None = None
  ) -> np.ndarray:
    """Log-probability of every leaf for every document.

    Args:
      embedding_NE: document features.
      source_N: labels, read where the leaves are labelled sources.
    """
    ...

  def with_weights(self, log_w_L: np.ndarray) -> "Partition":
    """The same leaves with other weights."""
    ...

  def to_json(self) -> dict[str, Any]:
    """What `partition_from_json` reads back."""
    ...


class TreePartition(NamedTuple):
  r"""The leaves of a cluster-mixture tree.

  Where they score, the weight of a document is

  .. math:: w(h) = \min\big(R,\, c\, e^{\beta f(h)}\big)

  with f of `tree.mixture`. A leaf's weight is then the mean weight of its documents,
  each counted by its probability of being there.
  """

  weights: TreeWeights
  hard: bool = False  # a document belongs to its most probable leaf alone
  # The next three are read where leaves score.
  power: float = 1.0  # beta
  log_scale: float = 0.0  # log c
  inside_L: np.ndarray | None = None  # log of the mean weight; see `measured`

  @property
  def scores(self) -> bool:
    """Whether the leaves score: then a document's weight is its own."""
    return model.scores(self.weights.theta)

  @property
  def branching(self) -> tuple[int, ...]:
    """Children per node of each level."""
    return tuple(level.tilt_MC.shape[1] for level in self.weights.theta)

  @property
  def log_w_L(self) -> np.ndarray:
    """Log-weight of every leaf, where it scores the mean inside."""
    if not self.scores:
      return np.asarray(self.weights.log_w_L)
    assert self.inside_L is not None
    return self.inside_L

  def log_p_leaf(
    self, embedding_NE: np.ndarray, source_N: Sequence[str] | None = None
  ) -> np.ndarray:
    """Leaves without noise; soft unless `hard`."""
    del source_N
    log_p_NL = np.asarray(self.weights.log_p_leaf(jnp.asarray(embedding_NE)))
    if not self.hard:
      return log_p_NL
    return _one_leaf(np.argmax(log_p_NL, axis=1), log_p_NL.shape[1])

  def with_weights(self, log_w_L: np.ndarray) -> "TreePartition":
    """The same tree with other leaf weights, and leaves that do not score."""
    *above, last = self.weights.theta
    theta = (*above, last._replace(score_MCP=None))
    return TreePartition(TreeWeights(theta, jnp.asarray(log_w_L)), self.hard)

  def to_json(self) -> dict[str, Any]:
    """All parameters as nested lists of numbers."""
    told = {
      "kind": "tree",
      "hard": self.hard,
      "log_w_leaf": self.log_w_L.tolist(),
      "levels": [
        {
          k: np.asarray(v).tolist()
          for k, v in level._asdict().items()
          if v is not None and k != "encoder"
        }
        for level in self.weights.theta
      ],
    }
    if (encoder := self.weights.theta[0].encoder) is not None:
      told["encoder"] = {
        k: np.asarray(v).tolist() for k, v in encoder._asdict().items()
      }
    if self.scores:
      told["score"] = {
        "log_w_leaf": np.asarray(self.weights.log_w_L).tolist(),
        "max_weight": float(self.max_weight),
        "power": self.power,
        "log_scale": self.log_scale,
      }
    return told

  @property
  def max_weight(self) -> shapes.Scalar:
    """R, where leaves score."""
    assert self.weights.max_weight is not None
    return self.weights.max_weight

  def score(self, embedding_NE: np.ndarray, log_p_NL: np.ndarray) -> np.ndarray:
    """f of documents in their leaves, float64."""
    lean_NL = jnp.asarray(self.lean(embedding_NE))
    placed_N = model.Placed(jnp.asarray(log_p_NL), lean_NL)
    return np.asarray(mixture.score(placed_N, self.weights.log_w_L), np.float64)

  def log_w_of(self, f_N: np.ndarray) -> np.ndarray:
    """Log-weights of documents from their f."""
    log_c_N = self.log_scale + self.power * f_N
    return np.minimum(log_c_N, np.log(float(self.max_weight)))

  def lean(self, embedding_NE: np.ndarray) -> np.ndarray:
    """What every leaf's score says of documents [N, L]."""
    lean_NL = model.lean(self.weights.theta, jnp.asarray(embedding_NE))
    assert lean_NL is not None
    return np.asarray(lean_NL)


class ClusterPartition(NamedTuple):
  """Frozen parts: groups of clusters, or labelled sources.

  A document is in the part of its nearest center, unless its source is known and
  the parts are sources. With offsets nearness is a product of its direction with the
  center, and the center's offset.
  """

  center_FE: np.ndarray
  log_w_L: np.ndarray
  group_F: np.ndarray  # the part that each center belongs to
  sources: tuple[str, ...] = ()  # labels of the parts, where they are sources
  offset_F: np.ndarray | None = None

  @property
  def branching(self) -> tuple[int, ...]:
    """One level."""
    return (len(self.log_w_L),)

  def log_p_leaf(
    self, embedding_NE: np.ndarray, source_N: Sequence[str] | None = None
  ) -> np.ndarray:
    """0 for a document's own part, minus infinity for the others."""
    center_N = kmeans.assign(embedding_NE, self.center_FE, self.offset_F)
    part_N = self.group_F[center_N]
    if self.sources and source_N is not None:
      number = {source: i for i, source in enumerate(self.sources)}
      known = [number.get(source, -1) for source in source_N]
      part_N = np.where(np.array(known) < 0, part_N, known)
    return _one_leaf(part_N, len(self.log_w_L))

  def with_weights(self, log_w_L: np.ndarray) -> "ClusterPartition":
    """The same parts with other weights."""
    return self._replace(log_w_L=np.asarray(log_w_L))

  def to_json(self) -> dict[str, Any]:
    """Centers, their parts and weights as nested lists of numbers."""
    told = {
      "kind": "clusters",
      "log_w_leaf": np.asarray(self.log_w_L).tolist(),
      "centers": np.asarray(self.center_FE).tolist(),
      "groups": np.asarray(self.group_F).tolist(),
      "sources": list(self.sources),
    }
    if self.offset_F is not None:
      told["offsets"] = np.asarray(self.offset_F).tolist()
    return told


class CodePartition(NamedTuple):
  """The cells of documents that begin with the same codes, some of them empty."""

  codes: quantizers.Codes
  log_w_L: np.ndarray

  @property
  def branching(self) -> tuple[int, ...]:
    """A level for each code."""
    stages, size, _ = self.codes.book_SKE.shape
    return (size,) * stages

  def log_p_leaf(
    self, embedding_NE: np.ndarray, source_N: Sequence[str] | None = None
  ) -> np.ndarray:
    """0 for a document's own cell, minus infinity for the others."""
    del source_N
    code_NS = quantizers.encode(embedding_NE, self.codes)
    leaf_N = np.ravel_multi_index(tuple(code_NS.T), self.branching)
    return _one_leaf(leaf_N, len(self.log_w_L))

  def with_weights(self, log_w_L: np.ndarray) -> "CodePartition":
    """The same cells with other weights."""
    return self._replace(log_w_L=np.asarray(log_w_L))

  def to_json(self) -> dict[str, Any]:
    """Codebooks and weights as nested lists of numbers."""
    return {
      "kind": "codes",
      "log_w_leaf": np.asarray(self.log_w_L).tolist(),
      "shift": self.codes.shift_E.tolist(),
      "books": self.codes.book_SKE.tolist(),
    }


def _one_leaf(leaf_N: np.ndarray, num_leaves: int) -> np.ndarray:
  """Log-probabilities of documents that are in one leaf each."""
  hard_NL = np.full((len(leaf_N), num_leaves), -np.inf, np.float32)
  hard_NL[np.arange(len(leaf_N)), leaf_N] = 0.0
  return hard_NL


def clusters(center_LE: np.ndarray) -> ClusterPartition:
  """Every cluster a part of its own, of weight one."""
  size = len(center_LE)
  return ClusterPartition(
    center_LE, np.zeros(size, np.float32), np.arange(size)
  )


def partition_of(
  method: Method, weights: Weights, domains: Partition
) -> Partition | None:
  """The partition that a method's weights stand on; None for those of documents.

  Args:
    method: says what it weighs.
    weights: what its `finalize` returned.
    domains: the frozen partition, for weights of domains.
  """
  if method.weighs == "documents":
    return None
  if method.weighs == "tree":
    assert isinstance(weights, TreeWeights)
    return TreePartition(weights)
  if isinstance(weights, EqualWeights):
    return domains.with_weights(np.zeros(len(domains.log_w_L), np.float32))
  assert isinstance(weights, DomainWeights)
  return domains.with_weights(np.asarray(weights.log_w_K))


CHUNK = 65_536  # documents that are placed together; bounds memory


def measured(
  partition: Partition, embedding_NE: np.ndarray, mass_N: np.ndarray
) -> Partition:
  """The same partition; of leaves that score, with the mean weights inside.

  Args:
    partition: any.
    embedding_NE: features of the corpus; may lie on disk.
    mass_N: shares of its tokens.
  """
  if not (isinstance(partition, TreePartition) and partition.scores):
    return partition
  mass_L = np.zeros((2, len(partition.weights.log_w_L)))
  for rows in packing.chunks(len(mass_N), CHUNK):
    some_NE = np.asarray(embedding_NE[rows])
    log_p_NL = partition.log_p_leaf(some_NE)
    w_N = np.exp(document_log_w(partition, some_NE, log_p_NL))
    mass_L += np.stack([mass_N[rows], mass_N[rows] * w_N]) @ np.exp(log_p_NL)
  # An empty leaf has a weight although it takes no part.
  log_q_L, log_p_L = np.log(np.maximum(mass_L, 1e-30))
  return partition._replace(inside_L=(log_p_L - log_q_L).astype(np.float32))


def document_log_w(
  partition: Partition, embedding_NE: np.ndarray, log_p_NL: np.ndarray
) -> np.ndarray:
  """Log-weights of documents.

  Args:
    partition: leaves and weights.
    embedding_NE: document features.
    log_p_NL: where the documents fall, as `log_p_leaf` or otherwise.
  """
  if isinstance(partition, TreePartition) and partition.scores:
    return partition.log_w_of(partition.score(embedding_NE, log_p_NL))
  log_w_L = jnp.asarray(partition.log_w_L)
  return np.asarray(mixture.document_log_w(jnp.asarray(log_p_NL), log_w_L))


def partition_from_json(data: dict[str, Any]) -> Partition:
  """Reads back what `Partition.to_json` wrote."""
  log_w_L = np.array(data["log_w_leaf"], np.float32)
  if data["kind"] == "clusters":
    offsets = data.get("offsets")
    return ClusterPartition(
      np.array(data["centers"], np.float32),
      log_w_L,
      np.array(data["groups"], np.int64),
      tuple(data["sources"]),
      None if offsets is None else np.array(offsets, np.float32),
    )
  if data["kind"] == "codes":
    shift_E, book_SKE = (
      np.array(data[name], np.float32) for name in ("shift", "books")
    )
    return CodePartition(quantizers.Codes(shift_E, book_SKE), log_w_L)
  theta = tuple(model.Level(**_arrays(level)) for level in data["levels"])
  if "encoder" in data:
    encoder = model.Encoder(**_arrays(data["encoder"]))
    theta = (theta[0]._replace(encoder=encoder), *theta[1:])
  if "score" not in data:
    return TreePartition(TreeWeights(theta, jnp.asarray(log_w_L)), data["hard"])
  told = data["score"]
  weights = TreeWeights(
    theta,
    jnp.asarray(told["log_w_leaf"], jnp.float32),
    jnp.float32(told["max_weight"]),
  )
  return TreePartition(
    weights, data["hard"], told["power"], told["log_scale"], log_w_L
  )


def _arrays(told: dict[str, Any]) -> dict[str, shapes.Array]:
  return {name: jnp.asarray(x, jnp.float32) for name, x in told.items()}


class Applied(NamedTuple):
  """What a recipe says of documents."""

  weight_N: np.ndarray  # density against the natural distribution
  leaf_N: np.ndarray  # index of the most probable leaf
  path_N: list[str]  # the same leaf as child numbers from the root, "2.0"
  confidence_N: np.ndarray  # probability of that leaf


def leaf_paths(partition: Partition) -> tuple[str, ...]:
  """Child numbers from the root to every leaf, in their order.

  In a tree that grows a path ends at the last node that is split; of a place that no
  leaf has taken it goes on to the last level.
  """
  branching = partition.branching
  full = [room.path(i, branching) for i in range(math.prod(branching))]
  if isinstance(partition, TreePartition) and room.grows(
    partition.weights.theta
  ):
    grown = room.paths(partition.weights.theta)
    return tuple(a or b for a, b in zip(grown, full, strict=True))
  return tuple(full)


def apply_partition(
  partition: Partition,
  embedding_NE: np.ndarray,
  source_N: Sequence[str] | None = None,
  *,
  harden: bool = False,
) -> Applied:
  """Weights and paths of embedded documents.

  Args:
    partition: leaves and weights.
    embedding_NE: document features.
    source_N: labels, where they are known.
    harden: give each document the weight of its most probable leaf instead of
      the mean over its leaves.
  """
  log_p_NL = partition.log_p_leaf(embedding_NE, source_N)
  leaf_N = np.argmax(log_p_NL, axis=1)
  weighed_NL = log_p_NL
  if harden:
    weighed_NL = _one_leaf(leaf_N, log_p_NL.shape[1])
  weight_N = np.exp(document_log_w(partition, embedding_NE, weighed_NL))
  path_L = leaf_paths(partition)
  paths = [path_L[leaf] for leaf in leaf_N.tolist()]
  confidence_N = np.exp(log_p_NL[np.arange(len(leaf_N)), leaf_N])
  return Applied(weight_N, leaf_N, paths, confidence_N)
