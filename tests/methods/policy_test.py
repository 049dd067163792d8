"""The policy: what it sees, what does not matter to it, and its derivative."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cmtree_jax.methods import policy as policies
from cmtree_jax.methods import steering
from cmtree_jax.methods.base import Documents
from cmtree_jax.methods.policy import Policy, Run, Seen, Windows
from cmtree_jax.types import UserError
from tests.methods import taught, world

F, G = len(policies.LEAST_MOVING) + 2, len(policies.LEAST_GLOBAL)
Q_K = np.array([0.4, 0.3, 0.2, 0.1])
TRUST = 0.2


def course(mass_K=Q_K, max_weight=100.0) -> steering.Course:
  return steering.start(world.facts_of(mass_K, max_weight=max_weight))


def random_policy(seed=0) -> Policy:
  """One that has opinions, in double precision if that is on."""
  fresh = policies.start(jax.random.key(seed), F)
  rng = np.random.default_rng(seed)
  psi = jax.tree.map(
    lambda x: jnp.asarray(rng.normal(size=x.shape) / np.sqrt(len(x)), float),
    fresh.psi,
  )
  return Policy(psi, jnp.full(F, 0.7), jnp.full(G, 1.3))


def random_seen(domains=4, seed=1) -> Seen:
  rng = np.random.default_rng(seed)
  return Seen(
    jnp.asarray(rng.normal(size=(domains, F))),
    jnp.asarray(rng.normal(size=G)),
  )


def test_a_new_network_and_zeros_are_natural():
  fresh, seen = policies.start(jax.random.key(0), F), random_seen()
  # Known units, so that the network sees something.
  fresh = fresh._replace(scale_F=jnp.ones(F), scale_G=jnp.ones(G))
  zero = fresh._replace(psi=jax.tree.map(jnp.zeros_like, fresh.psi))
  for policy in (fresh, zero):
    found_K = policies.mixture(policy, seen, course())
    np.testing.assert_allclose(found_K, Q_K, rtol=1e-6)
  found_K = policies.mixture(random_policy(), seen, course())
  assert np.abs(found_K / Q_K - 1).max() > 0.1


def test_permuted_domains_permute_the_mixture(x64):
  policy, seen = random_policy(), random_seen()
  order = np.array([2, 0, 3, 1])
  there_K = policies.mixture(policy, seen, course())
  back_K = policies.mixture(
    policy,
    seen._replace(domain_KF=seen.domain_KF[order]),
    course(Q_K[order]),
  )
  np.testing.assert_allclose(back_K, there_K[order], rtol=1e-12)


@functools.cache
def documents(copies: int) -> tuple[Documents, Documents]:
  """One for each domain, or for each part of it; and the target's."""
  place_KE = np.random.default_rng(3).normal(size=(4, 5))
  pool = Documents(
    np.arange(4 * copies, dtype=np.uint64),
    np.repeat(Q_K / copies, copies),
    np.repeat(place_KE, copies, axis=0),
    np.arange(4 * copies),
  )
  goal = Documents(
    np.zeros(1, np.uint64), np.ones(1), place_KE[:2].mean(0)[None]
  )
  return pool, goal


def still(copies: int) -> np.ndarray:
  pool, goal = documents(copies)
  facts = world.facts_of(pool.tokens_N, pool=pool, train=(goal,))
  return policies.still(facts, 0)


def test_halves_of_all_domains_get_half_the_shares_of_each(x64):
  policy, seen = random_policy(), random_seen()

  def shares(copies):
    moving_KF = np.repeat(seen.domain_KF[:, :-2], copies, axis=0)
    both_KF = jnp.concatenate([moving_KF, still(copies)], axis=1)
    mass_K = np.repeat(Q_K / copies, copies)
    return policies.mixture(
      policy, seen._replace(domain_KF=both_KF), course(mass_K)
    )

  np.testing.assert_allclose(
    shares(2).reshape(4, 2),
    np.repeat(shares(1)[:, None] / 2, 2, axis=1),
    rtol=1e-12,
  )


def test_halves_of_one_domain_differ_by_the_size_that_is_seen(x64):
  """A network that does not look at sizes divides the share; another one does not."""
  seen, size = random_seen(), len(policies.LEAST_MOVING)
  rows = np.array([0, 0, 1, 2, 3])
  mass_K = np.array([0.2, 0.2, 0.3, 0.2, 0.1])
  split_KF = np.array(seen.domain_KF)[rows]
  split_KF[:, size] = np.log(mass_K) - mass_K @ np.log(mass_K)
  whole_KF = np.array(seen.domain_KF)
  whole_KF[:, size] = np.log(Q_K) - Q_K @ np.log(Q_K)
  policy = random_policy()
  blind = policy._replace(scale_F=policy.scale_F.at[size].set(0.0))

  def difference(policy):
    one_K, two_K = (
      policies.mixture(
        policy, seen._replace(domain_KF=jnp.asarray(x_KF)), course(q_K)
      )
      for x_KF, q_K in ((whole_KF, Q_K), (split_KF, mass_K))
    )
    return np.abs(np.append(two_K[:2].sum(), two_K[2:]) - one_K).max()

  assert difference(blind) < 1e-12
  assert difference(policy) > 1e-3


def test_what_is_seen_by_hand():
  q_K = np.array([0.5, 0.5, 0.0])
  run = Run(
    loss_K=jnp.array([4.0, 2.0, 1.0]),
    loss_T=jnp.array([3.0, 1.0]),
    first_T=jnp.array([6.0, 2.0]),
    share_K=jnp.array([1.5, 0.5, 0.0]),
  )
  now = jnp.array([2.0, 2.0, 1.0]), jnp.array([1.5, 1.0])
  still_KS = jnp.arange(3.0)[:, None]
  found = policies.see(course(q_K), run, 0.5, now, still_KS, 4.0)
  expected_KF = [
    [0, np.log(2), np.log(1.5), np.log(1 + 4 * 0.5 * 1.5), 0],
    [0, 0, np.log(0.5), np.log(1 + 4 * 0.5 * 0.5), 1],
    [0, 0, 0, 0, 2],  # holds nothing
  ]
  np.testing.assert_allclose(found.domain_KF, expected_KF, rtol=1e-6)
  np.testing.assert_allclose(
    found.global_G,
    [0.5, np.log(0.25) / 2 + np.log(0.5) / 2, np.log(2) / 2],
    rtol=1e-6,
  )
  # Losses of another corpus, three times as large, look the same.
  thrice = run._replace(
    **{n: 3 * getattr(run, n) for n in ("loss_K", "loss_T", "first_T")}
  )
  again = policies.see(
    course(q_K), thrice, 0.5, (3 * now[0], 3 * now[1]), still_KS, 4.0
  )
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), again, found
  )


def test_places_are_relative_to_the_corpus_and_near_means_like_the_target():
  pool, goal = documents(1)
  facts = world.facts_of(Q_K, pool=pool, train=(goal,))
  moved = world.facts_of(
    Q_K,
    pool=pool._replace(embedding_NE=7 + 3 * pool.embedding_NE),
    train=(goal._replace(embedding_NE=7 + 3 * goal.embedding_NE),),
  )
  found_KS = policies.still(facts, 8)
  np.testing.assert_allclose(policies.still(moved, 8), found_KS, atol=1e-9)
  assert found_KS.shape == (4, 10)
  near_K = found_KS[:, 1]
  assert near_K[:2].min() > near_K[2:].max()


def test_units_are_those_of_the_first_windows_that_count():
  seen = Seen(
    jnp.asarray(np.random.default_rng(0).normal(size=(3, 4, F))),
    jnp.ones((3, G)),
  )
  windows = Windows(
    seen, jnp.tile(Q_K, (3, 1)), jnp.zeros((3, 4)), jnp.array([1.0, 0, 1])
  )
  fresh = policies.start(jax.random.key(0), F)
  known = policies.with_units(fresh, windows, jnp.asarray(Q_K))
  counted_WKF = np.asarray(seen.domain_KF)[[0, 2]]
  expected_F = np.sqrt(np.einsum("k,wkf->f", Q_K, counted_WKF**2) / 2)
  least_F = (*policies.LEAST_MOVING, policies.LEAST_STILL, policies.LEAST_STILL)
  np.testing.assert_allclose(
    known.scale_F, np.maximum(expected_F, least_F), rtol=1e-5
  )
  larger = windows._replace(seen=jax.tree.map(lambda x: 5 * x, seen))
  again = policies.with_units(known, larger, jnp.asarray(Q_K))
  np.testing.assert_array_equal(again.scale_F, known.scale_F)
  np.testing.assert_array_equal(again.scale_G, known.scale_G)


@pytest.mark.parametrize("max_weight", [100.0, 1.05])
def test_the_slope_is_that_of_training_on_what_the_policy_asks_for(
  x64, max_weight
):
  """Through ten steps of a model in closed form, against finite differences."""
  policy, seen = random_policy(), random_seen()
  where = course(max_weight=max_weight)
  skill_S = jnp.array([0.3, 0.1, 0.0, 0.2])

  def fall(log_K):
    after_S = taught.after(skill_S, jnp.exp(log_K), jnp.eye(4), True, steps=10)
    return -taught.target_loss(after_S)

  def of(psi):
    mixture_K = policies.mixture(policy._replace(psi=psi), seen, where)
    return fall(jnp.log(mixture_K))

  mixture_K = policies.mixture(policy, seen, where)
  # The cap holds for one domain, or for none.
  assert bool(jnp.any(mixture_K > 1.08 * Q_K)) == (max_weight > 2)
  gain_K = jax.grad(fall)(jnp.log(mixture_K))
  windows = jax.tree.map(
    lambda x: x[None], Windows(seen, mixture_K, gain_K, jnp.ones(()))
  )
  slope = jax.grad(policies.objective)(
    policy.psi, policy, windows, where, TRUST
  )
  rng = np.random.default_rng(5)
  for _ in range(3):
    way = jax.tree.map(
      lambda x: jnp.asarray(rng.normal(size=x.shape)), policy.psi
    )
    up, down = (
      of(jax.tree.map(lambda x, d, h=h: x + h * d, policy.psi, way))
      for h in (1e-5, -1e-5)
    )
    found = jax.tree.reduce(
      jnp.add, jax.tree.map(lambda s, d: jnp.sum(s * d), slope, way)
    )
    size = jnp.abs(gain_K).sum()
    np.testing.assert_allclose(found * size, (up - down) / 2e-5, rtol=1e-5)


def test_a_window_moves_the_mixture_by_what_is_trusted(x64):
  """A network that is free at one window goes to p + 2 r a / sum |a|."""
  policy, seen, where = random_policy(), random_seen(), course()
  gain_K = np.array([3.0, -1.0, -2.0, 0.0])
  last_K = policies.mixture(policy, seen, where)
  windows = jax.tree.map(
    lambda x: jnp.asarray(x)[None],
    Windows(seen, last_K, gain_K, np.ones(())),
  )
  optimizer, slope = optax.adam(1e-2), jax.grad(policies.objective)

  def follow(carry, _):
    psi, moments = carry
    fall = jax.tree.map(jnp.negative, slope(psi, policy, windows, where, 0.1))
    update, moments = optimizer.update(fall, moments, psi)
    return (optax.apply_updates(psi, update), moments), None

  start = policy.psi, optimizer.init(policy.psi)
  (psi, _), _ = jax.lax.scan(follow, start, length=1000)
  found_K = policies.mixture(policy._replace(psi=psi), seen, where)
  np.testing.assert_allclose(found_K, last_K + 0.2 * gain_K / 6, atol=1e-3)


def test_a_policy_is_read_back_and_others_are_refused():
  policy = random_policy()
  arrays = policies.to_arrays(policy)
  assert all(isinstance(x, np.ndarray) and x.size for x in arrays.values())
  like = policies.start(jax.random.key(9), F)
  found = policies.from_arrays(arrays, like)
  jax.tree.map(np.testing.assert_array_equal, found, policy)
  with pytest.raises(UserError, match="projected"):
    policies.from_arrays(arrays, policies.start(jax.random.key(9), F + 8))
  with pytest.raises(UserError, match="scale_F"):
    missing = {n: x for n, x in arrays.items() if n != "scale_F"}
    policies.from_arrays(missing, like)
