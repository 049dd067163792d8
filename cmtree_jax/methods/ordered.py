"""Ordered: a domain is opened when those that teach it have been learned."""

from typing import NamedTuple

import jax.numpy as jnp

from cmtree_jax import checks, shapes
from cmtree_jax.methods import steering
from cmtree_jax.methods.base import (
  Ask,
  Facts,
  Method,
  Planted,
  Signals,
  Small,
)
from cmtree_jax.methods.laws import learning_curves

GRAPHS = ("first", "moving", "reversed")


class State(NamedTuple):
  """What the next observation needs."""

  course: steering.Course
  loss_NK: shapes.Array  # losses observed so far, then ones
  gram_KK: shapes.Array  # mean of the products, each over its mean diagonal
  edge_KK: shapes.Array  # bool, whether i is to be learned before j
  done_K: shapes.Array  # bool, which domains have been learned far enough


class Info(NamedTuple):
  """What a person reads after an observation."""

  mixture_K: shapes.FloatK
  open_K: shapes.Array  # bool
  progress_K: shapes.FloatK  # share of the progress that the run is good for
  edge_KK: shapes.Array  # bool, i before j
  appeared: (
    shapes.Array
  )  # int, edges since the last observation, turned ones too
  vanished: shapes.Array
  turned: shapes.Array


SMALL = Small(dict(every=10))
PLANTED = Planted(
  dict(every=5, first=2),
  cannot="no planted domain teaches another, and it knows no targets",
)


def make(
  *,
  graph: str = "first",
  every: int = 10,
  first: int = 4,
  decay: float = 0.9,
  margin: float = 0.05,
  rho: float = 0.8,
  floor: float = 0.1,
  latest: float = 0.5,
  output: str = "mean",
) -> Method:
  r"""Keeps a domain back until what teaches it has been learned.

  .. math:: A_{ij} = \frac{\langle g_i, g_j \rangle}{\|g_i\|^2}, \qquad
            i \to j \iff A_{ij} > \max(A_{ji}, 0) + m, \qquad
            s_i = \frac{L_i(1) - L_i(n)}{L_i(1) - \hat L_i(N)}

  with the gradients g of the domains' mean losses: :math:`A_{ij}` is the fall of the
  loss of j for every unit by which a small step on i lowers the loss of i. Domain j is
  open when :math:`s_i \ge \rho` has been reached by all i with :math:`i \to j`. Here n
  are the steps so far, N those of the run, and :math:`\hat L(N)` is the loss at its end
  by a law :math:`e + c\, n^{-\alpha}` fitted to the losses so far. A domain that is
  not going to learn anything, less than a hundredth of its loss, is not waited for.
  Closed domains have a part of their natural share, and open ones what they are owed,
  but no less than that part, so that over the run all have about their natural shares,
  in another order:

  .. math:: p_j \propto \frac{q_j T - \sum_{u < t} p_{ju}}{T - t}

  No cycle can lock it. Where products are positive an arrow leads from the shorter
  gradient to the longer, and none is drawn where they are negative: so there are no
  cycles. And whatever the forecasts say, all are open from a share of the run on.

  How sure this is: the method is ours, and so is every default. Its order follows a
  given graph, but the graph of gradients is not shown to say what should be learned
  first. Of two skills and their composition it put the composition first in three runs
  of five, for a text that holds both lowers the loss of each by more than each lowers
  its own, and the model ended worse than without any order
  (`experiments/compositions.py`).
  The arrow is a matter of lengths, and the length of a gradient of few rows is mostly
  noise, so a noisy domain looks as if it were taught by a quiet one. On the default
  corpus, with one row of each of 16 clusters, most :math:`A_{ij}` are within .1 of
  zero, and of 240 pairs two at most had an edge; raise `config.observe.rows` where the
  graph is to say something. Half of the progress is made in the first fifth of a run
  there, and so :math:`\rho` must be higher. And what is handed over after this search is
  the mean mixture, in which nothing is left of the order: the method is made for a
  training that goes on under its hands.

  Args:
    graph: "first" is the mean of the first observations, then frozen. "moving" goes on
      as a decaying mean, so that edges may appear, vanish and turn. "reversed" is a
      control: the first with all of its arrows turned.
    every: training steps per observation.
    first: observations until there is a graph; all is open before. At most a quarter of
      the run.
    decay: what the moving mean keeps of itself at an observation.
    margin: m.
    rho: :math:`\rho`.
    floor: the part of its natural share that a closed domain keeps, before the shares
      are normalized; 1 keeps nothing back.
    latest: share of the run after which all domains are open.
    output: the recipe is the "mean" of the mixtures, or the "last" one.
  Returns:
    A Method that steers a proxy; it knows nothing of the targets.
  Cost:
    One proxy run, with a gradient of every domain and an evaluation of all every
    `every` steps. A gradient of the targets is paid for as well, for it shares the
    signal. The fits cost next to nothing.
  Raises:
    ValueError: for an unknown word, a length below one, a margin below zero, or a share
      that is not from 0 to 1.
  References:
    Chen et al., `Skill-it! <https://arxiv.org/abs/2307.14430>`_, 2023, for ordered
    skills; they measure their graph by training on each. Chen et al., `Aioli
    <https://arxiv.org/abs/2411.05735>`_, 2024, for a graph that is measured again and
    averaged.
  """
  checks.one_of("graph", graph, GRAPHS)
  checks.one_of("output", output, steering.OUTPUT)
  checks.at_least(1, every=every, first=first)
  checks.at_least(0, margin=margin)
  checks.finite(margin=margin)
  checks.share(decay=decay, rho=rho, floor=floor, latest=latest)

  def init(key: shapes.Key, facts: Facts) -> State:
    del key
    course = steering.start(facts, every)
    domains = facts.num_domains
    return State(
      course=course,
      loss_NK=jnp.ones((facts.steps // every, domains)),
      gram_KK=jnp.zeros((domains, domains)),
      edge_KK=jnp.zeros((domains, domains), bool),
      done_K=jnp.zeros(domains, bool),
    )

  def mean_gram(state: State, gram_KK: shapes.Array, count) -> shapes.Array:
    """The mean with one more observation; all of them count alike."""
    present_K = state.course.present_K
    both_KK = present_K[:, None] & present_K
    gram_KK = jnp.where(both_KK, gram_KK, 0.0)
    mean = jnp.trace(gram_KK) / state.course.num_present
    gram_KK = gram_KK / jnp.where(mean > 0, mean, 1.0)
    time = state.course.time
    after = 1 - decay if graph == "moving" else 0.0
    rate = jnp.where(time < count, 1 / (time + 1), after)
    return (1 - rate) * state.gram_KK + rate * gram_KK

  def progress(state: State, loss_NK: shapes.Array) -> shapes.FloatK:
    """s; zero before there is a forecast, one where nothing is to be learned."""
    time, row_N = state.course.time, jnp.arange(len(loss_NK))
    law = learning_curves.closed_form_laws(
      loss_NK,
      1.0 + every * row_N,  # from one on: the law has a pole at zero
      # A proxy that has not trained yet is on no curve.
      (row_N <= time) & (row_N >= jnp.minimum(1, time)),
    )
    end_K = learning_curves.predict(law, 1.0 + every * len(loss_NK))
    possible_K = loss_NK[0] - end_K
    is_some_K = possible_K > _LEAST * loss_NK[0]
    made_K = (loss_NK[0] - loss_NK[time]) / jnp.where(is_some_K, possible_K, 1)
    share_K = jnp.where(is_some_K, jnp.clip(made_K, 0, 1), 1.0)
    return jnp.where(time >= _FORECAST, share_K, 0.0)

  def step(state: State, signals: Signals) -> tuple[State, Info]:
    course = state.course
    loss_K = steering.evaluation(signals, course, "domains")
    loss_NK = state.loss_NK.at[course.time].set(loss_K)
    progress_K = progress(state, loss_NK)
    done_K = state.done_K | (progress_K >= rho)
    count = jnp.clip(course.length // 4, 1, first)
    gram_KK = mean_gram(state, signals.gram_KK, count)
    edge_KK = edges(gram_KK, margin=margin)
    edge_KK = edge_KK.T if graph == "reversed" else edge_KK
    edge_KK = jnp.where(course.time + 1 < count, state.edge_KK, edge_KK)
    open_K = opened(edge_KK, done_K) | (course.time >= latest * course.length)
    left = jnp.maximum(course.length - course.time, 1)
    owed_K = course.length * course.domain_mass_K - course.total_K
    share_K = jnp.maximum(
      jnp.where(open_K, owed_K / left, 0.0), floor * course.domain_mass_K
    )
    course = course.then(share_K / jnp.sum(share_K))
    info = Info(
      course.mixture_K,
      open_K,
      progress_K,
      edge_KK,
      *changes(state.edge_KK, edge_KK),
    )
    return State(course, loss_NK, gram_KK, edge_KK, done_K), info

  return Method(
    init,
    step,
    finalize=lambda state: state.course.recipe(output),
    signals=frozenset({"domain_B", "gram_KK", "loss_K"}),
    loop="steer",
    ask=lambda state: Ask(state.course.mixture_K),
    every=every,
    targeted=False,
  )


_LEAST = (
  0.01  # share of its loss that a domain must have before it to be waited for
)
_FORECAST = (
  3  # observations of a proxy that has trained, from which a law is fitted
)


def edges(gram_KK: shapes.Array, *, margin: float) -> shapes.Array:
  """Whether i is to be learned before j, from products of the domains' gradients.

  >>> gram_KK = jnp.array([[1.0, 1.0], [1.0, 4.0]])
  >>> edges(gram_KK, margin=0.1).tolist()
  [[False, True], [False, False]]
  """
  square_K = jnp.diag(gram_KK)
  helps_KK = gram_KK / jnp.where(square_K > 0, square_K, 1.0)[:, None]
  return helps_KK > jnp.maximum(helps_KK.T, 0.0) + margin


def opened(edge_KK: shapes.Array, done_K: shapes.Array) -> shapes.Array:
  """The domains of which everything that is to be learned before is done."""
  return ~jnp.any(edge_KK & ~done_K[:, None], axis=0)


def changes(before_KK: shapes.Array, after_KK: shapes.Array):
  """How many edges (appeared, vanished, turned) between two graphs."""
  new_KK, gone_KK = after_KK & ~before_KK, before_KK & ~after_KK
  return tuple(jnp.sum(x) for x in (new_KK, gone_KK, new_KK & gone_KK.T))
