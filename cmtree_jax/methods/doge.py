"""DoGE: more of the domains whose gradients serve the others, or a target."""

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

_MU = {"target": 0.05, "domains": 0.01, "all_domains": 0.01}


class Info(NamedTuple):
  """What a step saw and did."""

  alignment_K: shapes.Array  # W
  score_K: shapes.Array  # eta W / mean norm, clipped
  alpha_K: shapes.Array  # sums to one


# The rate of the proxies here, not the paper's.
SMALL = Small(dict(learning_rate=5e-3))
PLANTED = Planted(dict(learning_rate=1e-2), more=TARGET_FIRST)


def make(
  *,
  objective: str = "target",
  learning_rate: float = 5e-4,
  mu: float | None = None,
  clip_norm: float = 5.0,
  max_score: float = 5.0,
  output: str = "mean",
) -> Method:
  r"""Raises the weight of each domain by what its gradient does for the objective.

  .. math:: W_i = \langle g_i, \textstyle\sum_{j} g_j \rangle, \qquad
            s_i = \mathrm{clip}\Big(
              \frac{\eta W_i}{\mathrm{mean}_j \|g_j\| + 10^{-6}},\,
              0,\, 5 \eta \Big), \qquad
            \alpha \leftarrow \mathrm{softmax}(\log \alpha + s / \mu)

  at every step, with the gradients g of the domains' mean losses, each clipped to
  norm 5, and the sum over the objective's domains. The observed rows are then
  trained on with the loss :math:`\sum_i \alpha_i \bar\ell_i`. The start is uniform;
  the result is the mean of alpha after each step. A score is never negative, so a
  domain falls only because others rise.

  Three departures. The rate :math:`\eta` is constant, as that of our proxies is;
  the authors' falls from 5e-4 to 1e-4. (Only the quotient of :math:`\eta` and
  :math:`\mu` matters.) The gradient of the target is that of its loss in nats per
  token, as the authors'; of several targets it is that of their mean bits per byte,
  in units of a nat per token. It is not clipped. The proxy is trained with the
  domains' gradients as they are, not with the clipped ones.

  Args:
    objective: whose gradients make up the sum. `target`: the target's gradient
      stands for it, for targets outside of the corpus. `domains`: the other
      domains, :math:`j \ne i`, as in the authors' code; it knows no target.
      `all_domains`: all j, as in the port that comes with Aioli.
    learning_rate: :math:`\eta`.
    mu: :math:`\mu`; None: .05 with a target, else .01.
    clip_norm: a longer gradient of a domain is shortened to this norm.
    max_score: the largest score, in units of the rate.
    output: `last` gives the last alpha instead of the mean.
  Returns:
    A Method that reads inner products of gradients and trains on the observed
    rows.
  Cost:
    One proxy run, with a gradient of every domain and of the target at every step.
  Raises:
    ValueError: for a number that is not above zero, an unknown objective or an
      unknown output.
  References:
    Fan et al., `DoGE <https://arxiv.org/abs/2310.15393>`_, 2024;
    normalization and clips from Olivia-fsm/DoGE at 88400e9, `src/trainer.py`.
  """
  checks.one_of("output", output, steering.OUTPUT)
  checks.one_of("objective", objective, tuple(_MU))
  mu = _MU[objective] if mu is None else mu
  checks.above_zero(
    learning_rate=learning_rate, mu=mu, clip_norm=clip_norm, max_score=max_score
  )

  def init(key: jax.Array, facts: Facts) -> steering.Course:
    del key
    return steering.start(facts, uniform=True)

  def step(
    course: steering.Course, signals: Signals
  ) -> tuple[steering.Course, Info]:
    present_K = course.present_K
    both_KK = present_K[:, None] & present_K
    gram_KK = jnp.where(both_KK, signals.gram_KK, 0.0)
    norm_K = jnp.sqrt(jnp.diag(gram_KK))
    shorten_K = clip_norm / jnp.maximum(norm_K, clip_norm)
    if objective == "target":
      target_dot_K = jnp.where(present_K, signals.target_dot_K, 0.0)
      alignment_K = shorten_K * target_dot_K
    else:
      gram_KK *= shorten_K[:, None] * shorten_K
      alignment_K = jnp.sum(gram_KK, axis=1)
      if objective == "domains":
        alignment_K -= jnp.diag(gram_KK)
    mean_norm = jnp.sum(shorten_K * norm_K) / course.num_present
    score_K = learning_rate * jnp.clip(
      alignment_K / (mean_norm + 1e-6), 0.0, max_score
    )
    alpha_K = steering.multiply(course.mixture_K, score_K / mu)
    return course.then(alpha_K), Info(alignment_K, score_K, alpha_K)

  reads = {"domain_B", "gram_KK"}
  if objective == "target":
    reads.add("target_dot_K")
  return Method(
    init,
    step,
    finalize=lambda course: course.recipe(output),
    signals=frozenset(reads),
    loop="steer",
    ask=lambda course: Ask(course.mixture_K),
    train_on_observed=True,
    targeted=objective == "target",
  )
