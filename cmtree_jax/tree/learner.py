"""Rounds of learning from values: each is a proximal step of all that may move.

The learner does not know what theta is. `evidence.Leaves` tells it where documents
fall, how the leaves are tilted and whether they score, so that one learner serves a
tree, all of whose parts move together, and domains that are given, of which the tilts
alone do.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from cmtree_jax import checks, shapes
from cmtree_jax.tree import evidence, mixture, proximal, replay, views
from cmtree_jax.tree.mixture import Sample


@dataclasses.dataclass(frozen=True)
class Step:
  r"""How far a round moves, at what cost, and by which solver.

  Args:
    trust: nats that a round may move.
    kl_penalty: :math:`\lambda` in units of the outer loss per nat.
    overlap_penalty: :math:`\mu`.
    view_penalty: :math:`\nu`, for levels that see several views of documents at once
      (`views.mixing`), in units of the outer loss; where the start is the density
      ratio, in nats of a target's text, too.
    score_penalty: :math:`\rho` in units of the outer loss per unit of the leaves'
      mean score vector.
    solver_steps: Adam steps per round.
    solver_sample: documents of the corpus sample that every Adam step draws.
    tilt_rate: Adam's learning rate of the tilts.
    score_rate: Adam's learning rate of the leaves' scores.
    encoder_rate: Adam's learning rate of the encoder.
    partition_rate: Adam's learning rate of everything else.
    temperature: of the Gumbel-softmax, in the first and the last round; the tree
      is read out at one, the mean of hard samples.
    annealing_rounds: rounds between the two (geometric).
    gumbel: noise while the solver works.
    hard: straight-through leaves while it works.
  Raises:
    ValueError: a number out of its range.
  """

  # Five rounds of .1 differ less from search to search than three of .2, for they
  # are fitted to other proxies in turn.
  trust: float = 0.1
  kl_penalty: float = 0.0
  overlap_penalty: float = 0.01
  view_penalty: float = 0.0
  score_penalty: float = 0.0
  solver_steps: int = 80
  solver_sample: int = 4096
  tilt_rate: float = 0.05
  score_rate: float = 0.2
  encoder_rate: float = 0.01
  partition_rate: float = 0.003
  temperature: tuple[float, float] = (1.0, 0.5)
  annealing_rounds: int = 8
  gumbel: bool = True
  hard: bool = False

  def __post_init__(self):
    checks.above_zero(trust=self.trust)
    checks.finite(trust=self.trust)
    not_negative = dict(
      kl_penalty=self.kl_penalty,
      overlap_penalty=self.overlap_penalty,
      view_penalty=self.view_penalty,
      score_penalty=self.score_penalty,
      tilt_rate=self.tilt_rate,
      score_rate=self.score_rate,
      encoder_rate=self.encoder_rate,
      partition_rate=self.partition_rate,
    )
    checks.finite(**not_negative)
    checks.at_least(0, **not_negative)
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
  log_w_L: shapes.FloatL  # of theta's leaves, as `mixture.normalized` has them
  previous: shapes.Tree  # theta before the last step, to go back to
  previous_log_w_L: shapes.FloatL
  replay: replay.Buffer
  step_size: shapes.Scalar  # eta; 0 before the first step
  round: shapes.Scalar
  key: shapes.Array  # key data
  proxies_P: shapes.Array  # numbers of the proxies
  training: evidence.Training
  views: views.Masks  # of the features; none where there is one view


class Info(NamedTuple):
  """What a person reads after a round; gains in units of the outer loss.

  Gains and the first divergence are those of the step that was found, taken or
  not; the other numbers are of what stands after the round.
  """

  predicted_gain: shapes.Scalar  # for the proxies that the step was fitted to
  heldout_gain: shapes.Scalar  # for the others, which judge; their mean
  heldout_error: shapes.Scalar  # its standard error over them
  stepped: shapes.Scalar  # 1: the step was taken, 0: the weights stay
  kl_step: shapes.Scalar  # nats from the weights before the step
  kl_natural: shapes.Scalar  # nats from the natural mixture
  effective_sample_size: shapes.Scalar
  overlap: shapes.Scalar  # of the levels' angles
  step_size: shapes.Scalar
  # What every level sees of each of several views, "level_1.topic".
  view_share: dict[str, shapes.Scalar]
  # What happened to a tree that grows, and how many leaves it has, by name.
  event: dict[str, shapes.Array]


def start(
  key: shapes.Key,
  theta: shapes.Tree,
  corpus: Sample,
  plan: Plan,
  training: evidence.Training,
  *,
  targets: int,
  proxies: int,
  masks: views.Masks | None = None,
) -> State:
  """The state before the first round, without values.

  Args:
    key: of the noise.
    theta: what is learned.
    corpus: a sample of it.
    plan: of the method.
    training: that the recipe is for.
    targets: how many there are.
    proxies: that value documents; at least four, or no step is ever taken.
    masks: of the features' views, where there are several.
  """
  training = jax.tree.map(jnp.float32, training)
  log_w_L, _ = _weigh(theta, corpus, plan, training.max_weight)
  return State(
    theta=theta,
    log_w_L=log_w_L,
    previous=theta,
    previous_log_w_L=log_w_L,
    replay=replay.empty(plan.replay.size, corpus.features, targets=targets),
    step_size=jnp.float32(0.0),
    round=jnp.int32(0),
    key=jax.random.key_data(key),
    proxies_P=jnp.arange(proxies),
    training=training,
    views=masks or {},
  )


def step(
  state: State,
  new: replay.Round,
  corpus: Sample,
  target_weight_T: shapes.Array,
  plan: Plan,
) -> tuple[State, Info]:
  r"""The state after a round: its values are remembered, a step may be taken.

  A step is fitted to the values of one half of the proxies (`replay.split`). The
  others judge: of the iterates within the trust region that one is chosen which is
  best by the mean of their gains less its standard error, and it is taken if its
  mean gain is above its standard error. With three of them that happens by chance
  in a fifth of the rounds, and each such step is as good as it is bad. Where no
  step is taken, weights and step size stay as they are.

  Args:
    state: after the round before.
    new: documents, and values measured under the state's weights.
    corpus: a sample of the natural distribution.
    target_weight_T: what each target's loss counts for; sums to one.
    plan: of the method.
  """
  key = jax.random.fold_in(jax.random.wrap_key_data(state.key), state.round)
  key_sample, key_noise, key_shuffle = jax.random.split(key, 3)
  if plan.replay.shuffle:
    new = replay.shuffled(new, key_shuffle)
  placed_B = plan.leaves.place(state.theta, new.features)
  log_w_B = mixture.log_w(
    placed_B, state.log_w_L, max_weight=state.training.max_weight
  )
  buffer = replay.remember(
    state.replay, new, log_w_B, plan.replay, proxies=len(state.proxies_P)
  )
  seen = _evidence(state, buffer, corpus, target_weight_T, plan)
  theta = _solve(state, seen, plan, key_sample, key_noise)
  info = _info(state, theta, seen, plan)

  def choose(new, old):
    taken = info.stepped > 0
    return jax.tree.map(lambda a, b: jnp.where(taken, a, b), new, old)

  log_w_L, _ = _weigh(theta, corpus, plan, state.training.max_weight)
  return State(
    theta=choose(theta, state.theta),
    log_w_L=choose(log_w_L, state.log_w_L),
    previous=state.theta,
    previous_log_w_L=state.log_w_L,
    replay=buffer,
    step_size=info.step_size,
    round=state.round + 1,
    key=state.key,
    proxies_P=state.proxies_P,
    training=state.training,
    views=state.views,
  ), info


def with_theta(
  state: State, theta: shapes.Tree, corpus: Sample, plan: Plan
) -> State:
  """The state with another theta in place of that which a step has led to.

  To undo the step is then to undo both.

  Args:
    state: after a round.
    theta: what stands after it.
    corpus: a sample of the natural distribution.
    plan: of the method.
  """
  log_w_L, _ = _weigh(theta, corpus, plan, state.training.max_weight)
  return state._replace(theta=theta, log_w_L=log_w_L)


def undo(state: State) -> State:
  """The last step is taken back, and the next one is half as long."""
  return state._replace(
    theta=state.previous,
    log_w_L=state.previous_log_w_L,
    step_size=state.step_size / 2,
  )


def _evidence(state, buffer, corpus, target_weight_T, plan):
  """Theta's leaves are weighed anew, on the round's sample."""
  max_weight = state.training.max_weight
  log_w_L, placed_N = _weigh(state.theta, corpus, plan, max_weight)
  placed_R = plan.leaves.place(state.theta, buffer.features)
  return evidence.Evidence(
    corpus=corpus,
    before_N=mixture.log_w(placed_N, log_w_L, max_weight=max_weight),
    replay=buffer,
    before_R=mixture.log_w(placed_R, log_w_L, max_weight=max_weight),
    target_weight_T=target_weight_T,
    proxies_P=state.proxies_P,
    temperature=_temperature(plan.step, state.round),
    training=state.training,
  )


def _solve(state, seen, plan, key_sample, key_noise):
  """Theta of the best step; the proxies that judge choose among the iterates."""
  options = plan.step
  fit_R, judge_R = replay.split(seen.replay, state.round)
  some = evidence.with_fewer(seen, options.solver_sample, key_sample)
  shares = _shares(state, seen.corpus, plan)
  # What is handed over is soft, and judged so; hard leaves are on the way alone.
  tried = seen
  if options.hard:
    tried = evidence.hardened(state.theta, seen, plan.leaves)

  def cost(theta, gain, found):
    """What a step minimizes; and the KL divergence that it moves."""
    total = (
      -gain
      + options.kl_penalty * found.kl_natural
      + options.overlap_penalty * plan.leaves.overlap(theta)
    )
    if options.view_penalty and (share_of := shares(theta)):
      total += options.view_penalty * views.mixing(share_of)
    if options.score_penalty:
      total += options.score_penalty * plan.leaves.score_norm(theta)
    return total, found.kl_step

  def noisy_cost(theta, key):
    """On documents drawn anew, or a tree would carve out a sample."""
    key_fresh = jax.random.fold_in(key, 0)
    fresh = evidence.with_fewer(tried, options.solver_sample, key_fresh)
    key_leaves = jax.random.fold_in(key, 1) if options.gumbel else None
    found = evidence.measure(
      theta, fresh, fit_R, plan.leaves, key=key_leaves, hard=options.hard
    )
    mean, _ = evidence.over_proxies(found.gain_P, fit_R, seen)
    return cost(theta, mean, found)

  before_P = evidence.measure(state.theta, some, judge_R, plan.leaves).gain_P

  def score(theta):
    found = evidence.measure(theta, some, judge_R, plan.leaves)
    mean, error = evidence.over_proxies(found.gain_P - before_P, judge_R, seen)
    return cost(theta, mean - error, found)

  return proximal.solve(
    noisy_cost,
    score,
    state.theta,
    key_noise,
    optimizer=plan.optimizer,
    num_steps=options.solver_steps,
    step_size=state.step_size,
    trust=options.trust,
  )


def _info(state, theta, seen, plan) -> Info:
  """Of the step from the state's theta to another, and whether it is taken."""

  def measure(theta, weight_R):
    return evidence.measure(theta, seen, weight_R, plan.leaves)

  fit_R, judge_R = replay.split(seen.replay, state.round)
  found, before = measure(theta, fit_R), measure(state.theta, fit_R)
  predicted, _ = evidence.over_proxies(
    found.gain_P - before.gain_P, fit_R, seen
  )
  more_P = measure(theta, judge_R).gain_P - measure(state.theta, judge_R).gain_P
  gain, error = evidence.over_proxies(more_P, judge_R, seen)
  taken = gain > error
  shares = _shares(state, seen.corpus, plan)

  step_size = jnp.where(
    state.step_size > 0,
    state.step_size,
    proximal.step_size(predicted, found.kl_step, trust=plan.step.trust),
  )

  def stands(new, old):
    return jnp.where(taken, new, old)

  return Info(
    predicted_gain=predicted,
    heldout_gain=gain,
    heldout_error=error,
    stepped=taken.astype(jnp.float32),
    kl_step=found.kl_step,
    kl_natural=stands(found.kl_natural, before.kl_natural),
    effective_sample_size=stands(
      found.effective_sample_size, before.effective_sample_size
    ),
    overlap=stands(
      plan.leaves.overlap(theta), plan.leaves.overlap(state.theta)
    ),
    step_size=stands(step_size, state.step_size),
    view_share=jax.tree.map(
      stands, views.by_level(shares(theta)), views.by_level(shares(state.theta))
    ),
    event={},
  )


def _shares(state, corpus, plan):
  """theta -> what its levels see of each view; of one view nothing is told."""
  if not state.views or plan.leaves.shares is None:
    return lambda theta: {}
  scatter_EE = views.scatter(corpus)
  return lambda theta: plan.leaves.shares(theta, scatter_EE, state.views)


def _weigh(theta, corpus, plan, max_weight):
  """(log_w_L, placed_N): the leaves' weights as a sample of the corpus has them."""
  placed_N = plan.leaves.place(theta, corpus.features)
  tilt_L = plan.leaves.tilt(theta)
  return mixture.normalized(
    tilt_L, placed_N, corpus.mass_N, max_weight=max_weight
  ), placed_N


def _temperature(options: Step, round_number):
  first, last = options.temperature
  return optax.schedules.exponential_decay(
    first, options.annealing_rounds, last / first, end_value=last
  )(round_number)
