r"""Cuts of nodes in two: where they would lie, and what they tell of values.

The best cut of a node is the direction that explains the values of its documents,

.. math:: u = (S_n + \lambda I)^{-1} \mathrm{Cov}_n(z, v), \qquad
          \lambda = \mathrm{tr}(S_n) / P

one step of partial least squares, shrunk by ridge. Its children are the two sides of
the weighted median along u, and their prototypes the means there, as far as these lie
along u.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cmtree_jax import shapes
from cmtree_jax.tree import model


class Grounds(NamedTuple):
  """Valued documents, of which a part is held out from what is fitted."""

  features_RE: shapes.Array  # of `fit`, as levels see them (`model.encoded`)
  value_R: shapes.Array  # for all targets together, per unit of weight
  # Natural mass over proposal, of the documents that a cut is fitted to, and of those
  # that are held out and judge it; zero elsewhere.
  fit_R: shapes.Array
  judge_R: shapes.Array
  proxy_R: shapes.Array  # int, which proxy says so
  proxies_P: shapes.Array  # their numbers


class Contrast(NamedTuple):
  """What a cut of each of M nodes tells of the values of documents."""

  mass_M: shapes.Array  # of the node, its share of all documents
  share_M: shapes.Array  # of the node that is in the second child
  more_M: shapes.Array  # mean value in the second less that in the first
  between_M: shapes.Array  # variance of values that lies between the children
  # What that would be in the mean if the children did not differ.
  noise_M: shapes.Array
  size_M: shapes.Array  # documents of the node, in effect

  @property
  def penalty_M(self) -> shapes.Array:
    r"""What a cut has to explain: :math:`(1 + d) \log N \cdot \mathrm{noise}`.

    The Bayesian information criterion's, with d = 1: the direction was fitted to
    other documents, and what those that are held out pay for is one difference.
    """
    return 2 * jnp.log(jnp.maximum(self.size_M, 2.0)) * self.noise_M


def fit(
  levels: Sequence[tuple[model.Level, shapes.Array]], grounds: Grounds
) -> list[shapes.FloatMCP]:
  """Prototypes [M, 2, P] of the best cut of each node of some levels.

  Args:
    levels: each with the probability [R, M] of documents to be in each of its nodes.
      All have the same P; their projections are kept.
    grounds: what the cuts are fitted to.
  """
  seen = [
    _Projected(
      model.project(level, grounds.features_RE),
      _shares(grounds.fit_R[:, None] * inside_RM),
    )
    for level, inside_RM in levels
  ]
  moments = [_moments(one, grounds.value_R) for one in seen]
  # All levels together: a solver and a sort are compiled once.
  scatter_MPQ, covariance_MP = map(jnp.concatenate, zip(*moments, strict=True))
  dim = covariance_MP.shape[1]
  ridge_M = jnp.trace(scatter_MPQ, axis1=1, axis2=2) / dim + 1e-6
  u_MP = jnp.linalg.solve(
    scatter_MPQ + ridge_M[:, None, None] * jnp.eye(dim),
    covariance_MP[:, :, None],
  )[:, :, 0]
  ends = np.cumsum([one.weight_RM.shape[1] for one in seen])[:-1]
  # Their scale means nothing; where values are all alike there is no direction.
  u_MP = model.normalize(u_MP)
  u_of = jnp.split(u_MP, ends)
  along = [one.z_RP @ u.T for one, u in zip(seen, u_of, strict=True)]
  weight_RM = jnp.concatenate([one.weight_RM for one in seen], axis=1)
  median_M = _median(jnp.concatenate(along, axis=1), weight_RM)
  found = zip(seen, u_of, along, jnp.split(median_M, ends), strict=True)
  return [_prototypes(*one) for one in found]


class _Projected(NamedTuple):
  """Documents as a level sees them."""

  z_RP: shapes.Array
  weight_RM: shapes.Array  # in each node; sums to one


def _moments(seen: _Projected, value_R):
  """(scatter of z in each node [M, P, P], its covariance with values [M, P])."""
  z_RP, weight_RM = seen
  mean_MP = weight_RM.T @ z_RP
  value_RM = value_R[:, None] - value_R @ weight_RM
  # One node after the other: all of them would take M times the features' memory.
  square_MPQ = jax.lax.map(
    lambda weight_R: (weight_R[:, None] * z_RP).T @ z_RP, weight_RM.T
  )
  return (
    square_MPQ - mean_MP[:, :, None] * mean_MP[:, None, :],
    (weight_RM * value_RM).T @ z_RP,
  )


def _median(x_RM, weight_RM):
  """Of each column, where half of its weight is passed."""
  x_RM, weight_RM = jax.lax.sort((x_RM, weight_RM), dimension=0, num_keys=1)
  passed_RM = jnp.cumsum(weight_RM, axis=0)
  at_M = jnp.argmax(passed_RM >= 0.5 * passed_RM[-1], axis=0)
  return jnp.take_along_axis(x_RM, at_M[None], axis=0)[0]


def _prototypes(seen: _Projected, u_MP, along_RM, median_M) -> shapes.FloatMCP:
  """The node's mean, moved along u to the mean of either side.

  In other directions the sides differ by chance, and where documents are spread more
  than along u that would decide the cut.
  """
  mean_MP = seen.weight_RM.T @ seen.z_RP
  along_M = jnp.sum(seen.weight_RM * along_RM, axis=0)
  above_RM = along_RM > median_M
  moved_MC = jnp.stack(
    [
      jnp.sum(_shares(seen.weight_RM * side_RM) * along_RM, axis=0) - along_M
      for side_RM in (~above_RM, above_RM)
    ],
    axis=1,
  )
  return model.normalize(
    mean_MP[:, None] + moved_MC[:, :, None] * u_MP[:, None]
  )


def second_child(level: model.Level, seen_RE: shapes.Array) -> shapes.Array:
  """Probability [R, M] of the second child in every node, split or not."""
  logits_RMC = model.child_logits(level._replace(open_M=None), seen_RE)
  return jax.nn.softmax(logits_RMC, axis=-1)[:, :, 1]


def contrast(
  inside_RM: shapes.Array,
  second_RM: shapes.Array,
  weight_R: shapes.Array,
  grounds: Grounds,
) -> Contrast:
  r"""How the two children of nodes differ in value.

  The error of the difference is that of as many independent documents, or that which
  the proxies show by disagreeing, whichever is larger: the noise of one proxy is
  smooth over documents, and no number of them averages it out.

  Args:
    inside_RM: probability of documents to be in each node.
    second_RM: and there in its second child.
    weight_R: what documents count for.
    grounds: their values.
  """
  inside_RM = weight_R[:, None] * inside_RM
  mass_M = jnp.sum(inside_RM, axis=0)
  share_M = jnp.sum(_shares(inside_RM) * second_RM, axis=0)
  more_M = _difference(inside_RM, second_RM, grounds.value_R)
  mean = mean_value(inside_RM, grounds)
  spread_M = share_M * (1 - share_M)
  own_RP = grounds.proxy_R[:, None] == grounds.proxies_P
  more_PM = jax.vmap(
    lambda own_R: _difference(
      own_R[:, None] * inside_RM, second_RM, grounds.value_R
    )
  )(own_RP.T)
  error_M = _error(more_PM, own_RP.T @ inside_RM)
  return Contrast(
    mass_M=mass_M / jnp.maximum(jnp.sum(weight_R), 1e-30),
    share_M=share_M,
    more_M=more_M,
    between_M=spread_M * more_M**2,
    noise_M=jnp.maximum(mean.variance_M / mean.size_M, spread_M * error_M**2),
    size_M=mean.size_M,
  )


class Mean(NamedTuple):
  """The values of documents in each of M nodes."""

  mean_M: shapes.Array
  variance_M: shapes.Array  # of documents
  size_M: shapes.Array  # documents, in effect; at least one
  error_M: shapes.Array  # of the mean


def mean_value(inside_RM: shapes.Array, grounds: Grounds) -> Mean:
  """Means of values in nodes, with an error as in `contrast`.

  Args:
    inside_RM: what each document counts for in each node.
    grounds: their values.
  """
  share_RM = _shares(inside_RM)
  mean_M = grounds.value_R @ share_RM
  centered_RM = grounds.value_R[:, None] - mean_M
  variance_M = jnp.sum(share_RM * centered_RM**2, axis=0)
  size_M = 1 / jnp.maximum(jnp.sum(share_RM**2, axis=0), 1e-12)
  # No documents are not many.
  size_M = jnp.where(jnp.sum(inside_RM, axis=0) > 1e-9, size_M, 1.0)
  own_RP = grounds.proxy_R[:, None] == grounds.proxies_P
  mass_PM = own_RP.T @ inside_RM
  mean_PM = (own_RP * grounds.value_R[:, None]).T @ inside_RM
  error_M = _error(mean_PM / jnp.maximum(mass_PM, 1e-12), mass_PM)
  by_documents_M = jnp.sqrt(variance_M / size_M)
  return Mean(mean_M, variance_M, size_M, jnp.maximum(by_documents_M, error_M))


def _shares(weight_RM):
  """Columns that sum to one; zeros where there is nothing."""
  return weight_RM / jnp.maximum(jnp.sum(weight_RM, axis=0), 1e-12)


def _difference(inside_RM, second_RM, value_R):
  first, second = inside_RM * (1 - second_RM), inside_RM * second_RM
  return value_R @ _shares(second) - value_R @ _shares(first)


def _error(found_PM, mass_PM):
  """Standard error of the mean over proxies; 0 of fewer than two."""
  there_PM = mass_PM > 1e-9
  number_M = jnp.sum(there_PM, axis=0)
  mean_M = jnp.sum(there_PM * found_PM, axis=0) / jnp.maximum(number_M, 1)
  square_M = jnp.sum(there_PM * (found_PM - mean_M) ** 2, axis=0)
  several_M = number_M > 1
  return jnp.sqrt(
    jnp.where(several_M, square_M, 0.0)
    / jnp.where(several_M, number_M * (number_M - 1), 1)
  )
