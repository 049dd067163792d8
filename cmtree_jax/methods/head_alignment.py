"""Head alignment: more of the domains whose output layer moves as the target's does."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

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
  """The mixtures so far, and where their logits are."""

  course: steering.Course
  logit_K: shapes.Array  # z
  adam: optax.OptState


class Info(NamedTuple):
  """What a step saw and did."""

  alignment_K: shapes.Array  # v
  mixture_K: shapes.Array  # sums to one


# In thirty updates Adam moves a logit by three.
SMALL = Small(dict(every=5, learning_rate=0.1))
PLANTED = Planted(dict(every=2, learning_rate=0.1), more=TARGET_FIRST)


def make(
  *,
  learning_rate: float = 0.01,
  every: int = 20,
  output: str = "last",
) -> Method:
  r"""Descends the target's loss after one step, as the output layer alone sees it.

  .. math:: \frac{\partial}{\partial z_k} L\Big(\phi - \eta \sum_j p_j g_j\Big)
            \approx -\eta\, p_k \Big(v_k - \sum_j p_j v_j\Big), \qquad
            v_k = \langle g_k, g_\mathrm{target} \rangle, \quad
            p = \mathrm{softmax}(z)

  with the gradients g of the output layer; Adam takes a step on z. Between the steps
  the proxy trains on rows drawn from p. The start is uniform. As Adam has no scale,
  the proxy's rate :math:`\eta` does not matter; nor does by how much a domain serves
  the target less than the mixture does: what is always below it sinks at one rate.

  This is what FastMix runs; its paper derives the gradient for all parameters. The
  target's gradient here is that of the mean of all targets' bits per byte, in units
  of a nat per token, and every domain is observed at equally many fresh rows; the
  authors take the mean over targets of nats per token, and a domain's part of the
  batch that is trained on next, where one without rows counts as zero. The authors
  draw rows uniformly and weigh their losses by p. The regularization by entropy is
  left out, as its coefficient there is zero.

  Args:
    learning_rate: of Adam on z.
    every: training steps between updates.
    output: `mean` gives the mean of the mixtures instead of the last one.
  Returns:
    A Method that reads the products of the domains' gradients of the output layer
    with the target's.
  Cost:
    One proxy run. Each update takes a forward pass of fresh rows of every domain and
    target, and an outer product of the size of the output layer for each of their
    tokens.
  Raises:
    ValueError: for a learning rate that is not above zero, every below one or an
      unknown output.
  References:
    Tan et al., `FastMix <https://arxiv.org/abs/2606.14971>`_, 2026, and
    hrtan/fastmix at 8ec9e85, `pretrain/train_fastmix_val.py`, whose
    `configs/pile.yaml` and `scripts/run_val.sh` set the numbers.
  """
  checks.one_of("output", output, steering.OUTPUT)
  checks.at_least(1, every=every)
  checks.above_zero(learning_rate=learning_rate)
  optimizer = optax.adam(learning_rate, b1=0.9, b2=0.95, eps=_EPS)

  def init(key: jax.Array, facts: Facts) -> State:
    del key
    course = steering.start(facts, every, uniform=True)
    logit_K = jnp.zeros_like(course.mixture_K)
    return State(course, logit_K, optimizer.init(logit_K))

  def step(state: State, signals: Signals) -> tuple[State, Info]:
    course = state.course
    alignment_K = jnp.where(course.present_K, signals.head_dot_K, 0.0)
    p_K = steering.multiply(course.uniform_K, state.logit_K)
    gradient_K = -p_K * (alignment_K - jnp.sum(p_K * alignment_K))
    update_K, adam = optimizer.update(gradient_K, state.adam)
    logit_K = state.logit_K + update_K
    mixture_K = steering.multiply(course.uniform_K, logit_K)
    state = State(course.then(mixture_K), logit_K, adam)
    return state, Info(alignment_K, mixture_K)

  return Method(
    init,
    step,
    finalize=lambda state: state.course.recipe(output),
    signals=frozenset({"domain_B", "head_dot_K"}),
    loop="steer",
    ask=lambda state: Ask(state.course.mixture_K),
    every=every,
  )


# The gradient above lacks the proxy's rate, so Adam's epsilon must be small beside
# gradients of any size.
_EPS = 1e-12
