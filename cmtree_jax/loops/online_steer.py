"""Events of the loop `online` for methods that steer a mixture of domains.

In the loop `steer` a proxy trains on what these methods ask for, and the mean of it is
handed over. Here the model that they observe and train is the one that counts.
"""

import time
from typing import Any, NamedTuple

import jax
import numpy as np

from cmtree_jax.data.draw.sampler import SamplerState
from cmtree_jax.loops import fleet as fleets
from cmtree_jax.loops import online_run
from cmtree_jax.loops.online_run import Setting, State
from cmtree_jax.methods.base import Ask, DomainWeights, Method
from cmtree_jax.types import UserError

FIELDS = ("step", "seen", "mean_looks", "most_looks")


class Own(NamedTuple):
  """What these events keep."""

  # phi, stream and step that a method may return to.
  marked: Any
  marked_stream: SamplerState
  marked_step: np.ndarray
  mixture_K: np.ndarray  # that is trained on
  observation: np.ndarray  # number of the next one


def observations(method: Method, steps: int) -> int:
  """How often a method may observe the model."""
  return steps // method.every


def start(one: Setting) -> tuple[State, tuple[str, ...]]:
  """(state before the first step, names of the history's columns).

  Raises:
    ValueError: there are several runs; each looks at documents of its own.
  """
  (run,) = one.runs
  methods = online_run.methods(one)
  own = Own(
    marked=None,
    marked_stream=run.pool.init(),
    marked_step=np.array(0),
    mixture_K=np.asarray(one.runs[0].facts.domain_mass_K, np.float64),
    observation=np.array(0),
  )
  state = online_run.start(
    one,
    methods,
    own,
    [_weights(one, own.mixture_K)],
    stages=1 + observations(one.method, one.steps),
    fields=FIELDS,
  )
  own = own._replace(marked=fleets.copy(state.fleet.phi))
  return state._replace(own=own), FIELDS


def play(one: Setting, state: State) -> State:
  """One observation, and the training that the method asks for after it.

  A method that takes its training back has fewer observations left than the run has
  steps; the rest is trained on the last mixture.
  """
  begin, left = time.perf_counter(), one.steps - int(state.step)
  number = int(state.own.observation)
  if number < observations(one.method, one.steps):
    state = _observe(one, state)
    one.clock.event.append(time.perf_counter() - begin)
    left = one.steps - int(state.step)
  steps = min(left, one.method.every)
  had = online_run.looks_of(one, state)[0]
  domain_N = one.runs[0].domain_N
  weight_N = one.seen[0].mixed(state.own.mixture_K, domain_N)
  weight_N = weight_N / (one.seen[0].mass_N @ weight_N)
  weight_N = online_run.allowed(one, had, 0, weight_N, steps)
  return online_run.train(one, state, [weight_N], steps)


def _observe(one: Setting, state: State) -> State:
  """With the mixture that the method asks for, after what it is shown."""
  method, number = one.method, int(state.own.observation)
  fleet, looked = fleets.observe(state.fleet, one.world, method.signals, number)
  inner, _ = one.step(state.methods[0], looked.signals)
  ask = jax.tree.map(np.asarray, one.ask(inner))
  fleets.require_finite(
    ask.mixture_K,
    f"The mixture that the method asks for at observation {number}",
    "Lower config.optimizer.learning_rate or the method's step size.",
  )
  _refuse_targets(ask)
  had = online_run.looks_of(one, state)[0]
  state = _moved(state._replace(fleet=fleet, methods=(inner,)), ask)
  count_N = had.count_N[one.seen[0].inside_N]
  row = (state.step, (count_N > 0).mean(), count_N.mean(), count_N.max())
  mixture_K = np.asarray(ask.mixture_K, np.float64)
  changed = not np.array_equal(mixture_K, state.own.mixture_K)
  own = state.own._replace(
    mixture_K=mixture_K, observation=state.own.observation + 1
  )
  state = state._replace(own=own)
  if not changed and number:
    return state
  rows = np.array([[float(x) for x in row]])
  return online_run.with_stage(state, [_weights(one, mixture_K)], rows)


def _moved(state: State, ask: Ask) -> State:
  """The model marked, or back at the mark: what it drew since then, too."""
  own, fleet = state.own, state.fleet
  (stream,) = fleet.pool
  if ask.mark:
    own = own._replace(
      marked=fleets.copy(fleet.phi),
      marked_stream=fleets.settled(stream),
      marked_step=state.step,
    )
  if ask.back:
    fleet = fleet._replace(
      phi=fleets.copy(own.marked), pool=(own.marked_stream,)
    )
    state = state._replace(step=own.marked_step)
  return state._replace(own=own, fleet=fleet)


def _refuse_targets(ask: Ask) -> None:
  """Nobody trains on the targets' texts in the run that is judged by them.

  Raises:
    UserError: a share of the rows is asked for.
  """
  if ask.target_share > 0:
    raise UserError(
      "The method trains on texts of the targets for a while, and a run that is "
      "judged must not; leave config.online.on at False for it."
    )


def _weights(one: Setting, mixture_K: np.ndarray) -> DomainWeights:
  """The density of a mixture; a domain without documents weighs nothing."""
  mass_K = np.asarray(one.runs[0].facts.domain_mass_K, np.float64)
  share_K = mixture_K / mixture_K.sum()
  ratio_K = np.where(mass_K > 0, share_K / np.maximum(mass_K, 1e-30), 0.0)
  return DomainWeights(np.log(np.maximum(ratio_K, 1e-30)))
