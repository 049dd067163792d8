"""GRAPE: more of the domains whose gradients serve the targets that improve least."""

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
  """The mixtures so far, and what each target counts for."""

  course: steering.Course
  task_T: shapes.Array  # z; sums to one


class Info(NamedTuple):
  """What a step saw and did."""

  rate_T: shapes.Array  # of improvement, per unit of the learning rate
  task_T: shapes.Array  # z
  alignment_K: shapes.Array  # of the domains with the targets as z weighs them
  alpha_K: shapes.Array  # sums to one


# Fifteen updates instead of the paper's 500, so ten times its steps, in its ratio. Not
# by arithmetic alone: its own were seen to leave the mixture where it was.
SMALL = Small(dict(every=10, domain_step=15.0, task_step=100.0))
PLANTED = Planted(dict(every=2), more=TARGET_FIRST)


def make(
  *,
  domain_step: float = 1.5,
  task_step: float = 10.0,
  smoothing: float = 1e-3,
  clip_norm: float = 1.0,
  every: int = 100,
  output: str = "mean",
) -> Method:
  r"""Plays targets that improve slowly against domains that help them.

  .. math:: f_{tk} = \langle \nabla \log L_t, g_k \rangle, \qquad
            z_t \propto z_t \exp\Big(-\eta_z \sum_k \alpha_k f_{tk}\Big), \qquad
            \alpha_k \propto \alpha_k \exp\Big(\eta_\alpha \sum_t z_t f_{tk}\Big)

  with the gradients g of the domains' mean losses and the mean loss L of each target,
  at one moment, each gradient clipped to norm one. The sum over the domains is the
  rate at which training on alpha improves target t, as a share of its loss; so a
  target of high loss is not taken for one that learns fast. The targets move first,
  and the domains then follow the new z. Both start uniform. Between the updates the
  proxy trains on rows drawn from alpha.

  Of one target z is one, and what is left is DGA without its average, on the gradient
  of the logarithm.

  Departures: the paper hands over the model that was trained so; the recipe here is
  the mean of alpha over the run. :math:`\eta` is the paper's quotient of the learning
  rate and the strength of the Bregman divergence, held constant, as the learning rate
  is here; so does the authors' code. The clips and the smoothing of z are the code's
  alone. It also takes the logarithm after it has averaged the loss over targets, which
  is left out, as it is not in the paper. The direction of training is the mean of the
  domains' own gradients weighted by alpha, where the authors draw one more batch from
  it.

  Args:
    domain_step: :math:`\eta_\alpha`.
    task_step: :math:`\eta_z`.
    smoothing: share of the uniform distribution that is mixed into z after each
      update.
    clip_norm: a longer gradient, of a domain's loss or of the logarithm of a target's,
      is shortened to this norm.
    every: training steps between updates.
    output: `last` gives the last alpha instead of the mean.
  Returns:
    A Method that reads the products of each target's gradient with each domain's.
  Cost:
    One proxy run, with a gradient of every domain and of every target every `every`
    steps.
  Raises:
    ValueError: for a step size that is not above zero, a smoothing that is not from 0
      to 1, every below one or an unknown output.
  References:
    Fan et al., `GRAPE <https://arxiv.org/abs/2505.20380>`_, 2025, eq. 3 and 4 and
    table 3; clips and smoothing from Olivia-fsm/GRAPE_data_mixture_with_multi_target at
    ba347fc, `src/trainer.py`.
  """
  checks.one_of("output", output, steering.OUTPUT)
  checks.at_least(1, every=every)
  checks.above_zero(
    domain_step=domain_step, task_step=task_step, clip_norm=clip_norm
  )
  checks.share(smoothing=smoothing)

  def init(key: jax.Array, facts: Facts) -> State:
    del key
    targets = facts.num_targets
    course = steering.start(facts, every, uniform=True)
    return State(course, jnp.full(targets, 1 / targets, float))

  def step(state: State, signals: Signals) -> tuple[State, Info]:
    course = state.course
    nats_T = jnp.maximum(jnp.asarray(signals.target_nats_T), 1e-6)
    # A gradient of a logarithm is that of the loss over the loss.
    shorten_T = _shorten(signals.target_norm_T / nats_T, clip_norm) / nats_T
    shorten_K = _shorten(signals.domain_norm_K, clip_norm)
    f_TK = shorten_T[:, None] * signals.target_dot_TK * shorten_K
    f_TK = jnp.where(course.present_K, f_TK, 0.0)
    # On a TPU the default would round the products to bfloat16.
    rate_T = jnp.matmul(f_TK, course.mixture_K, precision="highest")
    task_T = steering.multiply(state.task_T, -task_step * rate_T)
    task_T = (1 - smoothing) * task_T + smoothing / len(task_T)
    alignment_K = jnp.matmul(task_T, f_TK, precision="highest")
    alpha_K = steering.multiply(course.mixture_K, domain_step * alignment_K)
    info = Info(rate_T, task_T, alignment_K, alpha_K)
    return State(course.then(alpha_K), task_T), info

  return Method(
    init,
    step,
    finalize=lambda state: state.course.recipe(output),
    signals=frozenset(
      {
        "domain_B",
        "target_dot_TK",
        "domain_norm_K",
        "target_norm_T",
        "target_nats_T",
      }
    ),
    loop="steer",
    ask=lambda state: Ask(state.course.mixture_K),
    every=every,
  )


def _shorten(norm: shapes.Array, most: float) -> shapes.Array:
  """Factors that bring lengths down to one that is given."""
  return most / jnp.maximum(norm, most)
