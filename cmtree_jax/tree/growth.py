r"""Top-down growth: leaves are split, fused and pruned by what their documents are worth.

An event is decided on values of documents, and judged by those held out from what was
fitted. At most one happens at a time, and the first kind that is called for: a split,
else a fusion, else a pruning. Shapes never change (`room`), so nothing is traced again.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from cmtree_jax import shapes
from cmtree_jax.tree import cuts, mixture, model, room
from cmtree_jax.tree.cuts import Grounds
from cmtree_jax.tree.evidence import worth
from cmtree_jax.tree.model import Theta

KINDS = ("none", "split", "fuse", "prune")
SPLIT, FUSE, PRUNE = 1, 2, 3

_FEWEST = (
  30.0  # documents held out, in effect, without which nothing is decided
)
_FLOOR = 0.05  # weight that a pruned leaf keeps: it stays in sight of values
_BOUND = 1.64  # standard errors: one in twenty values lies above


class Limits(NamedTuple):
  """What an event may do."""

  max_leaves: shapes.Array  # int
  trust: float  # nats that it may move
  # Log-weight per unit of value that one proximal step moves; 0: children start with
  # their parent's weight.
  rate: shapes.Scalar
  max_weight: shapes.Scalar  # R
  saturation: shapes.Scalar  # as in `evidence.Training`


class Event(NamedTuple):
  """What happened to a tree."""

  kind: shapes.Array  # int, of KINDS
  depth: shapes.Array  # int, of the node; the root's is 0
  node: shapes.Array  # int, its number at this depth
  # Of a split: the node's mass times the variance of values that its cut explains,
  # less the penalty; of a fusion the opposite, which is what the cut did not explain.
  # Of a pruning: the mass that moves times its least difference in value.
  promised: shapes.Scalar


class _Seen(NamedTuple):
  """A tree, and what its documents are worth."""

  theta: Theta
  grounds: Grounds
  limits: Limits
  p_RL: shapes.Array
  all_R: shapes.Array  # what a document counts for; sums to one
  q_L: shapes.Array
  w_L: shapes.Array

  def inside_RM(self, depth: int) -> shapes.Array:
    """Probability of documents to be in each node at a depth."""
    children = [x.tilt_MC.shape[1] for x in self.theta[:depth]]
    nodes = 1
    for count in children:
      nodes *= count
    return room.below(self.p_RL, nodes)


class _Offer(NamedTuple):
  """Events of one kind: what each is good for, and what it would make of the tree."""

  gain: tuple[shapes.Array, ...]  # by depth [M]; minus infinity: not called for
  # (which one, by depth [M], at most one of all) -> the tree
  make: Callable[[tuple[shapes.Array, ...]], Theta]
  depth: int  # of the first


def event(
  theta: Theta, grounds: Grounds, limits: Limits
) -> tuple[Theta, Event]:
  r"""The tree after at most one event.

  * Split: the leaf with the greatest gain, if that is above zero,

    .. math:: G_n = q_n \Big(\mathrm{Var}_n[\bar v_c]
              - (1 + d) \log N_n\, \frac{s_v^2}{N_n}\Big),

    where the documents held out agree in sign with those that the cut was fitted to.
    The children keep their parent's weight, plus the proximal step that their values
    ask for, shrunk by what of their difference is noise.
  * Fuse: two leaves that are siblings by a split and whose values differ by less than
    one standard error become one, of the weight that both had together.
  * Prune: a leaf whose upper bound of value is below the corpus mean, less what more
    repeats of all others cost, keeps the least weight.

  No event moves more than `limits.trust` nats; what would is left to later steps.

  Args:
    theta: a tree with room.
    grounds: valued documents.
    limits: what an event may do.
  """
  seen = _look(theta, grounds, limits)
  kind = jnp.int32(0)
  trees, told = [theta], [Event(*(jnp.int32(0),) * 3, jnp.float32(0.0))]
  for number, offer in enumerate(
    (_splits(seen), _fusions(seen), _prunings(seen)), 1
  ):
    is_best, depth, node, gain = _best(offer)
    trees.append(offer.make(is_best))
    told.append(Event(jnp.int32(number), depth, node, gain))
    called = jnp.isfinite(gain) & (kind == 0)
    kind = jnp.where(called, number, kind)

  def choose(*options):
    return jnp.stack([jnp.asarray(x) for x in options])[kind]

  return jax.tree.map(choose, *trees), jax.tree.map(choose, *told)


def _look(theta, grounds, limits) -> _Seen:
  p_RL = jnp.exp(model.log_p_leaf(theta, grounds.features_RE))
  all_R = grounds.fit_R + grounds.judge_R
  all_R = all_R / jnp.maximum(jnp.sum(all_R), 1e-30)
  log_w_L = mixture.weigh(
    mixture.leaf_tilt(theta),
    jnp.log(jnp.maximum(p_RL, 1e-30)),
    all_R,
    max_weight=limits.max_weight,
  )
  # As levels see the documents.
  seen_RE = model.encoded(theta, grounds.features_RE)
  grounds = grounds._replace(features_RE=seen_RE)
  return _Seen(
    theta, grounds, limits, p_RL, all_R, all_R @ p_RL, jnp.exp(log_w_L)
  )


def _best(offer: _Offer):
  """(which event, by depth, its depth and node, its gain)."""
  gain = jnp.concatenate(offer.gain)
  best = jnp.argmax(gain)
  sizes = [len(x) for x in offer.gain]
  starts = [sum(sizes[:i]) for i in range(len(sizes))]
  is_best = (jnp.arange(len(gain)) == best) & jnp.isfinite(gain)
  depth = jnp.searchsorted(jnp.array(starts), best, side="right") - 1
  return (
    tuple(
      is_best[start : start + size]
      for start, size in zip(starts, sizes, strict=True)
    ),
    jnp.int32(depth + offer.depth),
    jnp.int32(best - jnp.array(starts)[depth]),
    gain[best],
  )


def _splits(seen: _Seen) -> _Offer:
  theta, grounds = seen.theta, seen.grounds
  # The leaves that are full, or at the last depth, cannot be split.
  may = room.num_open(theta) < seen.limits.max_leaves
  inside = {
    depth: seen.inside_RM(depth)
    for depth, level in enumerate(theta)
    if level.open_M is not None
  }
  best = cuts.fit([(theta[i], inside[i]) for i in inside], grounds)
  prototypes = dict(zip(inside, best, strict=True))
  gains, cut = [], []
  for depth, (level, leaf_M) in enumerate(
    zip(theta, room.leaves_at(theta)[:-1], strict=True)
  ):
    if depth not in inside:
      gains.append(jnp.full(leaf_M.shape, -jnp.inf))
      cut.append(level)
      continue
    new = level._replace(prototype_MCP=prototypes[depth])
    second_RM = cuts.second_child(new, grounds.features_RE)
    fitted, found = (
      cuts.contrast(inside[depth], second_RM, weight_R, grounds)
      for weight_R in (grounds.fit_R, grounds.judge_R)
    )
    gain_M = found.mass_M * (found.between_M - found.penalty_M)
    good_M = leaf_M & may & (found.size_M >= _FEWEST)
    good_M &= (gain_M > 0) & (fitted.more_M * found.more_M > 0)
    gains.append(jnp.where(good_M, gain_M, -jnp.inf))
    trained_M = room.below(seen.q_L * seen.w_L, len(leaf_M))
    cut.append(new._replace(tilt_MC=_proximal(found, trained_M, seen.limits)))

  def make(is_best):
    return tuple(
      level
      if level.open_M is None
      else level._replace(
        prototype_MCP=jnp.where(
          is_M[:, None, None], new.prototype_MCP, level.prototype_MCP
        ),
        tilt_MC=jnp.where(is_M[:, None], new.tilt_MC, level.tilt_MC),
        open_M=jnp.where(is_M, 1.0, level.open_M),
      )
      for level, new, is_M in zip(theta, cut, is_best, strict=True)
    )

  return _Offer(tuple(gains), make, 0)


def _proximal(
  found: cuts.Contrast, trained_M, limits: Limits
) -> shapes.FloatMC:
  r"""Tilts of two children, which together weigh what their parent did.

  A proximal step in proportions moves log-weights by :math:`\eta v`; its divergence
  is to second order that of a variance.
  """
  real_M = 1 - found.noise_M / jnp.maximum(found.between_M, 1e-30)
  more_M = limits.rate * found.more_M * jnp.maximum(real_M, 0.0)
  spread_M = found.share_M * (1 - found.share_M)
  most_M = jnp.sqrt(2 * limits.trust / jnp.maximum(trained_M * spread_M, 1e-6))
  more_M = jnp.clip(more_M, -most_M, most_M)
  share_MC = jnp.stack([1 - found.share_M, found.share_M], axis=1)
  tilt_MC = jnp.stack([jnp.zeros_like(more_M), more_M], axis=1)
  mean_M = jax.nn.logsumexp(tilt_MC, axis=1, b=share_MC, keepdims=True)
  return tilt_MC - mean_M


def _fusions(seen: _Seen) -> _Offer:
  theta, grounds, leaves = seen.theta, seen.grounds, room.leaves_at(seen.theta)
  gains, joined = [], []
  for depth, (level, open_M) in enumerate(
    zip(theta, room.open_nodes(theta), strict=True)
  ):
    nodes = len(open_M)
    if level.open_M is None:
      gains.append(jnp.full(nodes, -jnp.inf))
      joined.append(jnp.zeros(nodes))
      continue
    inside_RM = seen.inside_RM(depth)
    second_RM = cuts.second_child(level, grounds.features_RE)
    found = cuts.contrast(inside_RM, second_RM, grounds.judge_R, grounds)
    share_M = seen.all_R @ (inside_RM * second_RM)
    q_M = room.below(seen.q_L, nodes)
    share_M = share_M / jnp.maximum(q_M, 1e-30)
    share_MC = jnp.stack([1 - share_M, share_M], axis=1)
    together_M = jax.nn.logsumexp(level.tilt_MC, axis=1, b=share_MC)
    trained_M = room.below(seen.q_L * seen.w_L, nodes)
    moved_M = trained_M * (
      together_M - jnp.sum(share_MC * level.tilt_MC, axis=1)
    )
    both_M = jnp.all(leaves[depth + 1].reshape(nodes, 2), axis=1)
    good_M = both_M & (found.size_M >= _FEWEST)
    good_M &= found.between_M < found.noise_M
    good_M &= moved_M <= seen.limits.trust
    gain_M = found.mass_M * (found.penalty_M - found.between_M)
    gains.append(jnp.where(good_M, gain_M, -jnp.inf))
    joined.append(together_M)

  def make(is_best):
    levels = []
    for depth, (level, is_M) in enumerate(zip(theta, is_best, strict=True)):
      tilt_MC = level.tilt_MC
      if depth + 1 < len(theta):
        # The parent's tilt takes up what the two had together.
        more_M = jnp.where(is_best[depth + 1], joined[depth + 1], 0.0)
        tilt_MC = tilt_MC + more_M.reshape(tilt_MC.shape)
      if level.open_M is not None:
        tilt_MC = jnp.where(is_M[:, None], 0.0, tilt_MC)
        level = level._replace(open_M=jnp.where(is_M, 0.0, level.open_M))
      levels.append(level._replace(tilt_MC=tilt_MC))
    return tuple(levels)

  return _Offer(tuple(gains), make, 0)


def _prunings(seen: _Seen) -> _Offer:
  theta, grounds, limits = seen.theta, seen.grounds, seen.limits
  mean, spread = _corpus_value(seen)
  gains, tilts = [], []
  for depth, leaf_M in enumerate(room.leaves_at(theta)[1:], 1):
    nodes = len(leaf_M)
    found = cuts.mean_value(
      grounds.judge_R[:, None] * seen.inside_RM(depth), grounds
    )
    q_M = room.below(seen.q_L, nodes)
    trained_M = room.below(seen.q_L * seen.w_L, nodes)
    moved_M = trained_M - _FLOOR * q_M
    others_M = jnp.maximum(1 - trained_M, 1e-6)
    more_M = moved_M / others_M  # of the weight that the others have
    # What more of the others is worth less for being seen again.
    lost_M = 1 - worth(more_M, saturation=limits.saturation) / jnp.maximum(
      more_M, 1e-9
    )
    gap_M = mean - lost_M * spread - (found.mean_M + _BOUND * found.error_M)
    kl_M = others_M * (1 + more_M) * jnp.log1p(more_M)
    good_M = leaf_M & (found.size_M >= _FEWEST) & (gap_M > 0)
    good_M &= (moved_M > 0.1 * trained_M) & (kl_M <= limits.trust)
    gains.append(jnp.where(good_M, moved_M * gap_M, -jnp.inf))
    floor_M = _FLOOR * q_M / jnp.maximum(trained_M, 1e-30)
    tilts.append(jnp.log(jnp.maximum(floor_M, 1e-6)) - jnp.log1p(more_M))

  def make(is_best):
    return tuple(
      level._replace(
        tilt_MC=level.tilt_MC
        + jnp.where(is_M, less_M, 0.0).reshape(level.tilt_MC.shape)
      )
      for level, is_M, less_M in zip(theta, is_best, tilts, strict=True)
    )

  return _Offer(tuple(gains), make, 1)


def _corpus_value(seen: _Seen):
  """Mean and spread of values under the weights that are trained on."""
  judge_R = seen.grounds.judge_R * (seen.p_RL @ seen.w_L)
  share_R = judge_R / jnp.maximum(jnp.sum(judge_R), 1e-30)
  mean = share_R @ seen.grounds.value_R
  return mean, jnp.sqrt(share_R @ (seen.grounds.value_R - mean) ** 2)
