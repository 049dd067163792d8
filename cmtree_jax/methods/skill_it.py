"""Skill-It: more of the domains that help most where the loss is still high."""

from typing import NamedTuple

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
  warmup: shapes.Array  # int, observations before the graph
  horizon: shapes.Array  # int, observations per row of the graph
  base_T: shapes.Array  # L(0), losses of the marked proxy
  graph_KT: shapes.Array  # A; rows that are not measured yet are zero
  recent_WT: shapes.Array  # losses at the last evaluations, newest last

  @property
  def since(self) -> shapes.Array:
    """Observations since the mark; from then on they measure the graph."""
    return self.course.time - self.warmup

  @property
  def end(self) -> shapes.Array:
    """The number of the last observation that measures the graph."""
    return self.horizon * self.course.num_present

  @property
  def ends_row(self) -> shapes.Array:
    """Whether a row of the graph is complete now."""
    since = self.since
    return (since > 0) & (since <= self.end) & (since % self.horizon == 0)

  @property
  def order_K(self) -> shapes.Array:
    """The domains in the order of their rows; those without documents come last."""
    return jnp.argsort(~self.course.present_K, stable=True)


class Info(NamedTuple):
  """What a person reads after an observation."""

  mixture_K: shapes.FloatK  # the mixture recommended now
  domain: shapes.Array  # the domain whose row is measured next; -1 for none
  mean_loss: shapes.Scalar  # mean of the evaluated losses


SMALL = Small(dict(every=4, warmup=4, update=2, eta=1.0))
PLANTED = Planted(
  dict(every=5, warmup=2, horizon=1, update=2, eta=3.0), more=TARGET_FIRST
)


def make(
  *,
  evaluate: str = "targets",
  every: int = 100,
  warmup: int = 10,
  horizon: int = 1,
  update: int = 4,
  eta: float = 0.2,
  window: int = 3,
  clip: bool = True,
  output: str = "mean",
) -> Method:
  r"""Measures which domain helps which loss, then follows the losses.

  .. math:: A_{ij} = \frac{L_j(0) - L_j(H \text{ steps on } i)}{L_j(0)}, \qquad
            p_i \propto \exp\Big(\eta \sum_j A_{ij}
            \sum_{\tau = t - w + 1}^{t} L_j(\tau)\Big)

  and :math:`p \propto \exp(\eta A 1)` before the first evaluation.

  The rows of the graph are measured one after the other, each from the same proxy:
  it was trained on the natural mixture, and the run goes on from it afterwards. All
  lengths but `every` count observations. `warmup` is shortened to a quarter of the
  run, and `horizon` so that the graph takes at most half of it; a run with no room
  for one observation per domain keeps the natural mixture.

  Args:
    evaluate: the losses j. "targets": the paper's out-of-domain setting, the graph
      has a row per domain and a column per target. "domains": its continual
      pre-training, a square graph, whatever the targets are.
    every: training steps per observation.
    warmup: length of the training before the graph is measured.
    horizon: H.
    update: length between two updates of p. (Aioli's comparison: 400 of 40,000
      steps.)
    eta: :math:`\eta`.
    window: w, evaluations whose losses are added up.
    clip: whether negative entries of the graph become zero, as in the published
      graphs of two fine-tuning tasks. The authors' trainer uses a graph as it is
      (False); its out-of-domain graph of Natural Instructions has negative entries.
    output: the recipe is the "mean" of p over the run, or the "last" p.
  Returns:
    A Method that steers a proxy.
  Cost:
    One proxy run, K x H of its steps for the graph, and evaluations.
  Raises:
    ValueError: for unknown words, lengths that are not positive, or an eta that
      is not above zero.
  References:
    Chen et al., `Skill-it! <https://arxiv.org/abs/2307.14430>`_, 2023, Algorithm 1.
    The authors' graphs are not learned by the shipped code; the formula is that of
    `Aioli's port <https://arxiv.org/abs/2411.05735>`_. Left out: entries of one off
    the diagonal becoming one half (for synthetic graphs that are drawn by hand).
    The shipped trainer evaluates at the beginning of each interval, so its updates
    lag behind by one; here as in the paper they see the proxy as it is.
  """
  checks.one_of("evaluate", evaluate, steering.EVALUATE)
  checks.one_of("output", output, steering.OUTPUT)
  checks.at_least(1, every=every, horizon=horizon, update=update, window=window)
  checks.at_least(0, warmup=warmup)
  checks.above_zero(eta=eta)

  def init(key: shapes.Key, facts: Facts) -> State:
    del key
    course = steering.start(facts, every)
    half = course.length // 2
    losses = steering.evaluation_size(facts, evaluate)
    return State(
      course=course,
      ask=steering.asking(course.mixture_K),
      warmup=jnp.minimum(warmup, course.length // 4),
      horizon=jnp.clip(half // course.num_present, 1, horizon),
      base_T=jnp.ones(losses),
      graph_KT=jnp.zeros((facts.num_domains, losses)),
      recent_WT=jnp.zeros((window, losses)),
    )

  def measure(state: State, loss_T) -> tuple[shapes.Array, shapes.Array]:
    """L(0) and A, with the row that is complete now."""
    base_T = jnp.where(state.since == 0, loss_T, state.base_T)
    drop_T = (base_T - loss_T) / base_T
    drop_T = jnp.maximum(drop_T, 0) if clip else drop_T
    # This observation ends the training on the domain before the next in order.
    domain = state.order_K[state.since // state.horizon - 1]
    with_row_KT = state.graph_KT.at[domain].set(drop_T)
    return base_T, jnp.where(state.ends_row, with_row_KT, state.graph_KT)

  def follow(
    state: State, graph_KT, loss_T
  ) -> tuple[shapes.FloatK, shapes.Array]:
    """p and the losses in the window; both change at an update alone."""
    after = state.since - state.end
    is_update = (after >= 0) & (after % update == 0)
    recent_WT = jnp.where(
      is_update & (after > 0),
      jnp.concatenate([state.recent_WT[1:], loss_T[None]]),
      state.recent_WT,
    )
    # Before the first evaluation, eta A 1.
    ones_WT = jnp.zeros_like(recent_WT).at[-1].set(1)
    seen_WT = jnp.where(after > 0, recent_WT, ones_WT)
    present_K, now_K = state.course.present_K, state.course.mixture_K
    p_K = proportions(graph_KT, seen_WT, eta=eta, present_K=present_K)
    return jnp.where(is_update, p_K, now_K), recent_WT

  def step(state: State, signals: Signals) -> tuple[State, Info]:
    loss_T = steering.evaluation(signals, state.course, evaluate)
    base_T, graph_KT = measure(state, loss_T)
    mixture_K, recent_WT = follow(state, graph_KT, loss_T)

    since = state.since
    is_probed = (since >= 0) & (since < state.end)
    domain = jnp.where(is_probed, state.order_K[since // state.horizon], -1)
    one_hot_K = (jnp.arange(len(mixture_K)) == domain).astype(mixture_K.dtype)
    ask = steering.asking(
      jnp.where(is_probed, one_hot_K, mixture_K),
      mark=since == 0,
      back=state.ends_row,
    )
    return State(
      course=state.course.then(mixture_K, since >= state.end),
      ask=ask,
      warmup=state.warmup,
      horizon=state.horizon,
      base_T=base_T,
      graph_KT=graph_KT,
      recent_WT=recent_WT,
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


def proportions(
  graph_KT: shapes.Array,
  recent_WT: shapes.Array,
  *,
  eta: float,
  present_K: shapes.Array,
) -> shapes.FloatK:
  """p from a graph and the losses in the window.

  Args:
    graph_KT: A.
    recent_WT: losses in the window; zeros for evaluations that are still to come.
    eta: as in `make`.
    present_K: domains that hold documents.
  Returns:
    p, which sums to one and is zero where no documents are.

  >>> graph_KT, both_K = jnp.array([[1.0, 0.5], [0.0, 1.0]]), jnp.ones(2, bool)
  >>> p_K = proportions(graph_KT, jnp.ones((1, 2)), eta=0.5, present_K=both_K)
  >>> p_K.round(3).tolist()
  [0.562, 0.438]
  """
  return steering.multiply(
    present_K, eta * graph_KT @ jnp.sum(recent_WT, axis=0)
  )
