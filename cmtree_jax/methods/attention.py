"""Attention: targets attend to the domains that the proxy in training finds alike."""

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
  """The mixtures so far, and how sharply the targets attend."""

  course: steering.Course
  log_tau: shapes.Scalar


class Info(NamedTuple):
  """What a step saw and did."""

  cosine_TK: shapes.Array  # of queries and keys
  tau: shapes.Scalar
  slope: shapes.Scalar  # of the rate of improvement by log tau, relative
  mixture_K: shapes.FloatK


SMALL = Small(dict(every=10))
PLANTED = Planted(dict(every=5), more=TARGET_FIRST)


def make(
  *,
  tau: float = 0.3,
  tau_step: float = 1.0,
  every: int = 10,
  output: str = "mean",
) -> Method:
  r"""Weighs domains by attention of the targets' hidden states to the domains'.

  .. math:: s_{tk} = \cos\big(\Sigma^{-1/2} (h_t - \bar h),\,
              \Sigma^{-1/2} (h_k - \bar h)\big), \qquad
            p_{tk} \propto q_k\, e^{s_{tk} / \tau}, \qquad
            p_k = \frac{1}{T} \sum_t p_{tk}

  with the last hidden states of the proxy as it is now, late tokens of a document
  weighing more: queries :math:`h_t` are means over texts of the targets, keys
  :math:`h_k` over rows of the domains. :math:`\bar h` and :math:`\Sigma` are mean and
  covariance of the rows of all domains, shrunk towards a multiple of the identity as
  far as so few rows ask for (OAS). The mixture moves because the states do.

  The temperature follows the hypergradient of one step of training. The fall of the
  targets' loss is, to first order, :math:`\sum_k p_k a_k`, with the products a of the
  domains' gradients with the targets', and so

  .. math:: \frac{\partial}{\partial \log \tau} \sum_k p_k a_k
            = -\frac{1}{T \tau} \sum_t \mathrm{Cov}_{p_t}(s_t, a), \qquad
            \log \tau \leftarrow \log \tau + \eta\,
            \frac{\partial_{\log \tau} \sum_k p_k a_k}{\sum_k q_k |a_k|}

  before the mixture of the same observation is taken: attention sharpens where what is
  alike helps, and broadens where it does not. The quotient is without unit, for
  products shrink while the proxy learns.

  The proxy that has not trained yet tells nothing, and gets the natural mixture.

  How sure this is: keys and queries are those of RDS+, which compares documents with
  cosines and does not whiten; that domains can be weighed so, by a model in training,
  is our idea, and so is every default. The cosines bound what one domain may get, where
  plain products would favor whatever lies far from the mean. One scalar learns: what it
  sees at an observation is a product of gradients of a few rows, and noisy.

  Args:
    tau: :math:`\tau` at the beginning.
    tau_step: :math:`\eta`; 0 keeps tau as it is, and asks for no gradients. Tau stays
      between a thirtieth of its beginning and thirty times that.
    every: training steps per observation.
    output: the recipe is the "mean" of the mixtures, or the "last" one.
  Returns:
    A Method that reads hidden states of domains and targets.
  Cost:
    One proxy run, with a forward pass over frozen rows of every domain and fresh rows
    of every target every `every` steps, and a gradient of every domain and of the
    targets if tau is learned.
  Raises:
    ValueError: for a tau that is not above zero, a step below zero, every below one or
      an unknown output.
  References:
    Ivison et al., `Large-Scale Data Selection for Instruction Tuning
    <https://arxiv.org/abs/2503.01807>`_, 2025, for the states; Chen et al., `Shrinkage
    Algorithms for MMSE Covariance Estimation <https://arxiv.org/abs/0907.4698>`_, 2010,
    eq. 23, for the shrinkage.
  """
  checks.one_of("output", output, steering.OUTPUT)
  checks.at_least(1, every=every)
  checks.at_least(0, tau_step=tau_step)
  checks.above_zero(tau=tau)
  checks.finite(tau=tau, tau_step=tau_step)

  def init(key: shapes.Key, facts: Facts) -> State:
    del key
    return State(steering.start(facts, every), jnp.log(jnp.float32(tau)))

  def learned(state: State, cosine_TK, target_dot_K):
    """(log tau, its relative slope)."""
    q_K = state.course.domain_mass_K
    dot_K = jnp.where(state.course.present_K, target_dot_K, 0.0)
    scale = jnp.sum(q_K * jnp.abs(dot_K))
    slope = slope_by_log_tau(q_K, cosine_TK, dot_K, jnp.exp(state.log_tau))
    slope = slope / jnp.where(scale > 0, scale, 1.0)
    begin, most = jnp.log(tau), jnp.log(30.0)
    log_tau = state.log_tau + tau_step * slope
    return jnp.clip(log_tau, begin - most, begin + most), slope

  def step(state: State, signals: Signals) -> tuple[State, Info]:
    course, log_tau = state.course, state.log_tau
    cosine_TK = cosines(signals.late_hidden_KRH, signals.target_late_hidden_TH)
    cosine_TK = jnp.where(course.present_K, cosine_TK, 0.0)
    slope = jnp.zeros(())
    is_trained = course.time > 0
    if tau_step:
      moved, slope = learned(state, cosine_TK, signals.target_dot_K)
      log_tau = jnp.where(is_trained, moved, log_tau)
    q_K = course.domain_mass_K
    mixture_K = jnp.mean(attended(q_K, cosine_TK, jnp.exp(log_tau)), axis=0)
    course = course.then(jnp.where(is_trained, mixture_K, q_K))
    info = Info(cosine_TK, jnp.exp(log_tau), slope, course.mixture_K)
    return State(course, log_tau), info

  reads = {"domain_B", "late_hidden_KRH", "target_late_hidden_TH"}
  if tau_step:
    reads.add("target_dot_K")
  return Method(
    init,
    step,
    finalize=lambda state: state.course.recipe(output),
    signals=frozenset(reads),
    loop="steer",
    ask=lambda state: Ask(state.course.mixture_K),
    every=every,
  )


def attended(
  mass_K: shapes.FloatK, cosine_TK: shapes.Array, tau: shapes.Array
) -> shapes.Array:
  """The mixture of each target, [T, K].

  >>> attended(jnp.array([0.5, 0.5]), jnp.log(jnp.array([[1.0, 3.0]])), 1.0).tolist()
  [[0.25, 0.75]]
  """
  return jax.nn.softmax(jnp.log(mass_K) + cosine_TK / tau, axis=-1)


def slope_by_log_tau(
  mass_K: shapes.FloatK,
  cosine_TK: shapes.Array,
  dot_K: shapes.FloatK,
  tau: shapes.Array,
) -> shapes.Scalar:
  """The derivative of sum_k p_k a_k with respect to log tau."""
  p_TK = attended(mass_K, cosine_TK, tau)
  mean_T1 = jnp.sum(p_TK * cosine_TK, axis=1, keepdims=True)
  apart_TK = p_TK * (cosine_TK - mean_T1)
  return -jnp.mean(jnp.sum(apart_TK * dot_K, axis=1)) / tau


def cosines(hidden_KRH: shapes.Array, target_TH: shapes.Array) -> shapes.Array:
  """Of queries and keys [T, K], whitened by the rows; zero for one without rows."""
  real_KR1 = jnp.any(hidden_KRH != 0, axis=-1, keepdims=True)
  count_K1 = jnp.maximum(jnp.sum(real_KR1, axis=1), 1)
  rows = jnp.maximum(jnp.sum(real_KR1), 1)
  mean_H = jnp.sum(hidden_KRH, axis=(0, 1)) / rows
  apart_KRH = jnp.where(real_KR1, hidden_KRH - mean_H, 0.0)
  key_KH = jnp.sum(apart_KRH, axis=1) / count_K1
  apart_NH = apart_KRH.reshape(-1, apart_KRH.shape[-1])
  sigma_HH = _product("nh,ni->hi", apart_NH, apart_NH) / rows
  both_XH = jnp.concatenate([target_TH - mean_H, key_KH])
  white_HX = jnp.linalg.solve(shrunk(sigma_HH, rows), both_XH.T)
  dot_XX = _product("xh,hy->xy", both_XH, white_HX)
  length_X = jnp.sqrt(jnp.maximum(jnp.diag(dot_XX), 1e-12))
  cosine_XX = dot_XX / length_X[:, None] / length_X
  return cosine_XX[: len(target_TH), len(target_TH) :]


def shrunk(sigma_HH: shapes.Array, count: shapes.Array | int) -> shapes.Array:
  """The covariance of so many rows, shrunk to a multiple of the identity (OAS)."""
  size = len(sigma_HH)
  mean = jnp.trace(sigma_HH) / size
  square = jnp.mean(sigma_HH**2)
  rest = (count + 1) * (square - mean**2 / size)
  share = jnp.where(rest > 0, (square + mean**2) / jnp.maximum(rest, 1e-30), 1)
  share = jnp.minimum(share, 1.0)
  # What does not vary at all must still be solved for.
  return (1 - share) * sigma_HH + (share * mean + 1e-9) * jnp.eye(size)


def _product(subscripts: str, *operands: shapes.Array) -> shapes.Array:
  # On a TPU the default would round the products to bfloat16.
  return jnp.einsum(subscripts, *operands, precision="highest")
