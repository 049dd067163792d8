"""Aioli: follows a linear mixing law whose parameters it measures while it trains."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from cmtree_jax import checks, shapes
from cmtree_jax.methods import steering
from cmtree_jax.methods.base import (
  TARGET_FIRST,
  Ask,
  Facts,
  Method,
  Planted,
  Signals,
  Small,
)


class State(NamedTuple):
  """What the next observation needs."""

  course: steering.Course
  ask: Ask
  key: shapes.Array  # key data
  sweeps: shapes.Array  # int, sweeps of a round, as many as fit
  domain: shapes.Array  # int, the domain that is probed; -1 for none
  before_T: shapes.Array  # losses before the probe
  drop_TK: shapes.Array  # B times the sweeps; normalization takes them out
  graph_TK: shapes.Array  # A, normalized, averaged over rounds
  rounds: shapes.Array  # int, rounds that have learned a graph


class Round(NamedTuple):
  """A round of training: first LearnParams, then rest."""

  number: shapes.Array  # int, rounds before it
  now: shapes.Array  # int, observations of this round before this one
  learn: shapes.Array  # int, observations that LearnParams takes
  fits: shapes.Array  # whether LearnParams ends within the run

  @property
  def is_probed(self) -> shapes.Array:
    """Whether a domain is trained on next."""
    return self.fits & (self.now < self.learn)

  @property
  def is_learned(self) -> shapes.Array:
    """Whether LearnParams has come to its end."""
    return self.fits & (self.now == self.learn)


class Info(NamedTuple):
  """What a person reads after an observation."""

  mixture_K: shapes.FloatK  # the mixture recommended now
  domain: shapes.Array  # the domain that is probed next; -1 for none
  mean_loss: shapes.Scalar  # mean of the evaluated losses


SMALL = Small(dict(every=2, lp_rounds=1, eta=6.0))
PLANTED = Planted(dict(every=2, lp_rounds=1, eta=4.0), more=TARGET_FIRST)


def make(
  *,
  evaluate: str = "targets",
  every: int = 10,
  lp_rounds: int = 2,
  lp_steps: int = 1,
  delta: float = 0.7,
  phi: float = 0.75,
  eta: float = 1.0,
  ema: float | None = 0.1,
  output: str = "mean",
) -> Method:
  r"""Learns the parameters of a linear mixing law in every round, and follows them.

  .. math:: L_i^{t+1} = L_i^t - \sum_j A_{ij}^t p_j^t, \qquad
            p_j \propto \exp\Big(\eta \sum_i \bar A_{ij}\Big), \qquad
            \bar A = (1 - \beta) A + \beta \bar A

  A round begins with LearnParams, sweeps over the domains in random order: for
  each domain j the proxy trains for a while on the smoothed one-hot mixture
  :math:`p^{(j)}` (weight :math:`\phi` on j, the others alike). The falls of all
  losses make up the matrix B, row by row. Then :math:`P A_i = B_i` is solved for
  each loss, with P the matrix of the :math:`p^{(j)}`; A is shifted up by its minimum
  where that is negative, and divided by its sum. The rest of the round trains on p.

  Before the first A, p is uniform over the domains that hold documents. There are
  fewer sweeps where not even one round would fit, and a round that would not end
  within the run is trained on p as a whole.

  Args:
    evaluate: the losses i. "targets": a row per target. "domains": the paper's
      training domains, whatever the targets are.
    every: training steps per observation.
    lp_rounds: sweeps of a round.
    lp_steps: observations per probe; the paper's number of steps is this times
      `every`.
    delta: :math:`\delta`, share of a round that LearnParams takes (SlimPajama's
      seven domains: 2 x 7 x 10 of 200 steps).
    phi: :math:`\phi`, above one half so that P can be inverted.
    eta: :math:`\eta`.
    ema: :math:`\beta`; None for :math:`p_j \propto p_j' \exp(\eta \sum_i A_{ij})`
      with p' from the round before.
    output: the recipe is the "mean" of the p trained on, or the "last" p.
  Returns:
    A Method that steers a proxy.
  Cost:
    One proxy run, 70 % of it to measure the law, and evaluations.
  Raises:
    ValueError: for unknown words, lengths that are not positive, a phi, delta or
      ema out of its range, or an eta that is not above zero.
  References:
    Chen et al., `Aioli <https://arxiv.org/abs/2411.05735>`_, 2024, Algorithms 1
    and 2. Not here: the start from another method's weights.
    The authors' code subtracts the steps of LearnParams from the *rows* of a round,
    so its rounds are longer than its `update_steps`; here as in the paper a round
    has LearnParams within it.
  """
  checks.one_of("evaluate", evaluate, steering.EVALUATE)
  checks.one_of("output", output, steering.OUTPUT)
  checks.at_least(1, every=every, lp_rounds=lp_rounds, lp_steps=lp_steps)
  checks.above_zero(eta=eta)
  if not 0 < delta <= 1:
    raise ValueError(f"delta {delta} must be above 0 and at most 1.")
  if not 0.5 < phi <= 1:
    raise ValueError(f"phi {phi} must be above 0.5 and at most 1.")
  if ema is not None and not 0 <= ema < 1:
    raise ValueError(f"ema {ema} must be at least 0 and below 1, or None.")

  def init(key: shapes.Key, facts: Facts) -> State:
    course = steering.start(facts, every, uniform=True)
    losses = steering.evaluation_size(facts, evaluate)
    sweep = course.num_present * lp_steps
    zero_TK = jnp.zeros((losses, facts.num_domains))
    return State(
      course=course,
      ask=steering.asking(course.mixture_K),
      key=jax.random.key_data(key),
      sweeps=jnp.clip((course.length - 1) // sweep, 1, lp_rounds),
      domain=jnp.int32(-1),
      before_T=jnp.zeros(losses),
      drop_TK=zero_TK,
      graph_TK=zero_TK,
      rounds=jnp.int32(0),
    )

  def round_of(state: State) -> Round:
    course = state.course
    learn = state.sweeps * course.num_present * lp_steps
    length = jnp.round(learn / delta).astype(learn.dtype)
    # At least one observation trains on p, or the round would never use what it
    # learned.
    length = jnp.maximum(learn + 1, length)
    number, now = course.time // length, course.time % length
    fits = course.time - now + learn < course.length
    return Round(number, now, learn, fits)

  def measure(state: State, at: Round, loss_T) -> State:
    """The state with what the last probe did to the losses."""
    is_edge = at.fits & (at.now <= at.learn) & (at.now % lp_steps == 0)
    drop_TK = jnp.where(at.now == 0, 0.0, state.drop_TK)
    fallen_TK = drop_TK.at[:, state.domain].add(state.before_T - loss_T)
    return state._replace(
      drop_TK=jnp.where(is_edge & (at.now > 0), fallen_TK, drop_TK),
      before_T=jnp.where(is_edge, loss_T, state.before_T),
    )

  def learned(state: State, smooth_KK) -> tuple[shapes.Array, shapes.FloatK]:
    """A, averaged over rounds, and its p, at the end of LearnParams."""
    course = state.course
    known_T = (
      course.present_K
      if evaluate == "domains"
      else jnp.ones(len(state.drop_TK), bool)
    )
    graph_TK = normalize(
      desmooth(smooth_KK, state.drop_TK), known_T[:, None] & course.present_K
    )
    prior_K = course.mixture_K
    if ema is not None:
      old_TK = jnp.where(state.rounds > 0, state.graph_TK, graph_TK)
      graph_TK = (1 - ema) * graph_TK + ema * old_TK
      prior_K = course.uniform_K
    p_K = steering.multiply(prior_K, eta * jnp.sum(graph_TK, axis=0))
    return graph_TK, p_K

  def next_domain(state: State, at: Round) -> shapes.Array:
    """The domain that is probed next; -1 for none."""
    present_K, count = state.course.present_K, state.course.num_present
    probe = at.now // lp_steps
    sweep = at.number * state.sweeps + probe // count
    order_K = _random_order(state.key, sweep, present_K)
    return jnp.where(at.is_probed, order_K[probe % count], -1).astype(jnp.int32)

  def step(state: State, signals: Signals) -> tuple[State, Info]:
    course, at = state.course, round_of(state)
    loss_T = steering.evaluation(signals, course, evaluate)
    state = measure(state, at, loss_T)
    smooth_KK = smoothed_one_hots(course.present_K, phi)
    graph_TK, p_K = learned(state, smooth_KK)
    mixture_K = jnp.where(at.is_learned, p_K, course.mixture_K)
    domain = next_domain(state, at)
    rounds = state.rounds + at.is_learned
    asked_K = jnp.where(at.is_probed, smooth_KK[domain], mixture_K)
    return State(
      course=course.then(mixture_K, ~at.is_probed & (rounds > 0)),
      ask=steering.asking(asked_K),
      key=state.key,
      sweeps=state.sweeps,
      domain=domain,
      before_T=state.before_T,
      drop_TK=state.drop_TK,
      graph_TK=jnp.where(at.is_learned, graph_TK, state.graph_TK),
      rounds=rounds,
    ), Info(mixture_K, domain, jnp.mean(loss_T))

  return Method(
    init,
    step,
    finalize=lambda state: state.course.recipe(output),
    signals=steering.evaluation_signals(evaluate),
    loop="steer",
    ask=lambda state: state.ask,
    every=every,
    targeted=evaluate == "targets",
  )


def smoothed_one_hots(present_K: shapes.Array, phi: float) -> shapes.Array:
  """P: row j has weight phi on domain j, and the rest on the others alike.

  Rows of domains without documents are one-hot: they are never trained on, and so
  P can be inverted.
  """
  count = jnp.sum(present_K)
  other = (1 - phi) / jnp.maximum(count - 1, 1)
  eye_KK = jnp.eye(len(present_K))
  smooth_KK = other + (1 - other * count) * eye_KK
  smooth_KK = jnp.where(present_K[None, :], smooth_KK, 0.0)
  return jnp.where(present_K[:, None], smooth_KK, eye_KK)


def desmooth(smooth_KK: shapes.Array, drop_TK: shapes.Array) -> shapes.Array:
  """A: what one-hot mixtures would have done, from what the mixtures P did.

  Args:
    smooth_KK: P, a mixture per row.
    drop_TK: B, column j the falls of the losses under row j of P.
  Returns:
    A, with P A_i = B_i for every row i.

  >>> smooth_KK = jnp.array([[0.75, 0.25], [0.25, 0.75]])
  >>> desmooth(smooth_KK, jnp.array([[0.75, 0.25]])).round(3).tolist()
  [[1.0, 0.0]]
  """
  return jnp.linalg.solve(smooth_KK, drop_TK.T).T


def normalize(graph_TK: shapes.Array, known_TK: shapes.Array) -> shapes.Array:
  """A without negative entries and with sum one; zero where it is not known.

  >>> normalize(jnp.array([[2.0, -1.0]]), jnp.ones((1, 2), bool)).tolist()
  [[1.0, 0.0]]
  """
  least = jnp.min(jnp.where(known_TK, graph_TK, jnp.inf))
  graph_TK = jnp.where(known_TK, graph_TK - jnp.minimum(least, 0), 0.0)
  total = jnp.sum(graph_TK)
  return graph_TK / jnp.where(total > 0, total, 1.0)


def _random_order(
  key_data: shapes.Array, sweep: shapes.Array, present_K: shapes.Array
) -> shapes.Array:
  """A sweep's order of the domains; those without documents come last."""
  key = jax.random.fold_in(jax.random.wrap_key_data(key_data), sweep)
  order_K = jax.random.permutation(key, len(present_K))
  return order_K[jnp.argsort(~present_K[order_K], stable=True)]
