"""Rounds of learning from values: each is a proximal step of all that may move.

The learner does not know what theta is. `evidence.Leaves` tells it where documents
fall and how the leaves are tilted, so that one learner serves a tree, all of whose
parts move together, and domains that are given, of which the tilts alone do.
"""

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from cmtree_jax import checks, shapes
from cmtree_jax.tree import evidence, mixture, proximal, replay
from cmtree_jax.tree.mixture import Sample


@dataclasses.dataclass(frozen=True)
class Step:
  r"""How far a round moves, at what cost, and by which solver.

  Args:
    trust: nats that a round may move.
    kl_penalty: :math:`\lambda` in units of the outer loss per nat.
    overlap_penalty: :math:`\mu`.
    solver_steps: Adam steps per round.
    solver_sample: documents of the corpus sample that every Adam step draws.
    tilt_rate: Adam's learning rate of the tilts.
    partition_rate: Adam's learning rate of everything else.
    temperature: of the Gumbel-softmax, in the first and the last round; the tree
      is read out at one, the mean of hard samples.
    annealing_rounds: rounds between the two (geometric).
    gumbel: noise while the solver works.
    hard: straight-through leaves of the corpus sample while it works.
  Raises:
    ValueError: a number out of its range.
  """

  trust: float = 0.2
  kl_penalty: float = 0.0
  overlap_penalty: float = 0.01
  solver_steps: int = 80
  solver_sample: int = 4096
  tilt_rate: float = 0.05
  partition_rate: float = 0.003
  temperature: tuple[float, float] = (1.0, 0.5)
  annealing_rounds: int = 8
  gumbel: bool = True
  hard: bool = False

  def __post_init__(self):
    checks.above_zero(trust=self.trust)
    checks.finite(
      trust=self.trust,
      kl_penalty=self.kl_penalty,
      overlap_penalty=self.overlap_penalty,
      tilt_rate=self.tilt_rate,
      partition_rate=self.partition_rate,
    )
    checks.at_least(
      0,
      kl_penalty=self.kl_penalty,
      overlap_penalty=self.overlap_penalty,
      tilt_rate=self.tilt_rate,
      partition_rate=self.partition_rate,
    )
    checks.at_least(
      1,
      solver_steps=self.solver_steps,
      solver_sample=self.solver_sample,
      annealing_rounds=self.annealing_rounds,
    )
    if len(self.temperature) != 2 or not min(self.temperature) > 0:
      raise ValueError(
        f"temperature = {tuple(self.temperature)} must be two numbers above 0, of "
        "the first and the last round."
      )


class Plan(NamedTuple):
  """How a method learns, the same in all of its rounds."""

  leaves: evidence.Leaves  # how theta is read
  optimizer: optax.GradientTransformation  # what of theta moves, and how fast
  step: Step
  replay: replay.Replay


class State(NamedTuple):
  """What the next round needs."""

  theta: shapes.Tree
  log_w_L: shapes.FloatL  # of theta's leaves
  previous: shapes.Tree  # theta before the last step, to go back to
  previous_log_w_L: shapes.FloatL
  replay: replay.Buffer
  step_size: shapes.Scalar  # eta; 0 before the first round
  round: shapes.Scalar
  key: shapes.Array  # key data
  max_weight: shapes.Scalar
  horizon: shapes.Scalar  # final training steps per step of a value's unroll


class Info(NamedTuple):
  """What a person reads after a round; gains in units of the outer loss."""

  predicted_gain: shapes.Scalar  # of the step, on the replayed documents
  heldout_gain: shapes.Scalar  # on a fifth of them that the step did not see
  kl_step: shapes.Scalar  # nats from the weights before the step
  kl_natural: shapes.Scalar  # nats from the natural mixture
  effective_sample_size: shapes.Scalar
  overlap: shapes.Scalar  # of the levels' angles
  step_size: shapes.Scalar


def start(
  key: shapes.Key,
  theta: shapes.Tree,
  corpus: Sample,
  plan: Plan,
  *,
  max_weight: float | shapes.Scalar,
  horizon: float | shapes.Scalar,
) -> State:
  """The state before the first round, without values."""
  max_weight = jnp.float32(max_weight)
  log_w_L, _ = _weigh(theta, corpus, plan, max_weight)
  return State(
    theta=theta,
    log_w_L=log_w_L,
    previous=theta,
    previous_log_w_L=log_w_L,
    replay=replay.empty(plan.replay.size, corpus.features),
    step_size=jnp.float32(0.0),
    round=jnp.int32(0),
    key=jax.random.key_data(key),
    max_weight=max_weight,
    horizon=jnp.float32(horizon),
  )


def step(
  state: State, new: replay.Round, corpus: Sample, plan: Plan
) -> tuple[State, Info]:
  """The state after a round: its values are remembered, and a step is taken.

  Args:
    state: after the round before.
    new: documents, and values measured under the state's weights.
    corpus: a sample of the natural distribution.
    plan: of the method.
  """
  key = jax.random.fold_in(jax.random.wrap_key_data(state.key), state.round)
  key_sample, key_noise, key_shuffle = jax.random.split(key, 3)
  if plan.replay.shuffle:
    new = replay.shuffled(new, key_shuffle)
  log_p_BL = plan.leaves.log_p(state.theta, new.features)
  log_w_B = mixture.document_log_w(log_p_BL, state.log_w_L)
  buffer = replay.remember(state.replay, new, log_w_B, plan.replay)
  log_w_L, seen = _evidence(state, buffer, corpus, plan)
  theta, step_size = _solve(state, seen, plan, key_sample, key_noise)
  info = _info(state.theta, theta, step_size, seen, plan)
  return State(
    theta=theta,
    log_w_L=_weigh(theta, corpus, plan, state.max_weight)[0],
    previous=state.theta,
    previous_log_w_L=log_w_L,
    replay=buffer,
    step_size=step_size,
    round=state.round + 1,
    key=state.key,
    max_weight=state.max_weight,
    horizon=state.horizon,
  ), info


def judge(state: State, gain: shapes.Scalar) -> State:
  """A step that did not help is taken back, and the next one is half as long."""
  keep = gain >= 0
  choose = functools.partial(jax.tree.map, functools.partial(jnp.where, keep))
  return state._replace(
    theta=choose(state.theta, state.previous),
    log_w_L=choose(state.log_w_L, state.previous_log_w_L),
    step_size=jnp.where(keep, state.step_size, state.step_size / 2),
  )


def _evidence(state, buffer, corpus, plan):
  """(log_w_L, evidence): theta's leaves are weighed anew, on the round's sample."""
  temperature = _temperature(plan.step, state.round)
  log_w_L, log_p_NL = _weigh(state.theta, corpus, plan, state.max_weight)
  before_N = mixture.document_log_w(log_p_NL, log_w_L)
  log_p_RL = plan.leaves.log_p(state.theta, buffer.features)
  return log_w_L, evidence.Evidence(
    corpus=corpus,
    before_N=before_N,
    replay=buffer,
    before_R=mixture.document_log_w(log_p_RL, log_w_L),
    temperature=temperature,
    max_weight=state.max_weight,
    horizon=state.horizon,
  )


def _solve(state, seen, plan, key_sample, key_noise):
  """(theta, step size); every fifth document chooses among the iterates."""
  options = plan.step
  fit_R, held_R = replay.split(seen.replay.weight_R)
  some = evidence.with_fewer(seen, options.solver_sample, key_sample)

  def cost(theta, seen, weight_R, key=None):
    """What a step minimizes; and the KL divergence that it moves."""
    found = evidence.measure(
      theta, seen, weight_R, plan.leaves, key=key, hard=options.hard
    )
    return (
      -found.gain
      + options.kl_penalty * found.kl_natural
      + options.overlap_penalty * plan.leaves.overlap(theta)
    ), found.kl_step

  def noisy_cost(theta, key):
    """On documents drawn anew, or a tree would carve out a sample."""
    key_fresh = jax.random.fold_in(key, 0)
    fresh = evidence.with_fewer(seen, options.solver_sample, key_fresh)
    key_leaves = jax.random.fold_in(key, 1) if options.gumbel else None
    return cost(theta, fresh, fit_R, key_leaves)

  return proximal.solve(
    noisy_cost,
    lambda theta: cost(theta, some, held_R),
    state.theta,
    key_noise,
    optimizer=plan.optimizer,
    num_steps=options.solver_steps,
    step_size=state.step_size,
    trust=options.trust,
  )


def _info(before, theta, step_size, seen, plan) -> Info:
  """Of the step from `before` to theta."""

  def measure(theta, weight_R):
    return evidence.measure(
      theta, seen, weight_R, plan.leaves, hard=plan.step.hard
    )

  all_R = seen.replay.weight_R
  _, held_R = replay.split(all_R)
  found, held = measure(theta, all_R), measure(theta, held_R)
  return Info(
    predicted_gain=found.gain - measure(before, all_R).gain,
    heldout_gain=held.gain - measure(before, held_R).gain,
    kl_step=found.kl_step,
    kl_natural=found.kl_natural,
    effective_sample_size=found.effective_sample_size,
    overlap=plan.leaves.overlap(theta),
    step_size=step_size,
  )


def _weigh(theta, corpus, plan, max_weight):
  """(log_w_L, log_p_NL): the leaves' weights as a sample of the corpus has them."""
  log_p_NL = plan.leaves.log_p(theta, corpus.features)
  tilt_L = plan.leaves.tilt(theta)
  return mixture.weigh(
    tilt_L, log_p_NL, corpus.mass_N, max_weight=max_weight
  ), log_p_NL


def _temperature(options: Step, round_number):
  first, last = options.temperature
  return optax.schedules.exponential_decay(
    first, options.annealing_rounds, last / first, end_value=last
  )(round_number)
