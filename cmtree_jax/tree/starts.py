"""Where a tree starts: grown from the root down, tilted by similarity to the targets.

The start is CRISP on the tree's own leaves, so what is learned after it is what the
joint learning is worth. How a level's angle and a node's prototypes are found is an
argument: principal directions and k-means, or those of `random_start`.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cmtree_jax import checks, shapes
from cmtree_jax.tree import mixture, model, random_start, views
from cmtree_jax.tree.mixture import Sample

KINDS = ("kmeans", "random", "ratio")
ANGLES = ("principal", "views")
# (points [N, P], masses [N], number of clusters) -> centers [C, P]
Cluster = Callable[[np.ndarray, np.ndarray, int], np.ndarray]
# (features [N, E], masses [N], node of each [N], levels above) -> angle [P, E]
Angle = Callable[[np.ndarray, np.ndarray, np.ndarray, model.Theta], np.ndarray]


@dataclasses.dataclass(frozen=True)
class Start:
  """What the first partition is made of.

  Args:
    kind: "kmeans": every level's leading principal directions, and k-means in
      them, with tilts from similarity; "ratio": from there, all that the tree's
      mode lets move is fitted to the density ratios of targets and corpus, as
      long as validation texts grow likelier; "random": random projections, and
      random documents of the corpus as prototypes, with tilts from similarity.
    angles: "principal": the principal directions are those of all features;
      "views": each level begins in one view of documents, the root in the first of
      `embedding.views`, and so on around.
    angle_dim: P of every level. Levels differ in angle only below the embedding's
      dimension, which an oblivious tree needs.
    kappa: sharpness of every level, at most 1e4: beyond that a cut has no
      gradient in float32.
    target_share: of the documents that k-means sees.
    max_weight: of a document by the density ratio of one target, if the budget
      does not ask for less; the effective sample size at the start is then at
      least its inverse. Where leaves score, the budget's cap is that of the sum over
      targets, and not of each.
    steps: Adam steps of the density ratio, at most.
  Raises:
    ValueError: an unknown kind, or a number out of its range.
  """

  kind: str = "ratio"
  angles: str = "principal"
  angle_dim: int = 64
  kappa: float = 64.0
  target_share: float = 0.5
  max_weight: float = 33.0
  steps: int = 120

  def __post_init__(self):
    checks.one_of("kind", self.kind, KINDS)
    checks.one_of("angles", self.angles, ANGLES)
    if self.kind == "random" and self.angles != "principal":
      raise ValueError(
        f"angles = {self.angles!r} is for a start that looks for angles; those of "
        "kind 'random' are random. Leave one of the two as it is."
      )
    checks.at_least(1, angle_dim=self.angle_dim)
    checks.at_least(0, steps=self.steps)
    checks.finite(kappa=self.kappa, max_weight=self.max_weight)
    checks.above_zero(kappa=self.kappa)
    if self.kappa > _SHARPEST:
      raise ValueError(f"kappa = {self.kappa} must be at most {_SHARPEST:g}.")
    checks.share(target_share=self.target_share)
    if self.max_weight < 1:
      raise ValueError(
        f"max_weight {self.max_weight} must be at least 1, the mean of all weights."
      )


_SHARPEST = 1e4  # of kappa


class Form(NamedTuple):
  """What a tree looks like, whatever it is made of."""

  branching: tuple[int, ...]  # children per node, from the root down
  oblivious: bool = False  # one set of prototypes for all nodes of a level
  shared: bool = False  # all levels have the root's angle


def make(
  key: shapes.Key,
  corpus: Sample,
  targets: Sequence[Sample],
  *,
  form: Form,
  start: Start,
  kmeans: Callable[..., np.ndarray],
  masks: views.Masks,
) -> model.Theta:
  """A tree with tilts of similarity to every target, from k-means or by chance.

  k-means sees corpus and targets together. Random prototypes are documents of the
  corpus: the targets then show in the tilts alone. The density ratio goes on from
  k-means, see `density_ratio.fit`; `merged` makes one tree of it.

  Args:
    key: of chance.
    corpus: a sample of it.
    targets: the documents of each.
    form: of the tree.
    start: what it is made of.
    kmeans: a `Cluster` that takes a `seed`, too.
    masks: of the features' views; none where there is one.
  Returns:
    A tree whose levels have tilts [T, M, C].
  """
  seed = int(jax.random.randint(key, (), 0, 2**31 - 1))
  angle_dim = min(start.angle_dim, corpus.features.shape[1])
  if start.kind == "random":
    rng = np.random.default_rng(seed)
    seen = corpus._replace(mass_N=np.asarray(corpus.mass_N))
    angle = functools.partial(
      random_start.random_angle, angle_dim=angle_dim, rng=rng
    )
    cluster = functools.partial(random_start.random_documents, rng=rng)
  else:
    seen = _together(corpus, targets, start.target_share)
    angle = functools.partial(principal_angle, angle_dim=angle_dim)
    if start.angles == "views" and masks:
      angle = functools.partial(view_angle, angle_dim=angle_dim, masks=masks)
    cluster = functools.partial(kmeans, seed=seed)
  theta = grow(seen, form, kappa=start.kappa, angle=angle, cluster=cluster)
  return mixture.stacked(
    [with_similarity_tilts(theta, corpus, target) for target in targets]
  )


def merged(
  theta: model.Theta, corpus: Sample, *, max_weight: float
) -> model.Theta:
  r"""One tree of one with tilts for every target: their weights' mean.

  .. math:: w_L = \frac{1}{T} \sum_t \min(R, c_t e^{m_{tL}})

  The weights of every target have mean one, so that each has its share of the
  tokens whatever the cap takes from its leaves. Where leaves score, a document is
  capped when all targets are together: the mean is then that of
  :math:`c_t e^{m_{tL}}`.

  Args:
    theta: its levels have tilts [T, M, C].
    corpus: a sample of it.
    max_weight: R, of the weights of one target.
  """
  corpus_L = _mass(theta, corpus)
  if model.scores(theta):
    placed_N = model.place(theta, jnp.asarray(corpus.features, jnp.float32))
    mass_N = jnp.asarray(corpus.mass_N)
    log_w_TL = mixture.each_normalized(
      theta, placed_N, mass_N / jnp.sum(mass_N), max_weight=max_weight
    )
  else:
    log_w_TL = mixture.each_log_w(
      theta, jnp.log(corpus_L), max_weight=max_weight
    )
  mixture_L = corpus_L * jnp.mean(jnp.exp(log_w_TL), axis=0)
  return _with_tilts(mixture.unstacked(theta)[0], mixture_L, corpus_L)


def grow(
  documents: Sample,
  form: Form,
  *,
  kappa: float,
  angle: Angle,
  cluster: Cluster,
) -> model.Theta:
  """A tree of cluster centers with zero tilt, grown from the root down.

  Each level projects by an angle of its own and clusters every node's documents
  there.

  Args:
    documents: what is divided.
    form: of the tree.
    kappa: sharpness of every level.
    angle: finds a level's projection.
    cluster: finds a node's prototypes.
  """
  sample_NE, mass_N = documents
  theta: list[model.Level] = []
  node_N = np.zeros(len(sample_NE), np.int64)
  nodes = 1
  for children in form.branching:
    if form.shared and theta:
      angle_PE = np.asarray(theta[0].angle_PE)
    else:
      angle_PE = angle(sample_NE, mass_N, node_N, tuple(theta))
    z_NP = sample_NE @ angle_PE.T
    z_NP /= np.linalg.norm(z_NP, axis=1, keepdims=True) + 1e-12
    # An oblivious level has one set of prototypes, for documents of all nodes.
    group_N, groups = (0 * node_N, 1) if form.oblivious else (node_N, nodes)
    prototype_MCP = np.stack(
      [
        cluster(z_NP[group_N == group], mass_N[group_N == group], children)
        for group in range(groups)
      ]
    )
    theta.append(
      model.Level(
        jnp.asarray(angle_PE, jnp.float32),
        jnp.asarray(prototype_MCP, jnp.float32),
        jnp.log(jnp.float32(kappa)),
        jnp.zeros((nodes, children)),
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


def view_angle(
  sample_NE: np.ndarray,
  mass_N: np.ndarray,
  node_N: np.ndarray,
  above: model.Theta,
  *,
  angle_dim: int,
  masks: views.Masks,
) -> np.ndarray:
  """The same in one view: its columns alone, of which it may have fewer than P.

  Args:
    sample_NE: document features.
    mass_N: their masses.
    node_N: the node of each.
    above: the levels so far; their number says whose turn it is.
    angle_dim: P, at most.
    masks: of the views, in the order of their turns.
  """
  mask_E = np.asarray(list(masks.values())[len(above) % len(masks)])
  dim = min(angle_dim, int(mask_E.sum()))
  seen_NE = sample_NE * mask_E
  return principal_angle(seen_NE, mass_N, node_N, above, angle_dim=dim)


def with_similarity_tilts(
  theta: model.Theta,
  corpus: Sample,
  target: Sample,
  *,
  smoothing: float = 1e-3,
) -> model.Theta:
  r"""Tilts at the log density ratio P(leaf|target) / P(leaf|corpus).

  Args:
    theta: the partition; its tilts are replaced.
    corpus: a sample of it.
    target: its documents.
    smoothing: share of the corpus mixed into the target.
  """
  corpus_L = _mass(theta, corpus)
  target_L = _mass(theta, target)
  target_L = (1 - smoothing) * target_L + smoothing * corpus_L
  return _with_tilts(theta, target_L, corpus_L)


def _with_tilts(theta, mixture_L, corpus_L):
  """Every node's tilt is that of its mass; a leaf's sum is then its own log ratio."""
  levels, parent = [], jnp.zeros(1)
  leaves = corpus_L.shape[0]
  nodes = 1
  for level in theta:
    nodes *= level.tilt_MC.shape[1]
    ratio = jnp.log(
      jnp.sum(mixture_L.reshape(nodes, leaves // nodes), axis=1)
      / jnp.sum(corpus_L.reshape(nodes, leaves // nodes), axis=1)
    )
    tilt_MC = ratio.reshape(level.tilt_MC.shape) - parent[:, None]
    levels.append(level._replace(tilt_MC=tilt_MC))
    parent = ratio
  return tuple(levels)


def _mass(theta, documents):
  """P(leaf) of documents, whose masses have any scale."""
  log_p_NL = model.log_p_leaf(
    theta, jnp.asarray(documents.features, jnp.float32)
  )
  mass_N = jnp.asarray(documents.mass_N)
  mass_L = jnp.exp(mixture.leaf_mass(log_p_NL, mass_N / jnp.sum(mass_N)))
  return mass_L + 1e-9


def _together(
  corpus: Sample, targets: Sequence[Sample], target_share: float
) -> Sample:
  """Corpus and targets, with a share of the mass for them, all targets alike."""
  shares = [
    np.asarray(one.mass_N) * (target_share / len(targets) / one.mass_N.sum())
    for one in targets
  ]
  return Sample(
    np.concatenate([corpus.features, *(one.features for one in targets)]),
    np.concatenate([(1 - target_share) * np.asarray(corpus.mass_N), *shares]),
  )
