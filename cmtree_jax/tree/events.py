"""The record of a tree's events: what each promised, and what was measured later."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cmtree_jax import shapes
from cmtree_jax.tree import cuts, growth, model, room
from cmtree_jax.tree.cuts import Grounds
from cmtree_jax.tree.growth import Event
from cmtree_jax.tree.model import Theta


class Log(NamedTuple):
  """Events in the order in which they happened, with room for A of them."""

  step_A: shapes.Array  # int, when
  event_A: Event
  undone_A: shapes.Array  # 1: it was taken back, for it was measured to do harm
  measured_A: (
    shapes.Array
  )  # sum over later rounds of what they found of the gain
  rounds_A: shapes.Array  # how many rounds that is the sum of
  count: shapes.Array  # int, how many events there were


def empty(size: int) -> Log:
  """A record with room for so many events."""
  nothing_A, zero_A = jnp.zeros(size), jnp.zeros(size, jnp.int32)
  return Log(
    step_A=zero_A,
    event_A=Event(zero_A, zero_A, zero_A, nothing_A),
    undone_A=nothing_A,
    measured_A=nothing_A,
    rounds_A=nothing_A,
    count=jnp.int32(0),
  )


def is_full(log: Log) -> shapes.Array:
  """Whether no event can be recorded any more."""
  return log.count >= len(log.step_A)


def add(log: Log, event: Event, step: shapes.Array) -> Log:
  """The record with one more event, unless nothing happened."""
  some = event.kind > 0
  at = jnp.where(some, log.count, len(log.step_A))  # else out of the record

  def put(all_of, one):
    return all_of.at[at].set(one, mode="drop")

  return log._replace(
    step_A=put(log.step_A, step),
    event_A=jax.tree.map(put, log.event_A, event),
    count=log.count + some,
  )


def undone(log: Log, step: shapes.Array) -> Log:
  """The record where what happened at a step was taken back."""
  return log._replace(
    undone_A=jnp.where(_there(log) & (log.step_A == step), 1.0, log.undone_A)
  )


def measured(log: Log, theta: Theta, new: Grounds) -> Log:
  r"""The record with what a round's documents say of the gains of earlier events.

  They have decided none of them. A gain is measured without a penalty, and without
  what noise adds to it: :math:`q_n (\mathrm{Var}_n[\bar v_c] - s_v^2 / N_n)` of a
  split, the opposite of a fusion, and of a pruning the leaf's mass times what its
  documents are worth less than all. A node that had another event since, or that
  holds no document, is left out.

  Args:
    log: so far.
    theta: as it is now.
    new: documents of the round; all that have a weight count.
  """
  weight_R = new.fit_R + new.judge_R
  p_RL = jnp.exp(model.log_p_leaf(theta, new.features_RE))
  seen_RE = model.encoded(theta, new.features_RE)
  total = jnp.maximum(jnp.sum(weight_R), 1e-30)
  mean = weight_R @ new.value_R / total
  cut, less, mass, starts, nodes = [], [], [], [], 1
  for depth in range(len(theta) + 1):
    starts.append(sum(len(x) for x in mass))
    inside_RM = room.below(p_RL, nodes)
    q_M = weight_R @ inside_RM / total
    worth_M = cuts.mean_value(weight_R[:, None] * inside_RM, new).mean_M
    cut_M = jnp.zeros(nodes)
    if depth < len(theta):
      level = theta[depth]
      nodes *= level.tilt_MC.shape[1]
      if level.open_M is not None:
        second_RM = cuts.second_child(level, seen_RE)
        found = cuts.contrast(inside_RM, second_RM, weight_R, new)
        cut_M = q_M * (found.between_M - found.noise_M)
    cut.append(cut_M)
    less.append(q_M * (mean - worth_M))
    mass.append(q_M)
  event_A = log.event_A
  at_A = jnp.array(starts)[event_A.depth] + event_A.node
  cut_A, less_A, mass_A = (jnp.concatenate(x)[at_A] for x in (cut, less, mass))
  gain_A = jnp.select(
    [event_A.kind == growth.SPLIT, event_A.kind == growth.FUSE],
    [cut_A, -cut_A],
    less_A,
  )
  counts_A = _standing(log, at_A) & (mass_A > 1e-6)
  return log._replace(
    measured_A=log.measured_A + jnp.where(counts_A, gain_A, 0.0),
    rounds_A=log.rounds_A + counts_A,
  )


def _there(log: Log):
  return jnp.arange(len(log.step_A)) < log.count


def _standing(log: Log, at_A):
  """Events that were not taken back, each the last one of its node."""
  counts_A = _there(log) & (log.undone_A == 0)
  number_A = jnp.arange(len(at_A))
  later_AA = (number_A[None] > number_A[:, None]) & counts_A[None]
  same_AA = at_A[None] == at_A[:, None]
  return counts_A & ~jnp.any(later_AA & same_AA, axis=1)


def told(log: Log, branching: Sequence[int]) -> list[dict[str, Any]]:
  """Every event as a person reads it.

  Args:
    log: the record.
    branching: children per node of every level of the tree.
  """
  found = []
  for i in range(int(log.count)):
    event = jax.tree.map(lambda x, i=i: np.asarray(x)[i].item(), log.event_A)
    rounds = int(log.rounds_A[i])
    found.append(
      {
        "event": growth.KINDS[event.kind],
        "step": int(log.step_A[i]),
        "node": room.path(event.node, branching[: event.depth]),
        "promised": event.promised,
        "measured": float(log.measured_A[i]) / rounds if rounds else None,
        "rounds": rounds,
        "undone": bool(log.undone_A[i]),
      }
    )
  return found
