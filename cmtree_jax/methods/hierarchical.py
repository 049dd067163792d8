"""Hierarchical: first what is hardest to tell apart, and fused what is told apart."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy.cluster import hierarchy

from cmtree_jax import checks, shapes
from cmtree_jax.data.draw import packing
from cmtree_jax.methods import steering
from cmtree_jax.methods.base import (
  Ask,
  Documents,
  Facts,
  Method,
  Planted,
  Signals,
  Small,
)


class State(NamedTuple):
  """The hierarchy of N nodes, and which of them are fused."""

  course: steering.Course
  side_NK: (
    shapes.Array
  )  # int, 0 or 1: the child with the domain; -1: not below it
  child_N2: shapes.Array  # int, the node that each child is; -1: a domain
  streak_N: (
    shapes.Array
  )  # int, observations in a row that told the children apart
  fused_N: shapes.Array  # bool


class Info(NamedTuple):
  """What a step saw and did."""

  separability_N: shapes.Array
  fused_N: shapes.Array  # bool
  mixture_K: shapes.FloatK


SMALL = Small(dict(every=10))
# Text and its copy are one text; it knows no target, but these are the target's.
PLANTED = Planted(dict(every=5), more=(("target", "natural"),))


def make(
  *,
  beta: float = 4.0,
  fuse_above: float = 0.95,
  ridge: float = 0.1,
  every: int = 10,
  output: str = "mean",
) -> Method:
  r"""Divides top down, with more for what the proxy cannot tell apart yet.

  .. math:: p(c \mid n) \propto q_c\, e^{\beta_t (1 - s_c)}, \qquad
            \beta_t = \beta\, (1 - t / T)

  for the two children c of every node n of a binary hierarchy over the domains, and
  a domain's share is the product of these along its path. The separability
  :math:`s_c` of a node is the accuracy with which a linear probe on hidden states of
  the proxy as it is now tells the rows of its children apart; one half is not at all.
  A domain has no children, and counts as told apart.

  The hierarchy joins two groups of domains again and again, those that add least to
  the squared distances of mean features from the mean of their group (Ward). The
  probe is a ridge regression of the side on the mean states of rows, late tokens
  weighing more; both sides count alike, and each row is predicted by the others, in
  closed form. A probe that is wrong more often than right, as leaving rows out makes it
  where nothing is to be found, tells nothing apart.

  A node is fused when its children were told apart twice in a row, and are domains or
  fused themselves: it is trained on as one, with natural shares, from then on. Were it
  fused whatever its children are, the root, which is the easiest, would end all.

  The proxy that has not trained yet tells nothing, and gets the natural mixture.

  How sure this is: the method is ours, and so is every default. That a model should
  see more of what it confuses is an idea, and what is alike may also be what needs no
  second look. A few frozen rows of a domain are a coarse measure: of two domains with
  four each, one mistake is .125. On the default corpus, with 16 clusters and 150 steps
  of a small proxy, most nodes rose from .5 - .7 to .7 - .9 and none was fused. Raise
  `config.observe.frozen_rows` where separability is to be read.

  Args:
    beta: :math:`\beta`; 0 is the natural mixture.
    fuse_above: accuracy above which children are told apart.
    ridge: the penalty, in units of the mean square of a row's states.
    every: training steps per observation.
    output: the recipe is the "mean" of the mixtures, or the "last" one.
  Returns:
    A Method that reads hidden states of domains; it knows nothing of the targets.
  Cost:
    One proxy run, with a forward pass over frozen rows of every domain every `every`
    steps. The probes take a matrix of all these rows for every node.
  Raises:
    ValueError: for a number that is out of its range or an unknown output.
  References:
    Allen, `The Relationship between Variable Selection and Data Agumentation and a
    Method for Prediction <https://doi.org/10.1080/00401706.1974.10489157>`_, 1974, for
    the predictions with one row left out.
  """
  checks.one_of("output", output, steering.OUTPUT)
  checks.at_least(1, every=every)
  checks.at_least(0, beta=beta)
  checks.above_zero(ridge=ridge)
  checks.finite(beta=beta, ridge=ridge)
  checks.share(fuse_above=fuse_above)

  def init(key: shapes.Key, facts: Facts) -> State:
    del key
    assert facts.pool is not None
    side_NK, child_N2 = joined(
      domain_means(facts.pool, facts.num_domains),
      np.asarray(facts.domain_mass_K) > 0,
    )
    nodes = len(side_NK)
    return State(
      steering.start(facts, every),
      jnp.asarray(side_NK),
      jnp.asarray(child_N2),
      jnp.zeros(nodes, jnp.int32),
      jnp.zeros(nodes, bool),
    )

  def fused(state: State, separable_N: shapes.Array):
    """(streaks, which nodes are fused)."""
    is_apart_N = (separable_N > fuse_above) & (state.course.time > 0)
    streak_N = jnp.where(is_apart_N, state.streak_N + 1, 0)
    child_N2 = state.child_N2
    # Children as they were: a level is fused at an observation.
    is_whole_N2 = (child_N2 < 0) | state.fused_N[child_N2]
    ready_N = (streak_N >= 2) & jnp.all(is_whole_N2, axis=1)
    return streak_N, state.fused_N | ready_N

  def step(state: State, signals: Signals) -> tuple[State, Info]:
    course = state.course
    separable_N = separability(
      signals.late_hidden_KRH, state.side_NK, ridge=ridge
    )
    streak_N, fused_N = fused(state, separable_N)
    now = beta * (1 - course.time / course.length)
    tilt_N = jnp.where(fused_N, 0.0, now * (1 - separable_N))
    mixture_K = shares(
      course.domain_mass_K, tilt_N, state.side_NK, state.child_N2
    )
    is_trained = course.time > 0
    course = course.then(jnp.where(is_trained, mixture_K, course.domain_mass_K))
    state = State(course, state.side_NK, state.child_N2, streak_N, fused_N)
    return state, Info(separable_N, fused_N, course.mixture_K)

  return Method(
    init,
    step,
    finalize=lambda state: state.course.recipe(output),
    signals=frozenset({"domain_B", "late_hidden_KRH"}),
    loop="steer",
    ask=lambda state: Ask(state.course.mixture_K),
    every=every,
    targeted=False,
  )


def domain_means(pool: Documents, num_domains: int) -> np.ndarray:
  """The mean features of each domain's tokens, [K, E]; zeros for one without."""
  assert pool.domain_N is not None
  total_KE = np.zeros((num_domains, pool.embedding_NE.shape[1]))
  for part in packing.chunks(len(pool.domain_N)):
    tokens_N1 = np.asarray(pool.tokens_N[part], np.float64)[:, None]
    weighted_NE = tokens_N1 * np.asarray(pool.embedding_NE[part])
    np.add.at(total_KE, pool.domain_N[part], weighted_NE)
  tokens_K = np.bincount(pool.domain_N, pool.tokens_N, minlength=num_domains)
  return total_KE / np.where(tokens_K > 0, tokens_K, 1.0)[:, None]


def joined(
  mean_KE: np.ndarray, present_K: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """The binary hierarchy over the domains that hold documents.

  Returns:
    (side [N, K], child [N, 2]) as in `State`, the root last. Of one domain there is a
    node with nothing below it, so that no array is empty.
  """
  domain_D = np.flatnonzero(present_K)
  nodes, domains = max(len(domain_D) - 1, 1), len(domain_D)
  side_NK = np.full((nodes, len(present_K)), -1, np.int32)
  child_N2 = np.full((nodes, 2), -1, np.int32)
  if domains < 2:
    return side_NK, child_N2
  below = [np.array([one]) for one in domain_D]
  links = hierarchy.linkage(mean_KE[domain_D], method="ward")
  for node, pair in enumerate(links[:, :2].astype(int)):
    for side, one in enumerate(pair):
      side_NK[node, below[one]] = side
      child_N2[node, side] = max(one - domains, -1)
    below.append(np.concatenate([below[one] for one in pair]))
  return side_NK, child_N2


def separability(
  hidden_KRH: shapes.Array, side_NK: shapes.Array, *, ridge: float
) -> shapes.Array:
  """The accuracy of each node's probe on rows left out, at least one half.

  Args:
    hidden_KRH: states of rows; zeros for a row without text.
    side_NK: as in `State`.
    ridge: as in `make`.
  """
  real_KR = jnp.any(hidden_KRH != 0, axis=-1)
  x_RH = hidden_KRH.reshape(-1, hidden_KRH.shape[-1])

  def of_node(side_K):
    side_R = jnp.where(real_KR, side_K[:, None], -1).ravel()
    return jnp.maximum(_accuracy(x_RH, side_R, ridge=ridge), 0.5)

  # One after the other: each has matrices of all rows.
  return jax.lax.map(of_node, side_NK)


def _accuracy(x_RH, side_R, *, ridge):
  """Of a weighted ridge regression with an intercept, each row left out.

  The residual of a row that was left out is its residual over one less its leverage;
  everything is in rows times the root of their weights.
  """
  of_2R = side_R == jnp.arange(2)[:, None]
  count_2 = jnp.sum(of_2R, axis=1)
  share_2R = of_2R / jnp.maximum(count_2, 1)[:, None] / 2
  weight_R, y_R = jnp.sum(share_2R, axis=0), 2.0 * side_R - 1
  root_R = jnp.sqrt(weight_R)
  mean_H = jnp.einsum("r,rh->h", weight_R, x_RH, precision="highest")
  z_RH = root_R[:, None] * (x_RH - mean_H)
  gram_RR = jnp.einsum("rh,sh->rs", z_RH, z_RH, precision="highest")
  # The weights sum to one, so the trace is the mean square of a row.
  penalty = jnp.maximum(ridge * jnp.trace(gram_RR), 1e-12)
  eye_RR = jnp.eye(len(root_R))
  # The hat matrix of the ridge is 1 - penalty (gram + penalty)^-1.
  inverse_RR = jnp.linalg.inv(gram_RR + penalty * eye_RR)
  left_RR = penalty * inverse_RR - root_R[:, None] * root_R
  residual_R = jnp.matmul(left_RR, root_R * y_R, precision="highest")
  root_R = jnp.where(weight_R > 0, root_R, 1.0)
  predicted_R = y_R - residual_R / jnp.diag(left_RR) / root_R
  return jnp.sum(weight_R * (predicted_R * y_R > 0))


def shares(
  mass_K: shapes.FloatK,
  tilt_N: shapes.Array,
  side_NK: shapes.Array,
  child_N2: shapes.Array,
) -> shapes.FloatK:
  """The domains' shares: products along their paths.

  Args:
    mass_K: q.
    tilt_N: what is added to the logarithm of each node's mass.
    side_NK: as in `State`.
    child_N2: as in `State`.
  """
  mass_N2 = jnp.stack(
    [
      jnp.sum(jnp.where(side_NK == side, mass_K, 0.0), axis=1)
      for side in (0, 1)
    ],
    axis=1,
  )
  tilt_N2 = jnp.where(child_N2 < 0, 0.0, tilt_N[child_N2])
  log_N2 = jnp.log(jnp.maximum(mass_N2, 1e-9)) + tilt_N2
  log_N2 = jax.nn.log_softmax(log_N2, axis=1)
  path_NK = jnp.take_along_axis(log_N2, jnp.maximum(side_NK, 0), axis=1)
  log_K = jnp.sum(jnp.where(side_NK < 0, 0.0, path_NK), axis=0)
  return jnp.where(mass_K > 0, jnp.exp(log_K), 0.0)
