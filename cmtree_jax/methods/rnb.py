"""R&B: a mixture from the Gram matrix of the domains' gradients."""

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
  """The mixtures so far, and the evaluation that they are balanced for."""

  course: steering.Course
  target_K: shapes.Array  # p, shares of the evaluation in the domains


class Info(NamedTuple):
  """What a step saw and did."""

  alignment_K: shapes.Array  # G p / |G p|
  mixture_K: shapes.Array  # sums to one


# The paper divides by k-means with the number of clusters of the best silhouette.
SMALL = Small(
  dict(every=10), partition=dict(kind="silhouette", candidates=(8, 12, 16, 24))
)
PLANTED = Planted(dict(every=5), more=TARGET_FIRST)


def make(
  *,
  strength: float = 3.0,
  every: int = 100,
  output: str = "mean",
) -> Method:
  r"""Computes a mixture in every round from how domains serve those of the target.

  .. math:: G_{ij} = \Big\langle \frac{\sum g_i}{|S_i|},
                                 \frac{\sum g_j}{|S_j|} \Big\rangle, \qquad
            p^{(t+1)} = \mathrm{softmax}\Big(
              \lambda \frac{G p}{\|G p\|_2} \Big)

  with the gradients g of the output layer and the fixed shares p of the evaluation
  in the domains. These shares are the targets' histogram over the partition, so the
  gradient of a target is taken to be that of the domains that it falls into. The
  first round is uniform. Each round replaces the mixture and does not multiply it,
  and no entry of the softmax leaves +-lambda, so with more domains the mixture
  stays broader.

  The paper sums the gradients of the samples that a round trains on; here each
  round ends with an observation of equally many fresh rows of every domain, at one
  moment, so that domains of a low share are not noisier. The partition (Regroup:
  k-means, k by the silhouette) is not this method's part, see
  `partition.kind=silhouette`. Where G p vanishes, the last mixture stays (the
  paper's is then undefined).

  Args:
    strength: :math:`\lambda`.
    every: training steps of a round, K in the paper; this value is ours.
    output: `last` gives the last mixture instead of the mean over rounds.
  Returns:
    A Method that reads the Gram matrix of the output layer's gradients.
  Cost:
    One proxy run. Each round takes a forward pass of fresh rows of every domain,
    an outer product of the size of the output layer for each of their tokens, and
    K^2 inner products of that size; the paper charges the last alone, since it
    collects gradients while it trains.
  Raises:
    ValueError: for a strength that is not above zero, every below one or an
      unknown output.
  References:
    Ge et al., `R&B <https://arxiv.org/abs/2505.00358>`_, 2025.
  """
  checks.one_of("output", output, steering.OUTPUT)
  checks.at_least(1, every=every)
  checks.above_zero(strength=strength)

  def init(key: jax.Array, facts: Facts) -> State:
    del key
    target_TK = jnp.asarray(facts.target_domain_TK, jnp.float32)
    course = steering.start(facts, every, uniform=True)
    return State(course, jnp.mean(target_TK, axis=0))

  def step(state: State, signals: Signals) -> tuple[State, Info]:
    course, present_K = state.course, state.course.present_K
    both_KK = present_K[:, None] & present_K
    gram_KK = jnp.where(both_KK, signals.head_gram_KK, 0.0)
    # On a TPU the default would round the products to bfloat16.
    serves_K = jnp.matmul(gram_KK, state.target_K, precision="highest")
    norm = jnp.linalg.norm(serves_K)
    alignment_K = serves_K / jnp.where(norm > 0, norm, 1.0)
    balanced_K = steering.multiply(course.uniform_K, strength * alignment_K)
    # The first observation is of a proxy before its first round.
    keep = (course.time == 0) | (norm == 0)
    mixture_K = jnp.where(keep, course.mixture_K, balanced_K)
    state = State(course.then(mixture_K), state.target_K)
    return state, Info(alignment_K, mixture_K)

  return Method(
    init,
    step,
    finalize=lambda state: state.course.recipe(output),
    signals=frozenset({"domain_B", "head_gram_KK"}),
    loop="steer",
    ask=lambda state: Ask(state.course.mixture_K),
    every=every,
  )
