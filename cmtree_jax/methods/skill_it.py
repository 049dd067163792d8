"""Skill-It: train more on the domains whose graph points to what is still bad."""

from typing import NamedTuple

import jax.numpy as jnp

from cmtree_jax import shapes
from cmtree_jax.methods import steering
from cmtree_jax.methods.base import (
  Ask,
  DomainWeights,
  Facts,
  Method,
  Signals,
)


class State(NamedTuple):
  """What the next observation needs."""

  course: steering.Course
  ask: Ask
  warmup: shapes.Array  # int, observations before the graph
  horizon: shapes.Array  # int, observations per row of the graph
  base_T: shapes.Array  # L(0), losses of the marked proxy
  graph_KT: shapes.Array  # A; rows that are not measured yet are zero
  recent_WT: shapes.Array  # losses of the last evaluations, newest last


class Info(NamedTuple):
  """What a person reads after an observation."""

  mixture_K: shapes.FloatK  # that is recommended
  domain: shapes.Array  # whose row of the graph is measured next; -1 for none
  mean_loss: shapes.Scalar  # of the evaluation


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

  The rows of the graph are measured one after the other, each from the same proxy,
  which was trained on the natural mixture before and which the run goes on from
  afterwards. All lengths but `every` count observations. `warmup` is shortened to a
  quarter of the run, and `horizon` so that the graph takes at most half of it; a
  run with no room for one observation per domain keeps the natural mixture.

  Args:
    evaluate: the losses j: "targets" (the paper's out-of-domain setting: the graph
      has a row per domain and a column per target) or "domains" (its continual
      pre-training: a square graph, whatever the targets are).
    every: training steps per observation.
    warmup: length of the training before the graph is measured.
    horizon: H.
    update: length between two updates of p. (Aioli's comparison: 400 of 40,000
      steps.)
    eta: :math:`\eta`.
    window: w, evaluations whose losses are added up.
    clip: raise negative entries of the graph to zero, as the published graphs of
      two fine-tuning tasks were. The authors' trainer uses a graph as it is, and
      its out-of-domain graph of Natural Instructions has negative entries: False.
    output: the recipe is the "mean" of p over the run, or the "last" p.
  Returns:
    A Method that steers a proxy; K x H of its steps go to the graph.
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
  steering.check_choice("evaluate", evaluate, steering.EVALUATE)
  steering.check_choice("output", output, steering.OUTPUT)
  steering.check_at_least(
    1, every=every, horizon=horizon, update=update, window=window
  )
  steering.check_at_least(0, warmup=warmup)
  if not eta > 0:
    raise ValueError(f"eta {eta} must be above 0.")

  def init(key: shapes.Key, facts: Facts) -> State:
    del key
    course = steering.start(facts, every)
    half = course.length // 2
    losses = facts.num_targets if evaluate == "targets" else facts.num_domains
    return State(
      course=course,
      ask=steering.asking(course.mixture_K),
      warmup=jnp.minimum(warmup, course.length // 4),
      horizon=jnp.clip(half // course.num_present, 1, horizon),
      base_T=jnp.ones(losses),
      graph_KT=jnp.zeros((facts.num_domains, losses)),
      recent_WT=jnp.zeros((window, losses)),
    )

  def step(state: State, signals: Signals) -> tuple[State, Info]:
    course = state.course
    loss_T = steering.evaluation(signals, course, evaluate)
    # Domains that are there come first.
    order_K = jnp.argsort(~course.present_K, stable=True)
    since = course.time - state.warmup  # observations since the mark
    row, within = since // state.horizon, since % state.horizon
    end = state.horizon * course.num_present

    base_T = jnp.where(since == 0, loss_T, state.base_T)
    drop_T = (base_T - loss_T) / base_T
    drop_T = jnp.maximum(drop_T, 0) if clip else drop_T
    is_measured = (since > 0) & (since <= end) & (within == 0)
    graph_KT = jnp.where(
      is_measured,
      state.graph_KT.at[order_K[row - 1]].set(drop_T),
      state.graph_KT,
    )

    is_steered = since >= end
    is_update = is_steered & ((since - end) % update == 0)
    recent_WT = jnp.where(
      is_update & (since > end),
      jnp.concatenate([state.recent_WT[1:], loss_T[None]]),
      state.recent_WT,
    )
    # Before the first evaluation, eta A 1.
    seen_WT = jnp.where(
      since > end, recent_WT, jnp.zeros_like(recent_WT).at[-1].set(1)
    )
    mixture_K = jnp.where(
      is_update,
      proportions(graph_KT, seen_WT, eta=eta, present_K=course.present_K),
      course.mixture_K,
    )

    is_probed = (since >= 0) & (since < end)
    domain = jnp.where(is_probed, order_K[row], -1)
    one_hot_K = (jnp.arange(len(order_K)) == domain).astype(mixture_K.dtype)
    ask = steering.asking(
      jnp.where(is_probed, one_hot_K, mixture_K),
      mark=since == 0,
      back=is_measured,
    )
    return State(
      course=course.then(mixture_K, is_steered),
      ask=ask,
      warmup=state.warmup,
      horizon=state.horizon,
      base_T=base_T,
      graph_KT=graph_KT,
      recent_WT=recent_WT,
    ), Info(mixture_K, domain, jnp.mean(loss_T))

  def finalize(state: State) -> DomainWeights:
    return state.course.recipe(output)

  return Method(
    init,
    step,
    finalize,
    steering.evaluation_signals(evaluate),
    "domains",
    ask=lambda state: state.ask,
    every=every,
    targeted=evaluate == "targets",
  )


def proportions(
  graph_KT: shapes.Array,
  recent_WT: shapes.Array,
  *,
  eta: float,
  present_K: shapes.Array | None = None,
) -> shapes.FloatK:
  """p of a graph and the losses of the evaluations in the window.

  Args:
    graph_KT: A.
    recent_WT: losses; rows of zeros for evaluations that are still to come.
    eta: as in `make`.
    present_K: domains that hold documents; all where None.
  Returns:
    p, which sums to one and is zero where no documents are.

  >>> graph_KT = jnp.array([[1.0, 0.5], [0.0, 1.0]])
  >>> proportions(graph_KT, jnp.ones((1, 2)), eta=0.5).round(3).tolist()
  [0.562, 0.438]
  """
  if present_K is None:
    present_K = jnp.ones(len(graph_KT), bool)
  return steering.softmax(
    eta * graph_KT @ jnp.sum(recent_WT, axis=0), present_K
  )
