"""Laws of the loss in the mixture, the steps and the size, fitted on the host.

A law of mixtures is a sum of exponentials with positive weights, hence convex;
`optimum.minimize` finds its lowest point.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from cmtree_jax.methods.laws.fitting import Fit, fit


class ExpSum(NamedTuple):
  """L(p) = constant + sum_i weight_i exp(slope_i . p)."""

  constant: np.ndarray
  weight_I: np.ndarray
  slope_IK: np.ndarray

  def predict(self, mixture_RK: np.ndarray) -> np.ndarray:
    """The loss of each mixture [R]."""
    return self.constant + np.exp(mixture_RK @ self.slope_IK.T) @ self.weight_I


class LogLinear(NamedTuple):
  """L_t(p) = exp(log_c_t) + exp(slope_t . p) for each of T losses."""

  log_c_T: np.ndarray
  slope_TK: np.ndarray
  # The same of all starts of the fit, and which of them end as low as the best.
  log_c_TS: np.ndarray | None = None
  slope_TSK: np.ndarray | None = None
  is_good_TS: np.ndarray | None = None

  def predict(self, mixture_RK: np.ndarray) -> np.ndarray:
    """The losses of each mixture [R, T]."""
    return np.exp(self.log_c_T) + np.exp(mixture_RK @ self.slope_TK.T)

  def spread(self, mixture_K: np.ndarray) -> np.ndarray:
    """How far laws that fit as well differ at a mixture: largest less least, [T]."""
    assert self.log_c_TS is not None and self.slope_TSK is not None
    assert self.is_good_TS is not None
    found_TS = np.exp(self.log_c_TS) + np.exp(self.slope_TSK @ mixture_K)
    return _range(found_TS, self.is_good_TS)

  def combine(self, weight_T: np.ndarray) -> ExpSum:
    """The weighted sum of the losses."""
    return ExpSum(weight_T @ np.exp(self.log_c_T), weight_T, self.slope_TK)


def fit_log_linear(
  mixture_RK: np.ndarray,
  loss_RT: np.ndarray,
  *,
  huber_delta: float = 0.02,
  num_starts: int = 8,
  num_steps: int = 300,
) -> LogLinear:
  r"""The log-linear mixing law of each loss.

  .. math:: L_t(p) = c_t + \exp(k_t + A_t \cdot p)

  k is dropped, since the shares sum to one and A can carry it. Internally the shares
  are centered and divided by their spread over the runs, without which L-BFGS needs
  thousands of steps. A start fixes c between zero and the least loss and takes the
  rest from a linear least-squares fit of log(L - c), the shortest one where there
  are fewer runs than domains; the authors start at random instead.

  Args:
    mixture_RK: the mixtures that were run.
    loss_RT: their losses, positive.
    huber_delta: where the Huber loss becomes linear, in units of the losses.
    num_starts: values of c to start from.
    num_steps: L-BFGS steps.
  References:
    Ye et al., `Data Mixing Laws <https://arxiv.org/abs/2403.16952>`_, 2024, eq. 1;
    Olmix, `2602.12237 <https://arxiv.org/abs/2602.12237>`_, without k.
  """
  z_RK, center_K, spread_K = _standardize(mixture_RK)
  starts = _linear_starts(z_RK, loss_RT, num_starts)
  found = _in_float64(
    _descend_log_linear, z_RK, loss_RT, starts, huber_delta, num_steps
  )

  def in_shares(log_c, k, u):
    slope = u / spread_K
    return log_c, slope + (k - slope @ center_K)[..., None]

  return LogLinear(
    *in_shares(*found.params),
    *in_shares(*found.params_S),
    _is_good(found, len(loss_RT)),
  )


def _is_good(found: Fit, losses: int) -> np.ndarray:
  """Which starts of each fit [G, S] end as low as the best of them.

  Within a tenth of its loss, or a thousandth of a bit in each of the `losses`.
  """
  return found.loss_S <= 1.1 * found.loss[:, None] + 5e-7 * losses


def _range(value_GST: np.ndarray, is_good_GS: np.ndarray) -> np.ndarray:
  """Largest less least over the good starts, the second axis."""
  rest = (None,) * (value_GST.ndim - 2)
  good_GS1 = is_good_GS[(..., *rest)]
  most, least = (
    np.where(good_GS1, value_GST, -np.inf),
    np.where(good_GS1, value_GST, np.inf),
  )
  return most.max(axis=1) - least.min(axis=1)


def _in_float64(descend, *args):
  # In float32 descents end where rounding hides that the loss still falls.
  with jax.enable_x64(True):
    return jax.tree.map(np.asarray, descend(*args))


def _standardize(mixture_RK):
  center_K, spread_K = mixture_RK.mean(axis=0), mixture_RK.std(axis=0)
  # A share that never varies has no slope.
  spread_K = np.where(spread_K > 1e-6, spread_K, 1.0)
  return (mixture_RK - center_K) / spread_K, center_K, spread_K


def _linear_starts(z_RK, loss_RT, num_starts):
  """(log_c, k, u), each [T, starts, ...]."""
  ones_R1 = np.ones((len(z_RK), 1))
  c_TS = np.linspace(0.1, 0.95, num_starts) * loss_RT.min(axis=0)[:, None]
  fits_TSK = [
    np.linalg.lstsq(
      np.hstack([ones_R1, z_RK]), np.log(loss_R[:, None] - c_S), rcond=None
    )[0].T
    for loss_R, c_S in zip(loss_RT.T, c_TS, strict=True)
  ]
  fits_TSK = np.stack(fits_TSK)
  return np.log(c_TS), fits_TSK[..., 0], fits_TSK[..., 1:]


@jax.jit(static_argnums=4)
def _descend_log_linear(z_RK, loss_RT, starts, huber_delta, num_steps):
  def of_one(loss_R, starts):
    def objective(params):
      log_c, k, u_K = params
      error_R = jnp.exp(log_c) + jnp.exp(k + z_RK @ u_K) - loss_R
      return jnp.sum(optax.losses.huber_loss(error_R, delta=huber_delta))

    return fit(objective, starts, num_steps=num_steps)

  return jax.vmap(of_one)(loss_RT.T, starts)


def fit_implicit(
  mixture_RK: np.ndarray,
  loss_R: np.ndarray,
  *,
  seed: int,
  num_virtual: int = 30,
  num_members: int = 8,
  huber_delta: float = 0.03,
) -> ExpSum:
  r"""Implicit domain aggregation: a target of unknown composition.

  .. math:: L(p) = c + \sum_m \mathrm{softmax}(v)_m \exp(W_m \cdot p + b_m)

  The virtual domains m and their proportions are learned. The authors boost thirty
  such networks trained by AdamW. Here members are fitted by L-BFGS to resampled runs
  and their mean is taken, which keeps the sum convex.

  Args:
    mixture_RK: the mixtures that were run.
    loss_R: their losses, positive.
    seed: draws the samples of runs and the starts.
    num_virtual: virtual domains of a member.
    num_members: fits whose mean is taken.
    huber_delta: as in `fit_log_linear`.
  References:
    Ye et al., `Data Mixing Laws <https://arxiv.org/abs/2403.16952>`_, 2024,
    section 3.3 and the authors' pipeline.
  """
  rng = np.random.default_rng(seed)
  runs, domains = mixture_RK.shape
  z_RK, center_K, spread_K = _standardize(mixture_RK)
  log_c, k, u = (
    x[0] for x in _linear_starts(z_RK, loss_R[:, None], num_members)
  )
  weight_SR = rng.multinomial(runs, np.full(runs, 1 / runs), num_members)
  size = (num_members, num_virtual)
  starts = (
    log_c,
    np.zeros(size),
    k[:, None] + rng.normal(0, 0.1, size),
    u[:, None] + rng.normal(0, 0.1, (*size, domains)),
  )
  log_c_S, v_SM, b_SM, u_SMK = _in_float64(
    _descend_implicit, z_RK, loss_R, weight_SR, starts, huber_delta
  )
  slope_SMK = u_SMK / spread_K
  slope_SMK += (b_SM - slope_SMK @ center_K)[..., None]
  share_SM = np.exp(v_SM - v_SM.max(axis=1, keepdims=True))
  share_SM /= share_SM.sum(axis=1, keepdims=True)
  return ExpSum(
    np.exp(log_c_S).mean(),
    share_SM.ravel() / num_members,
    slope_SMK.reshape(-1, domains),
  )


@jax.jit
def _descend_implicit(z_RK, loss_R, weight_SR, starts, huber_delta):
  def of_one(weight_R, start):
    def objective(params):
      log_c, v_M, b_M, u_MK = params
      h_RM = jnp.exp(b_M + z_RK @ u_MK.T)
      error_R = jnp.exp(log_c) + h_RM @ jax.nn.softmax(v_M) - loss_R
      huber_R = optax.losses.huber_loss(error_R, delta=huber_delta)
      # The authors' weight decay of 1e-3, without which 30 units fit the noise.
      return jnp.sum(weight_R * huber_R) + 1e-3 * jnp.mean(u_MK**2)

    return fit(
      objective, jax.tree.map(lambda x: x[None], start), num_steps=100
    ).params

  return jax.vmap(of_one)(weight_SR, starts)


class PowerLaw(NamedTuple):
  """L(D) = exp(log_c) + (exp(log_d0) / D)^alpha; one alpha for each of G groups."""

  log_c_GT: np.ndarray
  log_d0_GT: np.ndarray
  alpha_G: np.ndarray
  # The same of all starts of the fit, [G, S, T], and which end as low as the best.
  of_starts: "PowerLaw | None" = None
  is_good_GS: np.ndarray | None = None

  def predict(self, amount: float) -> np.ndarray:
    """The losses [G, T] at an amount of steps, tokens or parameters."""
    log_ratio_GT = self.log_d0_GT - np.log(amount)
    return np.exp(self.log_c_GT) + np.exp(
      self.alpha_G[..., None] * log_ratio_GT
    )

  def spread(self, amount: float) -> np.ndarray:
    """How far laws that fit as well differ there: largest less least, [G, T]."""
    assert self.of_starts is not None and self.is_good_GS is not None
    return _range(self.of_starts.predict(amount), self.is_good_GS)


def fit_power(
  amount_C: np.ndarray, loss_GTC: np.ndarray, *, huber_delta: float = 0.02
) -> PowerLaw:
  """The step law or the size law of series of losses, alpha shared in a group.

  Args:
    amount_C: where the losses were measured; steps, tokens or parameters.
    loss_GTC: positive losses of T series in each of G groups.
    huber_delta: as in `fit_log_linear`.
  References:
    Ye et al., `Data Mixing Laws <https://arxiv.org/abs/2403.16952>`_, 2024,
    section 4.1.
  """
  log_last = np.log(amount_C[-1])
  log_x_C = np.log(amount_C) - log_last
  alpha_S, share_S = (
    x.ravel()
    # alpha where the authors start; the constant as a share of the least loss.
    for x in np.meshgrid([0.3, 0.5, 0.7, 0.9], [0.3, 0.6, 0.9, 0.99])
  )
  least_GT = loss_GTC.min(axis=2)
  log_c_GST = np.log(share_S[:, None] * least_GT[:, None])
  # The rest from the mean of the curve.
  rest_GST = loss_GTC.mean(axis=2)[:, None] - np.exp(log_c_GST)
  shape_S = np.exp(-alpha_S[:, None] * log_x_C).mean(axis=1)
  starts = (
    log_c_GST,
    np.log(rest_GST / shape_S[:, None]),
    np.broadcast_to(np.log(alpha_S), log_c_GST.shape[:2]),
  )
  found = _in_float64(_descend_power, log_x_C, loss_GTC, starts, huber_delta)

  def law(log_c, log_b, log_alpha):
    alpha = np.exp(log_alpha)
    return PowerLaw(log_c, log_last + log_b / alpha[..., None], alpha)

  return law(*found.params)._replace(
    of_starts=law(*found.params_S),
    is_good_GS=_is_good(found, loss_GTC[0].size),
  )


@jax.jit
def _descend_power(log_x_C, loss_GTC, starts, huber_delta):
  def of_one(loss_TC, starts):
    def objective(params):
      log_c_T, log_b_T, log_alpha = params
      # b = (d0 / last amount)^alpha
      log_rest_TC = log_b_T[:, None] - jnp.exp(log_alpha) * log_x_C
      error_TC = jnp.exp(log_c_T)[:, None] + jnp.exp(log_rest_TC) - loss_TC
      return jnp.sum(optax.losses.huber_loss(error_TC, delta=huber_delta))

    return fit(objective, starts, num_steps=200)

  return jax.vmap(of_one)(loss_GTC, starts)
