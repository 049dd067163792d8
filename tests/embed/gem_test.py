"""GEM: its densities, its two steps, and clusters that do not collapse."""

import numpy as np
import pytest
import scipy.optimize
import scipy.stats

from cmtree_jax.embed import gem, kmeans

E = 8


def rows(counts, kappa=100.0, seed=0):
  """Directions around the first axes; the clusters are as large as they are told."""
  rng = np.random.default_rng(seed)
  center_KE = np.eye(E)[: len(counts)]
  found = [
    scipy.stats.vonmises_fisher(x / np.linalg.norm(x), kappa).rvs(n, rng)
    for x, n in zip(center_KE, counts, strict=True)
  ]
  return np.concatenate(found), np.repeat(np.arange(len(counts)), counts)


def place(found, row_NE):
  return np.argmax(row_NE @ found.center_LE.T + found.offset_L, axis=1)


def effective(cluster_N):
  """exp of the entropy of the clusters' masses."""
  share_K = np.bincount(cluster_N) / len(cluster_N)
  return np.exp(scipy.stats.entropy(share_K))


@pytest.mark.parametrize(("dimension", "kappa"), [(3, 2.0), (64, 90.0)])
def test_densities_integrate_to_one(dimension, kappa):
  rng = np.random.default_rng(0)
  mean_E = rng.normal(size=dimension)
  mean_E /= np.linalg.norm(mean_E)
  law = scipy.stats.vonmises_fisher(mean_E, kappa)
  row_NE = law.rvs(5, rng)
  theta = gem.Theta(mean_E[None], np.array([kappa]))
  np.testing.assert_allclose(
    theta.log_density(row_NE)[:, 0], law.logpdf(row_NE), rtol=1e-10
  )


def test_the_constant_of_many_dimensions_is_that_of_an_expansion():
  # I of order 500 at 20 is below the smallest float; at 300 it is not.
  for x in (20.0, 300.0):
    (found,) = gem._log_bessel(500.0, np.array([x]))
    # The first terms of its series, in logarithms.
    k = np.arange(400)
    terms = (
      (2 * k + 500) * np.log(x / 2)
      - scipy.special.gammaln(k + 1)
      - scipy.special.gammaln(k + 501)
    )
    assert found == pytest.approx(scipy.special.logsumexp(terms), rel=1e-7)


def test_offsets_give_the_best_memberships():
  rng = np.random.default_rng(0)
  log_f_NL, mass_N = 3 * rng.normal(size=(12, 3)), rng.dirichlet(np.ones(12))
  strength = 40.0
  offset_L = gem.offsets(log_f_NL, mass_N, strength, np.zeros(3))
  gamma_NL = gem.memberships(log_f_NL + offset_L)
  pi_L = mass_N @ gamma_NL
  np.testing.assert_allclose(offset_L, -strength * (pi_L - 1 / 3), atol=1e-5)
  best = gem.objective(log_f_NL, mass_N, gamma_NL, strength)

  # No other memberships do better: those of a solver that knows no dual.
  def loss(logit):
    gamma = gem.memberships(logit.reshape(12, 3))
    return -gem.objective(log_f_NL, mass_N, gamma, strength)

  direct = scipy.optimize.minimize(loss, log_f_NL.ravel(), method="L-BFGS-B")
  assert best == pytest.approx(-direct.fun, abs=1e-4)
  assert best >= -direct.fun - 1e-9
  assert best > gem.objective(
    log_f_NL, mass_N, gem.memberships(log_f_NL), strength
  )


def test_the_two_steps_raise_the_objective():
  row_NE, _ = rows([200, 60, 40])
  mass_N = np.full(300, 1 / 300)
  rng = np.random.default_rng(1)
  gamma_NL = rng.dirichlet(np.ones(4), 300)
  theta = gem.distributions(row_NE, mass_N, gamma_NL)
  offset_L, values = np.zeros(4), []
  for _ in range(8):
    log_f_NL = theta.log_density(row_NE)
    values.append(gem.objective(log_f_NL, mass_N, gamma_NL, 200.0))
    offset_L = gem.offsets(log_f_NL, mass_N, 200.0, offset_L)
    gamma_NL = gem.memberships(log_f_NL + offset_L)
    values.append(gem.objective(log_f_NL, mass_N, gamma_NL, 200.0))
    theta = gem.distributions(row_NE, mass_N, gamma_NL, theta)
  # The step of kappa is an approximation.
  assert (np.diff(values) > -1e-3).all()
  assert values[-1] > values[0] + 0.5


def test_it_finds_planted_clusters_whatever_the_length_of_rows():
  row_NE, label_N = rows([100, 90, 80])
  scale_N1 = np.random.default_rng(2).uniform(0.1, 9, (270, 1))
  found = gem.fit(scale_N1 * row_NE, num_clusters=3, seed=0)
  pairs = set(zip(place(found, row_NE).tolist(), label_N.tolist(), strict=True))
  assert len(pairs) == 3
  np.testing.assert_allclose(found.mass_L, [10 / 27, 9 / 27, 8 / 27], atol=0.01)


def test_balance_keeps_one_direction_from_taking_all():
  row_NE, _ = rows([900, 30, 30, 30])
  loose = gem.fit(row_NE, num_clusters=4, seed=0, balance=0.0)
  tight = gem.fit(row_NE, num_clusters=4, seed=0)
  firm = gem.fit(row_NE, num_clusters=4, seed=0, balance=100.0)
  counts = [effective(place(x, row_NE)) for x in (loose, tight, firm)]
  np.testing.assert_allclose(loose.mass_L[0], 900 / 990, atol=0.01)
  assert counts[0] < 1.6 < 3 < counts[1] < counts[2] + 0.01
  np.testing.assert_allclose(firm.mass_L, 0.25, atol=0.02)
  assert (np.diff(tight.mass_L) <= 0).all()


def test_masses_count_as_copies_do():
  row_NE, _ = rows([60, 40])
  mass_N = np.random.default_rng(3).integers(1, 4, 100)
  one = gem.fit(row_NE, num_clusters=2, seed=0, mass_N=mass_N.astype(float))
  two = gem.fit(np.repeat(row_NE, mass_N, axis=0), num_clusters=2, seed=0)
  np.testing.assert_allclose(one.mass_L, two.mass_L, atol=1e-3)
  np.testing.assert_allclose(one.center_LE, two.center_LE, rtol=0.01, atol=0.1)


def test_equal_rows_and_one_cluster_are_no_trouble():
  found = gem.fit(np.ones((6, E)), num_clusters=1, seed=0)
  assert np.isfinite(found.center_LE).all() and found.mass_L == pytest.approx(1)
  center_LE = kmeans.fit(np.ones((6, E)), num_clusters=1, seed=0).center_LE
  np.testing.assert_allclose(
    found.center_LE / np.linalg.norm(found.center_LE), center_LE, rtol=1e-5
  )
