"""TANDEM: more of the domains that a proxy learns better with the targets' help."""

from typing import NamedTuple

import jax.numpy as jnp
from optax import projections

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


class State(NamedTuple):
  """What the next observation needs."""

  course: steering.Course
  ask: Ask
  helped_K: shapes.FloatK  # losses of w_K on the domains in this episode


class Info(NamedTuple):
  """What a person reads after an observation."""

  mixture_K: shapes.FloatK  # alpha
  # Loss of w_K minus loss of u_K where an episode ends, else zeros.
  gap_K: shapes.FloatK


SMALL = Small(dict(every=5))
# Not before the other text, which one proxy unlearns as much while it learns the
# target.
PLANTED = Planted(
  dict(every=5, eta=0.5), more=(("target", "natural"), ("target", "noise"))
)


def make(
  *,
  every: int = 5,
  probe: int = 1,
  free: int = 1,
  gamma: float = 1.0,
  eta: float = 1.0,
  start: str = "natural",
  output: str = "mean",
) -> Method:
  r"""Solves the bilevel problem of the mixture with twin networks.

  In :math:`\min_\alpha L_\mathrm{val}(w^*(\alpha))` the optimality of w becomes a
  penalty,

  .. math:: \min_{\alpha, w} \; L_\mathrm{val}(w) + \gamma \Big(
            \sum_k \alpha_k \ell_k(w) - \min_u \sum_k \alpha_k \ell_k(u) \Big)

  In an episode the proxy u is marked; w starts there and takes K steps on targets
  and corpus, with shares :math:`1 : \gamma`; back at the mark, u takes K steps on
  the corpus alone, and

  .. math:: \alpha \leftarrow \Pi_\Delta\big(\alpha - \eta_\alpha \gamma
            (\ell(w_K) - \ell(u_K))\big)

  Then u trains on alpha for a while. All lengths but `every` count observations.

  Args:
    every: training steps per observation.
    probe: length of each twin's training; the paper's K is this times `every`.
    free: E, length of the training between two episodes.
    gamma: :math:`\gamma`. The share of target rows in w's training,
      :math:`1 / (1 + \gamma)`, has the gradient of the weighted sum up to the
      factor :math:`1 + \gamma`, which Adam does not see.
    eta: :math:`\eta_\alpha`, share per nat.
    start: alpha is the "natural" mixture at first, or "uniform".
    output: the recipe is the "mean" of alpha over episodes, or the "last" one.
  Returns:
    A Method that steers a proxy; it knows the targets by training on them.
  Cost:
    One proxy run, a third of it thrown away.
  Raises:
    ValueError: for unknown words, lengths that are not positive, or a gamma or
      eta that is not above zero.
  References:
    `TANDEM <https://arxiv.org/abs/2606.04401>`_, NeurIPS 2025,
    section 2. The start and the sizes of eta and E are ours.
  """
  checks.one_of("output", output, steering.OUTPUT)
  checks.one_of("start", start, ("natural", "uniform"))
  checks.at_least(1, every=every, probe=probe)
  checks.at_least(0, free=free)
  checks.above_zero(gamma=gamma, eta=eta)

  def init(key: shapes.Key, facts: Facts) -> State:
    del key
    course = steering.start(facts, every, uniform=start == "uniform")
    return State(
      course=course,
      ask=steering.asking(course.mixture_K),
      helped_K=jnp.zeros_like(course.mixture_K),
    )

  def step(state: State, signals: Signals) -> tuple[State, Info]:
    course = state.course
    loss_K = jnp.asarray(signals.loss_K, float)
    length = 2 * probe + free
    now = course.time % length
    is_helped = now == probe  # it is w_K that was observed
    # Without free training an episode ends where the next begins, at time zero none.
    is_end = (course.time > 0) & (now == 2 * probe % length)

    gap_K = jnp.where(is_end & course.present_K, state.helped_K - loss_K, 0.0)
    mixture_K = jnp.where(
      is_end,
      projected(course.mixture_K - eta * gamma * gap_K, course.present_K),
      course.mixture_K,
    )
    ask = steering.asking(
      mixture_K,
      target_share=jnp.where(now < probe, 1 / (1 + gamma), 0.0),
      mark=now == 0,
      back=is_helped,
    )
    return State(
      course=course.then(mixture_K, is_end),
      ask=ask,
      helped_K=jnp.where(is_helped, loss_K, state.helped_K),
    ), Info(mixture_K, gap_K)

  return Method(
    init,
    step,
    finalize=lambda state: state.course.recipe(output),
    signals=frozenset({"loss_K", "domain_B"}),
    loop="steer",
    ask=lambda state: state.ask,
    every=every,
  )


def projected(value_K: shapes.FloatK, present_K: shapes.Array) -> shapes.FloatK:
  """The nearest mixture of the domains that hold documents."""
  # What lies more than one below the largest is projected to zero.
  most = jnp.max(jnp.where(present_K, value_K, -jnp.inf))
  return projections.projection_simplex(jnp.where(present_K, value_K, most - 2))
