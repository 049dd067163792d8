"""A tree that grows: after a round's step at most one event, decided on its values.

Shared by `cmtree` with the loop: the step of the plain method comes first, and an event
is measured, and taken back, together with it.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from cmtree_jax import shapes
from cmtree_jax.methods.base import Facts, Method, Signals
from cmtree_jax.tree import events, growth, learner, model, replay, room
from cmtree_jax.tree.cuts import Grounds
from cmtree_jax.tree.mixture import Sample


class State(NamedTuple):
  """What the next round needs."""

  learner: learner.State
  log: events.Log  # its steps are rounds, from one on


def with_room(
  begin: Callable[[shapes.Key, Facts], model.Theta],
  *,
  max_leaves: int,
  kappa: float,
) -> Callable[[shapes.Key, Facts], model.Theta]:
  """A start of the same tree with room for more leaves.

  Args:
    begin: makes the tree.
    max_leaves: that it may grow to.
    kappa: sharpness of the cuts to come.
  """

  def begin_with_room(key, facts):
    return room.with_room(begin(key, facts), max_leaves, kappa=kappa)

  return begin_with_room


def method(plain: Method, plan: learner.Plan, *, max_leaves: int) -> Method:
  """The same method with events.

  Args:
    plain: learns a tree that has room; its state is the learner's.
    plan: of the learner.
    max_leaves: that the tree may grow to.
  """
  # Leaves may be fused and split again: a search has far fewer rounds than this.
  log = events.empty(8 * max_leaves)

  def step(state: State, signals: Signals) -> tuple[State, Any]:
    stepped, info = plain.step(state.learner, signals)
    new = _grounds(stepped, signals.target_weight_T, of_all=False)
    log = events.measured(state.log, state.learner.theta, new)
    grounds = _grounds(stepped, signals.target_weight_T, of_all=True)
    limits = growth.Limits(
      max_leaves=jnp.int32(max_leaves),
      trust=plan.step.trust,
      rate=stepped.step_size * stepped.training.horizon,
      max_weight=stepped.training.max_weight,
      saturation=stepped.training.saturation,
    )
    theta, event = growth.event(stepped.theta, grounds, limits)
    # A record that is full ends the growth: nothing happens unrecorded.
    event = event._replace(kind=jnp.where(events.is_full(log), 0, event.kind))
    corpus = Sample(signals.sample_NE, signals.sample_mass_N)
    changed = learner.with_theta(stepped, theta, corpus, plan)
    grown = jax.tree.map(
      lambda a, b: jnp.where(event.kind > 0, a, b), changed, stepped
    )
    told = {**event._asdict(), "leaves": room.num_open(grown.theta)}
    return State(grown, events.add(log, event, grown.round)), info._replace(
      event=told
    )

  def undo(state: State) -> State:
    return State(
      plain.undo(state.learner), events.undone(state.log, state.learner.round)
    )

  return plain._replace(
    init=lambda key, facts: State(plain.init(key, facts), log),
    step=step,
    finalize=lambda state: plain.finalize(state.learner),
    undo=undo,
    history=_history,
  )


def _grounds(
  state: learner.State, target_weight_T: shapes.Array, *, of_all: bool
) -> Grounds:
  """The replayed values, parted as the round's step had them.

  Args:
    state: after the step.
    target_weight_T: what each target's loss counts for.
    of_all: with those that cuts are fitted to; else the newest round alone, with all
      of its proxies.
  """
  buffer = state.replay
  fit_R, judge_R = replay.split(buffer, state.round - 1)
  if not of_all:
    fit_R = jnp.where(buffer.age_R == 0, fit_R, 0.0)
  return Grounds(
    features_RE=buffer.features,
    value_R=buffer.value_RT @ target_weight_T,
    fit_R=fit_R,
    judge_R=judge_R,
    proxy_R=buffer.proxy_R,
    proxies_P=state.proxies_P,
  )


def _history(state: State) -> tuple[dict[str, Any], ...]:
  branching = [level.tilt_MC.shape[1] for level in state.learner.theta]
  return tuple(events.told(state.log, branching))
