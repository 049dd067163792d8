"""The controls: what each weighs, in closed form."""

import jax
import numpy as np
import pytest

from cmtree_jax.data.draw import sampler
from cmtree_jax.methods import METHODS
from cmtree_jax.methods.base import Signals
from tests.methods.world import (
  MAX_WEIGHT,
  POOL,
  SIGNALS,
  TARGET,
  K,
  facts,
  facts_of,
  make,
  recipe,
  take,
)


def weights(name, max_weight=100.0, **settings):
  """(weights of the pool's documents, shares of domains in the pool)."""
  method, known = make(name, **settings), facts(max_weight)
  found = method.finalize(method.init(jax.random.key(0), known))
  w_N = np.exp(found.log_w(take(method, np.arange(POOL))), dtype=np.float64)
  return w_N, known.domain_mass_K


def pool():
  found = facts().pool
  assert found is not None
  return found


def tokens_of(w_N):
  """Shares of the domains in what is trained on."""
  mass_N = SIGNALS.mass_B[:POOL]
  return np.bincount(SIGNALS.domain_B[:POOL], w_N * mass_N, minlength=K)


def test_natural_is_weight_one():
  assert (weights("natural", MAX_WEIGHT)[0] == 1).all()


@pytest.mark.parametrize("name", ["uniform_clusters", "uniform_sources"])
def test_uniform_domains_get_equal_tokens(name):
  np.testing.assert_allclose(tokens_of(weights(name)[0]), 1 / K, rtol=1e-5)


def test_uniform_sources_stand_on_the_labels():
  assert make("uniform_sources").partition == "sources"
  assert make("uniform_clusters").partition == "given"


def test_uniform_domains_share_what_the_cap_takes_from_the_rarest():
  _, q_K = weights("uniform_clusters")
  rare = np.argmin(q_K)
  cap = 0.9 / K / q_K[rare]
  assert cap > 1
  expected_K = np.full(K, (1 - 0.9 / K) / (K - 1))
  expected_K[rare] = 0.9 / K
  w_N, _ = weights("uniform_clusters", cap)
  np.testing.assert_allclose(tokens_of(w_N), expected_K, rtol=1e-5)


def test_temperature_lies_between_natural_and_uniform():
  w_N, q_K = weights("temperature", temperature=2.0)
  root_K = np.sqrt(q_K)
  np.testing.assert_allclose(tokens_of(w_N), root_K / root_K.sum(), rtol=1e-5)
  w_N, _ = weights("temperature", temperature=1.0)
  np.testing.assert_allclose(w_N, 1.0, rtol=1e-5)
  with pytest.raises(ValueError, match="must be above 0"):
    make("temperature", temperature=0.0)


def test_an_empty_domain_stays_empty():
  method = make("uniform_clusters")
  known = facts(100.0)
  known = known._replace(domain_mass_K=np.array([0.5, 0.0, 0.3, 0.2]))
  found = method.finalize(method.init(jax.random.key(0), known))
  present = np.array([0, 2, 3])
  w_B = np.exp(np.asarray(found.log_w(Signals(domain_B=present))))
  np.testing.assert_allclose(
    known.domain_mass_K[present] * w_B, 1 / 3, rtol=1e-5
  )


def test_crisp_weighs_by_the_ratio_of_target_and_corpus():
  w_N, q_K = weights("crisp")
  target_K = np.bincount(SIGNALS.domain_B[POOL:], minlength=K) / TARGET
  expected_K = 0.999 * target_K / q_K + 0.001  # with the default smoothing
  assert (target_K[2:] == 0).all()
  np.testing.assert_allclose(
    w_N, expected_K[SIGNALS.domain_B[:POOL]], rtol=1e-5
  )


def test_the_worst_mixture_is_the_least_similar_that_the_cap_allows():
  w_N, q_K = weights("worst_mixture", MAX_WEIGHT)
  ratio_K = facts().target_domain_TK[0] / q_K
  worst, *_, best = np.argsort(ratio_K, kind="stable")
  # The least similar ones are at the cap, the most similar gets what is left.
  found_K = tokens_of(w_N)
  np.testing.assert_allclose(found_K[worst], MAX_WEIGHT * q_K[worst], rtol=1e-5)
  similarity = found_K @ ratio_K
  assert similarity < q_K @ ratio_K
  rng = np.random.default_rng(0)
  for p_K in rng.dirichlet(np.ones(K), 300):
    if (p_K <= MAX_WEIGHT * q_K).all():
      assert p_K @ ratio_K >= similarity - 1e-5
  assert found_K[best] < q_K[best]


@pytest.mark.parametrize("max_weight", [1.0, 1.05, 4.0, 300.0])
@pytest.mark.parametrize(
  "name", ["temperature", "uniform_clusters", "crisp", "worst_mixture"]
)
def test_any_budget_s_cap_is_obeyed_by_weights_of_mean_one(name, max_weight):
  rng = np.random.default_rng(0)
  for _ in range(5):
    q_K, target_K = rng.dirichlet(np.full(9, 0.3), 2)
    q_K[4] = target_K[4] = 0.0  # an empty domain
    found = facts_of(
      q_K / q_K.sum(), [target_K / target_K.sum()], max_weight=max_weight
    )
    method = METHODS[name].make()
    state = method.init(jax.random.key(0), found)
    p_K = recipe(method, state, found)  # all of them finite
    np.testing.assert_allclose(p_K.sum(), 1, rtol=1e-3)
    assert (p_K <= max_weight * found.domain_mass_K * (1 + 1e-4)).all()


def test_random_documents_are_a_subset_of_equal_weights():
  w_N = weights("random_documents", share=0.5)[0]
  kept_N = sampler.unit_keys(pool().key_N) < 0.5
  assert 0.3 < kept_N.mean() < 0.7
  expected = 1 / SIGNALS.mass_B[:POOL][kept_N].sum()
  np.testing.assert_allclose(w_N[kept_N], expected, rtol=1e-4)
  assert w_N[~kept_N].max() < 1e-5


def test_random_documents_leave_to_the_others_what_the_cap_takes():
  w_N = weights("random_documents", 1.2, share=0.1)[0]
  kept_N = sampler.unit_keys(pool().key_N) < 0.1
  kept = SIGNALS.mass_B[:POOL][kept_N].sum()
  np.testing.assert_allclose(w_N[kept_N], 1.2, rtol=1e-5)
  np.testing.assert_allclose(
    w_N[~kept_N], (1 - 1.2 * kept) / (1 - kept), rtol=1e-4
  )
