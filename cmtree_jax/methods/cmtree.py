"""The cluster-mixture tree: partition and mixture learned together from values.

Each round brings values of probe documents: what the target loss falls by, to first
order, per unit of a document's weight, measured by the exact hypergradient through
training steps of proxies of several ages. They join a replay buffer, and the tree
takes a proximal step on them: angles, prototypes and tilts move at once.
"""

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from cmtree_jax import shapes
from cmtree_jax.methods import checks, tree_domains, tree_start
from cmtree_jax.methods.base import (
  Facts,
  Method,
  Planted,
  Signals,
  Small,
)
from cmtree_jax.tree import mixture, model, penalties, proximal


class TreeWeights(NamedTuple):
  """A tree with its leaves' weights: answers for any document."""

  theta: model.Theta
  log_w_L: shapes.FloatL

  def log_p_leaf(self, embedding_BE: shapes.FloatBE) -> shapes.FloatBL:
    """Where documents fall, without noise."""
    return model.log_p_leaf(self.theta, embedding_BE)

  def log_w(self, signals: Signals) -> shapes.FloatB:
    """The mean weight of each document's leaves."""
    log_p_BL = self.log_p_leaf(signals.embedding_BE)
    return mixture.document_log_w(log_p_BL, self.log_w_L)


class Buffer(NamedTuple):
  """Values of past rounds, newest first; evidence outlives the partition."""

  embedding_RE: shapes.Array
  value_R: shapes.Array  # centered in its round, in units of the outer loss
  weight_R: shapes.Array  # natural mass over proposal; 0 where empty


class State(NamedTuple):
  """What the next round needs."""

  theta: model.Theta
  log_w_L: shapes.FloatL  # of theta's leaves
  previous: model.Theta  # before the last step, to go back to
  previous_log_w_L: shapes.FloatL
  replay: Buffer
  step_size: shapes.Scalar  # eta; 0 before the first round
  round: shapes.Scalar
  key: shapes.Array  # key data
  max_weight: shapes.Scalar
  horizon: shapes.Scalar  # final training steps per step of a value's window


class Info(NamedTuple):
  """What a person reads after a round; gains in units of the outer loss."""

  predicted_gain: shapes.Scalar  # of the step, on the replayed documents
  heldout_gain: shapes.Scalar  # on a fifth of them that the step did not see
  kl_step: shapes.Scalar  # nats from the weights before the step
  kl_natural: shapes.Scalar  # nats from the natural mixture
  effective_sample_size: shapes.Scalar
  overlap: shapes.Scalar  # of the levels' angles
  step_size: shapes.Scalar


@dataclasses.dataclass(frozen=True)
class Start:
  """What the first partition is made of.

  Args:
    kind: "kmeans": every level's leading principal directions, and k-means in
      them, with tilts from similarity; "ratio": from there, all that the tree's
      mode lets move is fitted to the density ratio of target and corpus, as long
      as validation texts grow likelier; "random": random projections, and random
      documents of the corpus as prototypes, with tilts from similarity.
    angle_dim: P of every level. Levels differ in angle only below the embedding's
      dimension, which an oblivious tree needs.
    kappa: sharpness of every level.
    target_share: of the documents that k-means sees.
    max_weight: of a document by the density ratio; the effective sample size at
      the start is then at least its inverse.
    steps: Adam steps of the density ratio, at most.
  Raises:
    ValueError: an unknown kind, or a bound below one.
  """

  kind: str = "ratio"
  angle_dim: int = 64
  kappa: float = 64.0
  target_share: float = 0.5
  max_weight: float = 33.0
  steps: int = 120

  def __post_init__(self):
    checks.one_of("kind", self.kind, ("ratio", "kmeans", "random"))
    if self.max_weight < 1:
      raise ValueError(
        f"max_weight {self.max_weight} must be at least 1, the mean of all weights."
      )


@dataclasses.dataclass(frozen=True)
class Step:
  r"""How far a round moves, at what cost, and by which solver.

  Args:
    trust: nats.
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
    hard: straight-through leaves while it works.
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


@dataclasses.dataclass(frozen=True)
class Replay:
  """Which values a round learns from.

  Args:
    size: documents kept.
    decay: factor on the weight of older values per round.
    clip: standard deviations at which a centered value is clipped.
    shuffle: a control that must not gain: the values of a round are dealt out
      anew among its documents, at random.
  """

  size: int = 6144
  decay: float = 0.7
  clip: float = 3.0
  shuffle: bool = False


SMALL = Small()
PLANTED = Planted(
  dict(
    branching=(2, 2),
    start=Start(angle_dim=3, kappa=4.0),
    step=Step(solver_steps=30, gumbel=False),
    replay=Replay(size=80),
  )
)


def make(
  *,
  branching: tuple[int, ...] = (4, 4),
  mode: str = "joint",
  projection: str = "per_level",
  oblivious: bool = False,
  start: Start = Start(),
  step: Step = Step(),
  replay: Replay = Replay(),
) -> Method:
  r"""Learns a tree and its mixture from the values of documents.

  Round r solves, from the current :math:`\theta_r` and by Adam,

  .. math:: \theta_{r+1} = \arg\max_\theta \; H\,\mathbb{E}_i[v_i w_i(\theta)]
            - \beta\, \mathrm{KL}(w(\theta) \Vert w(\theta_r))
            - \lambda\, \mathrm{KL}(w(\theta) \Vert 1) - \mu\, \mathrm{overlap}

  with the expectation over the natural distribution, estimated from documents
  drawn with a known proposal. Values are in units of the outer loss, so steps
  vanish where marginal values meet. :math:`\beta` is set in the first round so
  that the step moves `step.trust` nats, and raised where a later one would move more;
  it doubles whenever a measured step did not help, and that step is taken back.

  Args:
    branching: children per node, from the root down. One number is a flat
      partition.
    mode: "joint" moves angles, prototypes, sharpness and tilts; "frozen" moves
      the tilts alone, on the partition of the start; "domains" moves the tilts
      of the K domains of the partition that is given (the labelled sources, for
      one), and reads none of the options of the tree's form and start.
    projection: "per_level", or "shared": all levels have one angle, which is
      learned as one parameter (gradients are summed over levels). The overlap
      penalty is then a constant.
    oblivious: a level's prototypes are shared by its nodes (a product of
      partitions).
    start: what the first partition is made of.
    step: how far a round moves, and by which solver.
    replay: which values it learns from.
  Returns:
    A Method of the loop `values`.
  Cost:
    Per round and proxy, one exact hypergradient through `values.unroll` steps,
    `values.probe_rows` probed rows and `values.lookahead` steps twice.
  Raises:
    ValueError: an unknown mode or projection, or a level of fewer than two
      children.
  References:
    Values: Gu et al., `PDS <https://arxiv.org/abs/2410.07064>`_, 2024; start:
    Grangier et al., `CRISP <https://arxiv.org/abs/2410.03735>`_, 2024, and
    Sugiyama et al., `KLIEP <https://doi.org/10.1007/s10463-008-0197-x>`_, 2008.
  """
  checks.one_of("mode", mode, ("joint", "frozen", "domains"))
  checks.one_of("projection", projection, ("per_level", "shared"))
  if not branching or min(branching) < 2:
    raise ValueError(
      f"branching {branching} must give every level at least 2 children."
    )
  temperature_at = optax.schedules.exponential_decay(
    step.temperature[0],
    step.annealing_rounds,
    step.temperature[1] / step.temperature[0],
    end_value=step.temperature[1],
  )
  optimizer = optax.multi_transform(
    {
      "tilt": optax.adam(step.tilt_rate),
      "partition": optax.adam(step.partition_rate)
      if mode == "joint"
      else optax.set_to_zero(),
    },
    _labels,
  )
  if projection == "shared":
    optimizer = optax.chain(_tied_angles(), optimizer)
  plan = tree_start.Plan(
    start.kind,
    tuple(branching),
    start.angle_dim,
    start.kappa,
    oblivious,
    shared=projection == "shared",
    target_share=start.target_share,
    optimizer=optimizer,
    max_weight=start.max_weight,
    num_steps=start.steps,
    batch=step.solver_sample,
  )

  def init(key: shapes.Key, facts: Facts) -> State:
    key_start, key_noise = jax.random.split(key)
    if mode == "domains":
      theta = tree_domains.start(facts)
    else:
      theta = tree_start.make(key_start, facts, plan)
    corpus = Corpus(
      jnp.asarray(facts.sample_NE),
      jnp.asarray(facts.sample_mass_N),
      temperature_at(0),
      jnp.float32(facts.max_weight),
    )
    log_w_L, _ = _weigh(theta, corpus)
    empty_R = jnp.zeros(replay.size)
    embedding_RE = jnp.zeros((replay.size, corpus.sample_NE.shape[1]))
    return State(
      theta=theta,
      log_w_L=log_w_L,
      previous=theta,
      previous_log_w_L=log_w_L,
      replay=Buffer(embedding_RE, empty_R, empty_R),
      step_size=jnp.float32(0.0),
      round=jnp.int32(0),
      key=jax.random.key_data(key_noise),
      max_weight=corpus.max_weight,
      horizon=jnp.float32(facts.horizon),
    )

  def advance(state: State, signals: Signals) -> tuple[State, Info]:
    key = jax.random.fold_in(jax.random.wrap_key_data(state.key), state.round)
    if replay.shuffle:
      key_sample, key_noise, key_shuffle = jax.random.split(key, 3)
      signals = _shuffle_values(signals, key_shuffle)
    else:
      key_sample, key_noise = jax.random.split(key)
    buffer = _remember(
      state.replay,
      signals,
      finalize(state).log_w(signals),
      decay=replay.decay,
      clip=replay.clip,
    )
    whole = Corpus(
      signals.sample_NE,
      signals.sample_mass_N,
      temperature_at(state.round),
      state.max_weight,
    )
    log_w_L, log_p_NL = _weigh(state.theta, whole)
    whole = whole._replace(before_N=mixture.document_log_w(log_p_NL, log_w_L))
    before_R = TreeWeights(state.theta, log_w_L).log_w(
      Signals(embedding_BE=buffer.embedding_RE)
    )
    fit_R, held_R = _split(buffer.weight_R)
    some = _sample(whole, step.solver_sample, key_sample)

    def measure(theta, weight_R, corpus=whole, key=None):
      return _measure(
        theta,
        corpus,
        buffer,
        weight_R,
        before_R,
        horizon=state.horizon,
        key=key,
        hard=step.hard,
      )

    def cost(theta, weight_R, corpus, key=None):
      """What a step minimizes; and the KL divergence that it moves."""
      found = measure(theta, weight_R, corpus, key)
      return (
        -found.gain
        + step.kl_penalty * found.kl_natural
        + step.overlap_penalty * penalties.angle_overlap(theta)
      ), found.kl_step

    def noisy_cost(theta, key):
      """On documents drawn anew, or a tree would carve out a sample."""
      fresh = _sample(whole, step.solver_sample, jax.random.fold_in(key, 0))
      noise = jax.random.fold_in(key, 1) if step.gumbel else None
      return cost(theta, fit_R, fresh, noise)

    theta, step_size = proximal.solve(
      noisy_cost,
      lambda theta: cost(theta, held_R, some),
      state.theta,
      key_noise,
      optimizer=optimizer,
      num_steps=step.solver_steps,
      step_size=state.step_size,
      trust=step.trust,
    )
    found, held = measure(theta, buffer.weight_R), measure(theta, held_R)
    info = Info(
      predicted_gain=found.gain - measure(state.theta, buffer.weight_R).gain,
      heldout_gain=held.gain - measure(state.theta, held_R).gain,
      kl_step=found.kl_step,
      kl_natural=found.kl_natural,
      effective_sample_size=found.effective_sample_size,
      overlap=penalties.angle_overlap(theta),
      step_size=step_size,
    )
    return state._replace(
      theta=theta,
      log_w_L=_weigh(theta, whole)[0],
      previous=state.theta,
      previous_log_w_L=log_w_L,
      replay=buffer,
      step_size=step_size,
      round=state.round + 1,
    ), info

  def judge(state: State, gain: shapes.Scalar) -> State:
    keep = gain >= 0
    choose = functools.partial(jax.tree.map, functools.partial(jnp.where, keep))
    return state._replace(
      theta=choose(state.theta, state.previous),
      log_w_L=choose(state.log_w_L, state.previous_log_w_L),
      step_size=jnp.where(keep, state.step_size, state.step_size / 2),
    )

  def finalize(state: State) -> TreeWeights:
    return TreeWeights(state.theta, state.log_w_L)

  signals = {
    "mass_B",
    "embedding_BE",
    "value_B",
    "log_proposal_B",
    "sample_NE",
    "sample_mass_N",
  }
  tree = Method(
    init, advance, finalize, frozenset(signals), "values", judge, weighs="tree"
  )
  return tree_domains.of_domains(tree) if mode == "domains" else tree


class Corpus(NamedTuple):
  """A sample that stands for the corpus, and how a tree's weights follow on it."""

  sample_NE: shapes.FloatNE
  mass_N: shapes.FloatN
  temperature: shapes.Scalar  # of noisy leaves
  max_weight: shapes.Scalar
  before_N: shapes.Array = ()  # log-weights before a step


def _sample(corpus: Corpus, size: int, key: shapes.Key) -> Corpus:
  """At most `size` documents of a corpus, with their masses."""
  if corpus.mass_N.shape[0] <= size:
    return corpus
  chosen = jax.random.choice(
    key, corpus.mass_N.shape[0], (size,), replace=False
  )
  mass_N = corpus.mass_N[chosen]
  return corpus._replace(
    sample_NE=corpus.sample_NE[chosen],
    mass_N=mass_N / jnp.sum(mass_N),
    before_N=corpus.before_N[chosen],
  )


class Measure(NamedTuple):
  """What a tree would do."""

  gain: shapes.Scalar  # predicted fall of the outer loss at the end of training
  kl_step: shapes.Scalar
  kl_natural: shapes.Scalar
  effective_sample_size: shapes.Scalar


def _labels(theta: model.Theta):
  """Which of the two learning rates a parameter has."""
  return tuple(
    model.Level("partition", "partition", "partition", "tilt") for _ in theta
  )


def _tied_angles() -> optax.GradientTransformation:
  """Sums the angles' gradients over levels: equal angles then stay equal."""

  def tie(grads, params):
    del params
    total_PE = sum(level.angle_PE for level in grads)
    return tuple(level._replace(angle_PE=total_PE) for level in grads)

  return optax.stateless(tie)


def _shuffle_values(signals: Signals, key: shapes.Key) -> Signals:
  """The same values on other documents; what has no mass keeps its own."""
  real_B = signals.mass_B > 0
  draw_B = jax.random.uniform(key, real_B.shape)
  from_B = jnp.argsort(jnp.where(real_B, draw_B, jnp.inf), stable=True)
  to_B = jnp.argsort(~real_B, stable=True)
  value_B = jnp.asarray(signals.value_B)
  return signals._replace(value_B=value_B.at[to_B].set(value_B[from_B]))


def _weigh(theta, corpus: Corpus, *, key=None, hard=False):
  """(log_w_L, log_p_NL): the leaves' weights against the sample's masses."""
  log_p_NL = _log_p_leaf(theta, corpus.sample_NE, corpus.temperature, key)
  if hard:
    log_p_NL = jnp.log(model.straight_through(log_p_NL) + 1e-9)
  log_w_L = mixture.leaf_log_w(
    mixture.leaf_tilt(theta),
    mixture.leaf_mass(log_p_NL, corpus.mass_N),
    max_weight=corpus.max_weight,
  )
  return log_w_L, log_p_NL


def _log_p_leaf(theta, embedding_BE, temperature, key):
  """Noisy leaves at the temperature, or the read-out at temperature one.

  The two agree: the mean of Gumbel samples at low temperatures is the softmax at
  temperature one.
  """
  if key is None:
    return model.log_p_leaf(theta, embedding_BE)
  return model.log_p_leaf(theta, embedding_BE, temperature=temperature, key=key)


def _measure(
  theta, corpus, replay, weight_R, before_R, *, horizon, key, hard
) -> Measure:
  """Gain and divergences of a tree's weights; noise is drawn with `key`.

  The gain is that of documents weighed by `weight_R`. The step's divergence is
  the mean of two estimates, from the corpus sample and from all valued documents.
  The second keeps a tree from carving out single documents that happened to be
  valued highly, which the sample would not see.
  """
  keys = (None, None) if key is None else tuple(jax.random.split(key))
  log_w_L, log_p_NL = _weigh(theta, corpus, key=keys[0], hard=hard)
  log_w_N = mixture.document_log_w(log_p_NL, log_w_L)
  log_p_RL = _log_p_leaf(
    theta, replay.embedding_RE, corpus.temperature, keys[1]
  )
  log_w_R = mixture.document_log_w(log_p_RL, log_w_L)
  weight_R = weight_R / jnp.sum(weight_R)
  all_R = replay.weight_R / jnp.sum(replay.weight_R)
  natural_N = jnp.zeros_like(log_w_N)
  divergences = (
    mixture.kl_divergence(log_w_N, corpus.before_N, corpus.mass_N),
    mixture.kl_divergence(log_w_R, before_R, all_R),
  )
  return Measure(
    gain=horizon * jnp.sum(weight_R * replay.value_R * jnp.exp(log_w_R)),
    kl_step=(divergences[0] + divergences[1]) / 2,
    kl_natural=mixture.kl_divergence(log_w_N, natural_N, corpus.mass_N),
    effective_sample_size=mixture.effective_sample_size(log_w_N, corpus.mass_N),
  )


def _split(weight_R):
  """The replay's weights with a fifth of the documents held out, and theirs."""
  held_R = jnp.arange(weight_R.shape[0]) % 5 == 0
  return jnp.where(held_R, 0.0, weight_R), jnp.where(held_R, weight_R, 0.0)


def _remember(replay, signals, log_w_B, *, decay, clip):
  """The buffer with a round's values in front, centered and clipped.

  The baseline is the mean value under the weights that were trained on; with it
  the gain of leaving the weights as they are is zero.
  """
  weight_B = signals.mass_B * jnp.exp(-signals.log_proposal_B)
  current_B = weight_B * jnp.exp(log_w_B)
  baseline = jnp.sum(current_B * signals.value_B) / jnp.sum(current_B)
  value_B = signals.value_B - baseline
  # The spread of what is trained on: documents far from it have heavy tails.
  spread = jnp.sqrt(jnp.sum(current_B * value_B**2) / jnp.sum(current_B))
  value_B = jnp.clip(value_B, -clip * spread, clip * spread)
  size = replay.value_R.shape[0]
  # A round weighs the same however many documents it brings.
  weight_B /= jnp.sum(weight_B)
  join = lambda new, old: jnp.concatenate([new, old])[:size]  # noqa: E731
  return Buffer(
    join(signals.embedding_BE, replay.embedding_RE),
    join(value_B, replay.value_R),
    join(weight_B, decay * replay.weight_R),
  )
