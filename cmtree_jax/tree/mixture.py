r"""Mixture weights of a tree: tilts against the corpus mass, capped.

A leaf's weight is :math:`w_L = e^{m_L} / \sum_k q_k e^{m_k}` with :math:`m_L` the
sum of the tilts on its path and q the corpus mass of the leaves, so that zero tilt
is the natural mixture whatever the partition is. The mixture itself is
:math:`p_L = q_L w_L`, and a document's weight is the mean of its leaves' weights.

Where leaves score, every document has a weight of its own,

.. math:: w(h) = \min\big(R,\, c\, e^{f(h)}\big), \qquad
          f(h) = \log \sum_L p_L(h)\, e^{m_L + s_L \cdot z(h)}

with c such that the corpus mean is one: what the cap holds for is the document then,
and not the leaf.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from cmtree_jax import shapes
from cmtree_jax.tree.model import Placed, Theta


class Sample(NamedTuple):
  """Documents that stand for many."""

  features: shapes.Array  # [N, ...]: what tells where a document falls
  mass_N: shapes.Array  # what each counts for


def normalized(
  tilt_L: shapes.FloatL,
  placed: Placed,
  mass_N: shapes.FloatN,
  *,
  max_weight: float | shapes.Scalar,
) -> shapes.FloatL:
  """log_w_L with which the mean weight of a sample's documents is one (`log_w`).

  They are the weights of leaves, or, where these score, the tilts and the logarithm
  of c.

  Args:
    tilt_L: m, of the leaves.
    placed: where the sample's documents fall.
    mass_N: their masses, which sum to one.
    max_weight: R.
  """
  if placed.lean_BL is None:
    return weigh(tilt_L, placed.log_p_BL, mass_N, max_weight=max_weight)
  log_mass_N = jnp.log(jnp.maximum(mass_N, 1e-30))
  f_N = score(placed, tilt_L)
  return tilt_L + log_scale(f_N, log_mass_N, max_weight=max_weight)


def log_w(
  placed: Placed,
  log_w_L: shapes.FloatL,
  *,
  max_weight: float | shapes.Scalar | None,
) -> shapes.FloatB:
  """log_w_B of documents, from what `normalized` said of a sample.

  Args:
    placed: where they fall.
    log_w_L: of the leaves.
    max_weight: R, of documents. It is not read where leaves do not score: they are
      capped themselves.
  """
  if placed.lean_BL is None:
    return document_log_w(placed.log_p_BL, log_w_L)
  assert max_weight is not None
  return jnp.minimum(score(placed, log_w_L), jnp.log(max_weight))


def score(placed: Placed, tilt_L: shapes.FloatL) -> shapes.FloatB:
  """f_B: the log of the mean of a document's leaves, each with its own score."""
  assert placed.lean_BL is not None
  return document_log_w(placed.log_p_BL + placed.lean_BL, tilt_L)


def weigh(
  tilt_L: shapes.FloatL,
  log_p_NL: shapes.FloatNL,
  mass_N: shapes.FloatN,
  *,
  max_weight: float | shapes.Scalar,
) -> shapes.FloatL:
  """log_w_L of tilted leaves that do not score, against their masses in a sample.

  Args:
    tilt_L: m, of the leaves.
    log_p_NL: where the sample's documents fall.
    mass_N: their masses, which sum to one.
    max_weight: R.
  """
  log_q_L = leaf_mass(log_p_NL, mass_N)
  return leaf_log_w(tilt_L, log_q_L, max_weight=max_weight)


def leaf_tilt(theta: Theta) -> shapes.FloatL:
  """m_L: tilts summed along the path from the root."""
  tilt_L = jnp.zeros(1)
  for level in theta:
    tilt_MC = level.tilt_MC
    if level.open_M is not None:
      # Else a leaf high up would move by all of its path's tilts at once.
      tilt_MC = jnp.where(level.open_M[:, None] > 0, tilt_MC, 0.0)
    tilt_L = (tilt_L[:, None] + tilt_MC).reshape(-1)
  return tilt_L


def stacked(trees: Sequence[Theta]) -> Theta:
  """One tree with tilts [T, M, C] on every level, of trees that differ in tilts."""
  return tuple(
    levels[0]._replace(tilt_MC=jnp.stack([one.tilt_MC for one in levels]))
    for levels in zip(*trees, strict=True)
  )


def unstacked(theta: Theta) -> list[Theta]:
  """The trees that one was stacked of."""
  return [
    tuple(level._replace(tilt_MC=level.tilt_MC[target]) for level in theta)
    for target in range(len(theta[0].tilt_MC))
  ]


def draw(key: shapes.Key, mass_N: shapes.FloatN, size: int) -> shapes.Array:
  """Numbers of documents drawn by mass, with replacement: they then count alike.

  One draw in each of equal shares has less noise than independent ones, and on
  a CPU it takes a hundredth of the time of draws without replacement.
  """
  edges_N = jnp.cumsum(mass_N) / jnp.sum(mass_N)
  at = (jnp.arange(size) + jax.random.uniform(key, (size,))) / size
  # Rounding may leave the last edge below one.
  return jnp.minimum(jnp.searchsorted(edges_N, at), len(mass_N) - 1)


def leaf_mass(log_p_NL: shapes.FloatNL, mass_N: shapes.FloatN) -> shapes.FloatL:
  """log q_L: the share of the corpus in each leaf; `mass_N` sums to one."""
  return jax.nn.logsumexp(log_p_NL, axis=0, b=mass_N[:, None])


def leaf_log_w(
  tilt_L: shapes.FloatL,
  log_q_L: shapes.FloatL,
  *,
  max_weight: float | shapes.Scalar,
) -> shapes.FloatL:
  r"""Log-weights of the leaves, none above `max_weight`, with mean one.

  .. math:: w_L = \min(R, c\, e^{m_L}), \qquad \sum_L q_L w_L = 1

  The leaves with the largest tilts reach the cap first, so c follows from a sort.
  The gradient holds the set of capped leaves fixed.

  Args:
    tilt_L: m, any real numbers.
    log_q_L: corpus mass of the leaves.
    max_weight: R, at least one; larger than any weight means no cap.
  Returns:
    log_w_L.

  >>> log_q = jnp.log(jnp.array([0.5, 0.25, 0.25]))
  >>> tilt = jnp.log(jnp.array([1.0, 1.0, 6.0]))
  >>> jnp.exp(leaf_log_w(tilt, log_q, max_weight=2.0)).round(3).tolist()
  [0.667, 0.667, 2.0]
  """
  log_c = log_scale(tilt_L, log_q_L, max_weight=max_weight)
  return jnp.minimum(log_c + tilt_L, jnp.log(max_weight))


def log_scale(
  tilt_L: shapes.FloatL,
  log_q_L: shapes.FloatL,
  *,
  max_weight: float | shapes.Scalar,
) -> shapes.Scalar:
  """log c of `leaf_log_w`, for leaves or for whatever else has tilts and masses."""
  order_L = jnp.argsort(-tilt_L, stable=True)
  m_L, log_mass_L = tilt_L[order_L], (log_q_L + tilt_L)[order_L]
  q_L = jnp.exp(log_q_L)[order_L]
  # With the k top leaves at the cap, the others share what is left.
  left_L = 1.0 - max_weight * (jnp.cumsum(q_L) - q_L)
  log_rest_L = jax.lax.cumlogsumexp(log_mass_L, reverse=True)
  log_c_L = jnp.log(jnp.maximum(left_L, 1e-30)) - log_rest_L
  # The smallest k whose largest uncapped weight obeys the cap, up to rounding. If
  # rounding hides that any fits (little is left, as with a cap of one), take the
  # last k that leaves anything.
  fits_L = log_c_L + m_L <= jnp.log(max_weight) + 1e-6
  is_last_L = jnp.arange(left_L.shape[0]) == jnp.sum(left_L > 0) - 1
  return log_c_L[jnp.argmax(fits_L | is_last_L)]


def each_normalized(
  theta: Theta,
  placed: Placed,
  mass_N: shapes.FloatN,
  *,
  max_weight: float | shapes.Scalar,
) -> shapes.Array:
  """`normalized` of a tree with tilts for every target [T, L], each by itself."""
  if placed.lean_BL is None:
    log_q_L = leaf_mass(placed.log_p_BL, mass_N)
    return each_log_w(theta, log_q_L, max_weight=max_weight)
  return jnp.stack(
    [
      normalized(leaf_tilt(one), placed, mass_N, max_weight=max_weight)
      for one in unstacked(theta)
    ]
  )


def each_log_w(
  theta: Theta,
  log_q_L: shapes.FloatL,
  *,
  max_weight: float | shapes.Scalar,
) -> shapes.Array:
  """log_w_TL of a tree with tilts for every target, each with a cap of its own."""
  return jnp.stack(
    [
      leaf_log_w(leaf_tilt(one), log_q_L, max_weight=max_weight)
      for one in unstacked(theta)
    ]
  )


def document_log_w(
  log_p_BL: shapes.FloatBL, log_w_L: shapes.FloatL
) -> shapes.FloatB:
  """log_w_B: the log of a document's mean leaf weight; its corpus mean is one."""
  return jax.nn.logsumexp(log_p_BL + log_w_L, axis=-1)


def effective_sample_size(
  log_w_N: shapes.FloatN, mass_N: shapes.FloatN
) -> shapes.Scalar:
  """Share of the corpus that the weights keep in effect: 1 / E[w^2], in (0, 1]."""
  return jnp.exp(-jax.nn.logsumexp(2 * log_w_N, b=mass_N))


def kl_divergence(
  log_w_N: shapes.FloatN, log_v_N: shapes.FloatN, mass_N: shapes.FloatN
) -> shapes.Scalar:
  r"""KL in nats of the mixture with weights w from the one with weights v.

  .. math:: \sum_i q_i \big(w_i \log(w_i / v_i) - w_i + v_i\big)

  The last two terms cancel where both mean weights are one. On a sample the means
  are one only up to noise; there these terms keep the sum from falling below zero.
  """
  w_N, v_N = jnp.exp(log_w_N), jnp.exp(log_v_N)
  return jnp.sum(mass_N * (w_N * (log_w_N - log_v_N) - w_N + v_N))
