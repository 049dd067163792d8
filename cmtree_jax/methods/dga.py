"""DGA: more of the domains whose gradients point where the target's does."""

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


class Info(NamedTuple):
  """What a step saw and did."""

  alignment_K: shapes.Array  # a
  alpha_K: shapes.Array  # sums to one


SMALL = Small(dict(every=10, step_size=10.0))
PLANTED = Planted(dict(every=2, step_size=10.0), more=TARGET_FIRST)


def make(
  *,
  step_size: float = 5.0,
  ema: float = 0.1,
  every: int = 100,
  output: str = "mean",
) -> Method:
  r"""Raises the weight of each domain by its gradient's product with the target's.

  .. math:: a_i = \langle g_i, g_\mathrm{target} \rangle, \qquad
            \hat\alpha \propto \alpha\, e^{\eta a}, \qquad
            \alpha \leftarrow (1 - \beta)\, \alpha + \beta\, \hat\alpha

  every :math:`T_r` steps, from one batch of each domain and one of the target,
  whose loss is in nats per token. Between the updates the proxy trains on rows
  drawn from alpha. The start is uniform. The paper hands over the model that was
  trained so; the recipe that is compared here is the mean of alpha over the run.

  How sure this is: the products, the exponentiated step and that a moving average
  follows it are the paper's. That :math:`\beta = .1` is the share of the *new*
  weights is our reading. The authors published no code, and we have not seen their
  pseudocode; but the paper's reviewers credit the average with making the weights
  stable and with ending overfitting, and one that keeps a tenth of the old weights
  hardly smooths. `ema=.9` is the other reading, `ema=1` no average.

  The products have the scale of squared gradients, which shrink while the proxy
  learns, so the step size belongs to a model and a length of run: n small updates
  part two domains whose products differ by d by :math:`n \beta \eta d` nats, and
  no update moves more than :math:`\beta` of the tokens.

  Args:
    step_size: :math:`\eta`; this value and that of `every` are ours.
    ema: :math:`\beta`, the share of the new alpha.
    every: :math:`T_r`, training steps between updates.
    output: `last` gives the last alpha instead of the mean.
  Returns:
    A Method that reads the products of the domains' gradients with the target's.
  Cost:
    One proxy run, with a gradient of every domain and of the target every `every`
    steps.
  Raises:
    ValueError: for a step size that is not above zero, ema outside (0, 1], every
      below one or an unknown output.
  References:
    Fan et al., `Dynamic Gradient Alignment <https://arxiv.org/abs/2410.02498>`_,
    2024.
  """
  checks.one_of("output", output, steering.OUTPUT)
  checks.at_least(1, every=every)
  checks.above_zero(step_size=step_size)
  if not 0 < ema <= 1:
    raise ValueError(f"ema {ema} must be above 0 and at most 1.")

  def init(key: jax.Array, facts: Facts) -> steering.Course:
    del key
    return steering.start(facts, every, uniform=True)

  def step(
    course: steering.Course, signals: Signals
  ) -> tuple[steering.Course, Info]:
    alignment_K = jnp.where(course.present_K, signals.target_dot_K, 0.0)
    updated_K = steering.multiply(course.mixture_K, step_size * alignment_K)
    alpha_K = (1 - ema) * course.mixture_K + ema * updated_K
    return course.then(alpha_K), Info(alignment_K, alpha_K)

  return Method(
    init,
    step,
    finalize=lambda course: course.recipe(output),
    signals=frozenset({"domain_B", "target_dot_K"}),
    loop="steer",
    ask=lambda course: Ask(course.mixture_K),
    every=every,
  )
