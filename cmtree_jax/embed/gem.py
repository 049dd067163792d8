r"""GEM: clusters of directions whose masses are drawn towards each other.

A mixture of von Mises-Fisher distributions is fitted to the embedding, with equal
weights that are not learned, so that large clusters do not grow because they are large;
and the masses that the documents give to the clusters are held near to equal.
"""

from typing import NamedTuple

import numpy as np

from cmtree_jax.embed import kmeans
from cmtree_jax.shapes import FloatL, FloatLE, FloatN, FloatNE


class Gem(NamedTuple):
  """Clusters, the heaviest first; a row of length one is in that of the largest sum."""

  center_LE: FloatLE  # kappa mu, float32: its product with a row is a logarithm
  offset_L: FloatL  # to be added to the product, float32
  mass_L: FloatL  # share of the fitted mass that each cluster has, pi


class Theta(NamedTuple):
  """Parameters of the distributions, float64."""

  mean_LE: np.ndarray  # mu, of length one
  kappa_L: np.ndarray  # concentrations

  def log_density(self, row_NE: np.ndarray) -> np.ndarray:
    """Logarithms of the clusters' densities at rows of length one, [N, L]."""
    return row_NE @ self.scaled_LE.T + self.constant_L

  @property
  def scaled_LE(self) -> np.ndarray:
    """kappa mu."""
    return self.kappa_L[:, None] * self.mean_LE

  @property
  def constant_L(self) -> np.ndarray:
    """The logarithm of what makes each density integrate to one."""
    dimension = self.mean_LE.shape[1]
    order = dimension / 2 - 1
    return (
      order * np.log(self.kappa_L)
      - dimension / 2 * np.log(2 * np.pi)
      - _log_bessel(order, self.kappa_L)
    )


def fit(
  embedding_NE: FloatNE,
  *,
  num_clusters: int,
  seed: int,
  mass_N: FloatN | None = None,
  balance: float = 5.6,
) -> Gem:
  r"""Clusters of a sample.

  .. math:: \max_{\mu, \kappa, \gamma} \; \sum_i m_i \Big( \sum_k \gamma_{ik}
              \log \frac{f(x_i \mid \mu_k, \kappa_k)}{L} + H(\gamma_i) \Big)
              - \frac\lambda2 \Big\| \pi - \frac1L \Big\|^2, \qquad
            \pi_k = \sum_i m_i \gamma_{ik}

  Rounds of two steps. Given the distributions, the best memberships are
  :math:`\gamma_i \propto f(x_i) e^b`, and b, one number for each cluster, solves the
  convex dual problem (`offsets`). Given the memberships, mu is the direction of a
  cluster's mean, and :math:`\kappa = \bar R (d - \bar R^2) / (1 - \bar R^2)` of the
  mean's length R. Rounds end where the objective no longer grows.

  How sure this is: there is no code, and we have read summaries of the paper, not its
  pseudocode. The objective, the fixed weights, the approximation of kappa and
  :math:`\lambda = 5000` for :math:`\kappa \approx 900` are the paper's. That the
  penalty stands beside the *mean* over documents is our reading: beside their sum it
  would vanish with the corpus, and only so do these two numbers have one scale. Here
  lambda is therefore given in units of kappa.

  Departures: the paper ascends a minorizer by mirror steps, here the same step is
  solved. It then labels the corpus by a fastText classifier of representative
  documents, here every document gets the cluster that the mixture gives it. It chooses
  names by a language model; here parts are named as those of any partition.

  Args:
    embedding_NE: rows of any length above zero.
    num_clusters: L; the paper's is 24.
    seed: of the k-means that it starts from.
    mass_N: m, what each row counts for; equal by default.
    balance: :math:`\lambda` in units of the mean kappa at the start; 0 leaves the
      masses free.
  References:
    Min et al., `GEM: Geometric Entropy Mixing for Optimal LLM Data Curation
    <https://arxiv.org/abs/2605.26121>`_, 2026, eq. 3.
  """
  import threadpoolctl

  with threadpoolctl.threadpool_limits(1):  # more would round differently
    return _fit(embedding_NE, num_clusters, seed, mass_N, balance)


def _fit(embedding_NE, num_clusters, seed, mass_N, balance) -> Gem:
  row_NE = _unit(embedding_NE)
  m_N = np.ones(len(row_NE)) if mass_N is None else np.asarray(mass_N, float)
  m_N = m_N / m_N.sum()
  start = kmeans.fit(row_NE, num_clusters=num_clusters, seed=seed, mass_N=m_N)
  gamma_NL = np.eye(num_clusters)[kmeans.assign(row_NE, start.center_LE)]
  theta = distributions(row_NE, m_N, gamma_NL)
  strength = balance * float(m_N @ gamma_NL @ theta.kappa_L)
  offset_L, best = np.zeros(num_clusters), -np.inf
  for _ in range(_ROUNDS):
    log_f_NL = theta.log_density(row_NE)
    offset_L = offsets(log_f_NL, m_N, strength, offset_L)
    gamma_NL = memberships(log_f_NL + offset_L)
    value = objective(log_f_NL, m_N, gamma_NL, strength)
    if value <= best + _TOLERANCE * abs(value):
      break
    best, theta = value, distributions(row_NE, m_N, gamma_NL, theta)
  log_f_NL = theta.log_density(row_NE)
  offset_L = offsets(log_f_NL, m_N, strength, offset_L)
  mass_L = m_N @ memberships(log_f_NL + offset_L)
  order_L = np.argsort(-mass_L, kind="stable")
  return Gem(
    theta.scaled_LE[order_L].astype(np.float32),
    (theta.constant_L + offset_L)[order_L].astype(np.float32),
    mass_L[order_L],
  )


def offsets(
  log_f_NL: np.ndarray,
  mass_N: np.ndarray,
  strength: float,
  start_L: np.ndarray,
) -> np.ndarray:
  r"""What the penalty adds to the logarithms of the densities, b.

  .. math:: \min_b \; \sum_i m_i \log \sum_k f_{ik} e^{b_k}
            - \frac1L \sum_k b_k + \frac{\|b\|^2}{2 \lambda}, \qquad
            b_k = -\lambda \Big( \pi_k - \frac1L \Big)

  Args:
    log_f_NL: logarithms of the densities.
    mass_N: m; sums to one.
    strength: :math:`\lambda`.
    start_L: b to begin with.
  """
  import scipy.optimize

  if not strength:
    return np.zeros_like(start_L)

  def dual(b_L):
    total_N, gamma_NL = _normalized(log_f_NL + b_L)
    value = mass_N @ total_N - b_L.mean() + b_L @ b_L / (2 * strength)
    return value, mass_N @ gamma_NL - 1 / len(b_L) + b_L / strength

  def curvature(b_L):
    _, gamma_NL = _normalized(log_f_NL + b_L)
    shared_LL = (mass_N[:, None] * gamma_NL).T @ gamma_NL
    return np.diag(mass_N @ gamma_NL + 1 / strength) - shared_LL

  found = scipy.optimize.minimize(
    dual,
    start_L,
    jac=True,
    hess=curvature,
    method="trust-exact",
    options=_SOLVER,
  )
  return found.x


def memberships(log_f_NL: np.ndarray) -> np.ndarray:
  """Rows of shares in proportion to exponentials."""
  return _normalized(log_f_NL)[1]


def distributions(
  row_NE: np.ndarray,
  mass_N: np.ndarray,
  gamma_NL: np.ndarray,
  before: Theta | None = None,
) -> Theta:
  """The distributions of given memberships; an empty cluster stays as it was."""
  share_NL = mass_N[:, None] * gamma_NL
  pi_L = share_NL.sum(axis=0)
  sum_LE = share_NL.T @ row_NE
  length_L = np.linalg.norm(sum_LE, axis=1)
  # Equal rows alone would be infinitely concentrated.
  r_L = np.minimum(length_L / np.maximum(pi_L, 1e-300), 1 - 1e-4)
  dimension = row_NE.shape[1]
  kappa_L = np.maximum(r_L * (dimension - r_L**2) / (1 - r_L**2), 1e-3)
  mean_LE = sum_LE / np.maximum(length_L, 1e-300)[:, None]
  if before is not None:
    empty_L = pi_L < 1e-12
    mean_LE = np.where(empty_L[:, None], before.mean_LE, mean_LE)
    kappa_L = np.where(empty_L, before.kappa_L, kappa_L)
  return Theta(mean_LE, kappa_L)


def objective(
  log_f_NL: np.ndarray,
  mass_N: np.ndarray,
  gamma_NL: np.ndarray,
  strength: float,
) -> float:
  """What `fit` maximizes."""
  import scipy.special

  count = log_f_NL.shape[1]
  entropy_N = scipy.special.entr(gamma_NL).sum(axis=1)
  inside_N = (gamma_NL * (log_f_NL - np.log(count))).sum(axis=1)
  pi_L = mass_N @ gamma_NL
  penalty = strength / 2 * ((pi_L - 1 / count) ** 2).sum()
  return float(mass_N @ (inside_N + entropy_N) - penalty)


_ROUNDS = 50
_TOLERANCE = 1e-5  # relative growth of the objective at which rounds end
# The first radius is a logarithm of densities, which have the scale of kappa.
_SOLVER = {"gtol": 1e-7, "initial_trust_radius": 10.0, "max_trust_radius": 1e6}


def _normalized(log_f_NL: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """(logarithms of the rows' sums of exponentials, shares of these sums)."""
  most_N1 = log_f_NL.max(axis=1, keepdims=True)
  f_NL = np.exp(log_f_NL - most_N1)
  total_N1 = f_NL.sum(axis=1, keepdims=True)
  return (most_N1 + np.log(total_N1))[:, 0], f_NL / total_N1


def _log_bessel(order: float, x_L: np.ndarray) -> np.ndarray:
  """log I of the first kind, also where I itself is too small for a float."""
  import scipy.special

  with np.errstate(divide="ignore"):
    found_L = np.log(scipy.special.ive(order, x_L)) + x_L
  # Debye's expansion for large orders, 10.41.3 of the DLMF, to its second term.
  v = max(order, 0.5)
  root_L = np.sqrt(v**2 + x_L**2)
  t_L = v / root_L
  large_L = (
    root_L
    + v * np.log(x_L / (v + root_L))
    - np.log(2 * np.pi * root_L) / 2
    + np.log1p((3 * t_L - 5 * t_L**3) / (24 * v))
  )
  return np.where(np.isfinite(found_L), found_L, large_L)


def _unit(rows: FloatNE) -> np.ndarray:
  rows = np.asarray(rows, np.float64)
  length = np.linalg.norm(rows, axis=1, keepdims=True)
  return rows / np.maximum(length, 1e-12)
