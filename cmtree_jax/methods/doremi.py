"""DoReMi: more of what a reference model has learned and a proxy has not yet."""

from typing import NamedTuple

import jax
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

FORMS = ("paper", "authors", "dataflex")
_MAX_SCORE = 5.0  # DataFlex's clip, in nats


class State(NamedTuple):
  """The domain weights alpha so far, and what the loss is normalized by."""

  course: steering.Course  # its mixtures are alpha
  # Tokens in the last observed rows in form `authors`, else ones.
  tokens_K: shapes.Array


class Info(NamedTuple):
  """What a step saw and did."""

  score_K: shapes.Array  # lambda, nats per token
  alpha_K: shapes.Array  # sums to one


SMALL = Small()
# It looks at no target, and clips the excess of each token before the mean: the
# chance differences of two models on noise add up, and noise gets more.
PLANTED = Planted(
  more=(("noise", "text"), ("noise", "copy"), ("noise", "other"))
)


def make(
  *,
  step_size: float = 1.0,
  smoothing: float = 1e-3,
  form: str = "paper",
  output: str = "mean",
) -> Method:
  r"""Raises the weight of each domain by its excess loss, exponentiated gradient.

  .. math:: \lambda_k = \frac{1}{n_k} \sum_{t \in k}
            \max(\ell_\phi(t) - \ell_\mathrm{ref}(t), 0), \qquad
            \alpha' \propto \alpha\, e^{\eta \lambda}, \qquad
            \alpha \leftarrow (1 - c)\, \alpha' + c\, u

  after every batch, which is then trained on with the loss
  :math:`\sum_k \alpha_k \bar\ell_k`, the mean losses weighted by the new alpha; u
  is uniform, and so is the start. The result is the mean of alpha over the steps,
  including the start as in the authors' code. (The paper's sum begins after it, a
  difference of one part in the number of steps.) The targets play no part.

  Args:
    step_size: :math:`\eta`; 1 in the paper, .1 where weights collapse.
    smoothing: c; 1e-3 in the paper and in the authors' scripts (1e-4 is the
      default of their argument).
    form: `authors`: their loss is divided by the weighted number of tokens,
      :math:`\sum_k \alpha_k n_k \bar\ell_k / \sum_k \alpha_k n_k`, so the
      mixture trained on is :math:`\alpha_k n_k`, normalized. All domains are
      observed on equally many rows here, so this is the paper's as long as
      their rows are equally full, and differs for domains whose rows are
      padded. `dataflex`: :math:`\lambda` minus its mean over domains, clipped to
      +-5; the normalization undoes the subtraction, so this is the paper's unless
      a domain is 5 nats off the mean.
    output: `last` gives the last alpha instead of the mean.
  Returns:
    A Method that reads excess losses and trains on the observed rows.
  Cost:
    A reference run and a proxy run; the reference reads all observed rows.
  Raises:
    ValueError: for a step size that is not above zero, smoothing outside [0, 1]
      or an unknown form or output.
  References:
    Xie et al., `DoReMi <https://arxiv.org/abs/2305.10429>`_, 2023, Algorithm 1.
    Forms: sangmichaelxie/doremi at 7cde52d, OpenDCAI/DataFlex at 3c13e37.
  """
  checks.one_of("output", output, steering.OUTPUT)
  checks.one_of("form", form, FORMS)
  checks.above_zero(step_size=step_size)
  if not 0 <= smoothing <= 1:
    raise ValueError(f"smoothing {smoothing} must be from 0 to 1.")

  def init(key: jax.Array, facts: Facts) -> State:
    del key
    course = steering.start(facts, uniform=True)
    course = course._replace(total_K=course.mixture_K)  # the start counts
    return State(course, jnp.ones_like(course.mixture_K))

  def step(state: State, signals: Signals) -> tuple[State, Info]:
    course = state.course
    score_K = jnp.where(course.present_K, signals.excess_K, 0.0)
    if form == "dataflex":
      score_K -= jnp.sum(score_K) / course.num_present
      score_K = jnp.clip(score_K, -_MAX_SCORE, _MAX_SCORE)
    updated_K = steering.multiply(course.mixture_K, step_size * score_K)
    alpha_K = (1 - smoothing) * updated_K + smoothing * course.uniform_K
    tokens_K = state.tokens_K
    if form == "authors":
      tokens_K = jnp.asarray(signals.tokens_K, jnp.float32)
    return State(course.then(alpha_K), tokens_K), Info(score_K, alpha_K)

  def ask(state: State) -> Ask:
    share_K = state.course.mixture_K * state.tokens_K
    return Ask(share_K / jnp.sum(share_K))

  reads = {"domain_B", "excess_K"}
  if form == "authors":
    reads.add("tokens_K")
  return Method(
    init,
    step,
    finalize=lambda state: state.course.recipe(output),
    signals=frozenset(reads),
    loop="steer",
    ask=ask,
    train_on_observed=True,
    targeted=False,
  )
