"""Where `cmtree` starts: from k-means or chance, then by the density ratio."""

import functools
from typing import NamedTuple

import jax
import numpy as np
import optax

from cmtree_jax import shapes
from cmtree_jax.embed import kmeans
from cmtree_jax.methods.base import Facts
from cmtree_jax.tree import density_ratio, model, random_start, warm_start


class Plan(NamedTuple):
  """What the tree of the start is like; options of `cmtree.make`."""

  kind: str  # "ratio", "kmeans" or "random"
  branching: tuple[int, ...]
  angle_dim: int  # P, cut to E
  kappa: float
  oblivious: bool
  shared: bool  # all levels have the root's angle
  target_share: float  # of the documents that k-means sees
  optimizer: optax.GradientTransformation  # of the density ratio, as the next
  max_weight: float
  num_steps: int  # at most
  batch: int


def make(key: shapes.Key, facts: Facts, plan: Plan) -> model.Theta:
  """The tree of the start, tilted by similarity to the targets.

  k-means sees pool and targets together. Random prototypes are documents of the
  pool: the targets then show in the tilts alone. The density ratio goes on from
  k-means.
  """
  seed = int(jax.random.randint(key, (), 0, 2**31 - 1))
  angle_dim = min(plan.angle_dim, facts.sample_NE.shape[1])
  if plan.kind == "random":
    rng = np.random.default_rng(seed)
    features, mass = facts.sample_NE, np.asarray(facts.sample_mass_N)
    angle = functools.partial(
      random_start.random_angle, angle_dim=angle_dim, rng=rng
    )
    cluster = functools.partial(random_start.random_documents, rng=rng)
  else:
    features, mass = _with_targets(facts, plan.target_share)
    angle = functools.partial(warm_start.principal_angle, angle_dim=angle_dim)
    cluster = functools.partial(_kmeans, seed=seed)
  theta = warm_start.fit(
    features,
    mass,
    branching=plan.branching,
    kappa=plan.kappa,
    oblivious=plan.oblivious,
    angle=_same_as_root(angle) if plan.shared else angle,
    cluster=cluster,
  )
  corpus = facts.sample_NE, facts.sample_mass_N
  target = facts.target_NE, facts.target_mass_N
  theta = warm_start.with_similarity_tilts(theta, *corpus, *target)
  if plan.kind != "ratio":
    return theta
  return density_ratio.fit(
    jax.random.fold_in(key, 1),
    theta,
    corpus,
    target,
    (facts.held_out_NE, facts.held_out_mass_N),
    optimizer=plan.optimizer,
    max_weight=min(plan.max_weight, facts.max_weight),
    num_steps=plan.num_steps,
    batch=plan.batch,
  )


def _with_targets(facts: Facts, target_share: float):
  """(features, masses) of pool and targets, with a share of the mass for each."""
  features = np.concatenate([facts.sample_NE, facts.target_NE])
  mass = np.concatenate(
    [
      (1 - target_share) * np.asarray(facts.sample_mass_N),
      target_share * np.asarray(facts.target_mass_N),
    ]
  )
  return features, mass


def _kmeans(points, point_mass, count, *, seed):
  fitted = kmeans.fit(points, num_clusters=count, seed=seed, mass_N=point_mass)
  return fitted.center_LE


def _same_as_root(angle: warm_start.Angle) -> warm_start.Angle:
  """The root's angle for every level."""

  def found(sample_NE, mass_N, node_N, above):
    if above:
      return np.asarray(above[0].angle_PE)
    return angle(sample_NE, mass_N, node_N, above)

  return found
