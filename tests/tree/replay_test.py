"""The replay buffer: what is remembered of a round, by hand; shuffled values."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cmtree_jax.tree import replay

B, SIZE, PROXIES, TARGETS = 40, 60, 4, 2
OPTIONS = replay.Replay(size=SIZE, decay=0.5, clip=1e9)
PROXY_B = np.arange(B) % PROXIES


def round_of(seed):
  """Documents, the last eight without mass; their weights are 1.5, then 0.75."""
  rng = np.random.default_rng(seed)
  mass_B = np.append(rng.uniform(1, 2, B - 8), np.zeros(8))
  return replay.Round(
    features=jnp.asarray(rng.normal(size=(B, 3)), jnp.float32),
    value_BT=jnp.asarray(rng.normal(1.0, 0.1, (B, TARGETS)), jnp.float32),
    proxy_B=PROXY_B,
    mass_B=jnp.asarray(mass_B / mass_B.sum(), jnp.float32),
    log_proposal_B=jnp.asarray(rng.normal(0, 0.3, B), jnp.float32),
  ), jnp.log(jnp.where(jnp.arange(B) // 4 % 2, 1.5, 0.75))


def remembered(options=OPTIONS, seeds=(0, 1)):
  buffer = replay.empty(options.size, jnp.zeros((1, 3)), targets=TARGETS)
  for seed in seeds:
    buffer = replay.remember(buffer, *round_of(seed), options, proxies=PROXIES)
  return buffer


def test_the_newest_come_first_and_the_oldest_are_dropped():
  buffer, (old, _), (new, log_w_B) = remembered(), round_of(0), round_of(1)
  np.testing.assert_array_equal(buffer.features[:B], new.features)
  np.testing.assert_array_equal(buffer.features[B:], old.features[: SIZE - B])
  np.testing.assert_array_equal(buffer.age_R, np.arange(SIZE) // B)
  np.testing.assert_allclose(buffer.measured_R[:B], np.exp(log_w_B))
  np.testing.assert_array_equal(buffer.proxy_R[B:], PROXY_B[: SIZE - B])
  none = remembered(seeds=(0,)).weight_R[B:]
  np.testing.assert_array_equal(none, 0.0)


def test_a_round_weighs_one_and_half_of_that_a_round_later():
  (old, _), (new, _) = round_of(0), round_of(1)
  weight_R = np.asarray(remembered().weight_R)
  for one, found, total in ((new, weight_R[:B], 1.0), (old, weight_R[B:], 0.5)):
    expected_B = np.array(one.mass_B * np.exp(-one.log_proposal_B))
    for proxy in range(PROXIES):  # each weighs the same
      own = proxy == PROXY_B
      expected_B[own] *= total / PROXIES / expected_B[own].sum()
    np.testing.assert_allclose(found, expected_B[: len(found)], rtol=1e-5)


def test_values_are_centered_where_the_weights_that_were_trained_on_are():
  (one, log_w_B), buffer = round_of(0), remembered(seeds=(0,))
  current_B = np.asarray(buffer.weight_R[:B] * np.exp(log_w_B))
  value_BT = np.asarray(buffer.value_RT[:B])
  moved_BT = np.asarray(one.value_BT) - value_BT
  for proxy in range(PROXIES):
    own = proxy == PROXY_B
    np.testing.assert_allclose(current_B[own] @ value_BT[own], 0, atol=1e-6)
    # By one number for each proxy and target,
    np.testing.assert_allclose(moved_BT[own], moved_BT[own][:1].repeat(10, 0))
  assert np.ptp(moved_BT[:PROXIES], axis=0).min() > 1e-3  # which differ.
  plain_T = np.asarray(buffer.weight_R[:B]) @ value_BT
  assert np.abs(plain_T).max() > 1e-4  # the weights matter


def test_far_values_are_clipped_at_so_many_deviations():
  free = remembered(seeds=(0,))
  # The spread is taken over all proxies together, by their tokens.
  one, log_w_B = round_of(0)
  current_B = np.asarray(one.mass_B * np.exp(log_w_B - one.log_proposal_B))
  value_BT = np.asarray(free.value_RT[:B])
  spread_T = np.sqrt(current_B @ value_BT**2 / current_B.sum())
  tight = remembered(dataclasses.replace(OPTIONS, clip=0.8), seeds=(0,))
  np.testing.assert_allclose(
    tight.value_RT[:B],
    np.clip(value_BT, -0.8 * spread_T, 0.8 * spread_T),
    rtol=1e-4,
  )
  assert (np.abs(value_BT) > 0.8 * spread_T).any(axis=0).all()


def test_features_may_be_numbers_of_domains():
  new = round_of(0)[0]._replace(features=jnp.arange(B))
  buffer = replay.empty(SIZE, jnp.arange(4), targets=TARGETS)
  found = replay.remember(
    buffer, new, jnp.zeros(B), OPTIONS, proxies=PROXIES
  ).features
  assert found.dtype == new.features.dtype
  np.testing.assert_array_equal(found[:B], np.arange(B))


def test_shuffled_values_are_those_of_the_round_and_leave_what_has_no_mass():
  new, real = round_of(0)[0], B - 8
  shuffle = jax.jit(replay.shuffled)
  one, two = (
    np.asarray(shuffle(new, jax.random.key(seed)).value_BT) for seed in (0, 1)
  )
  old = np.asarray(new.value_BT)

  def rows(value_BT):
    return sorted(map(tuple, value_BT))

  for found in (one, two):
    assert rows(found[:real]) == rows(old[:real])
    np.testing.assert_array_equal(found[real:], old[real:])
    assert (found[:real] != old[:real]).mean() > 0.8
  assert (one[:real] != two[:real]).mean() > 0.8
  # What has no mass may stand anywhere.
  back = jax.tree.map(lambda x: x[::-1], new)
  found = np.asarray(shuffle(back, jax.random.key(0)).value_BT)
  np.testing.assert_array_equal(found[:8], old[::-1][:8])
  assert rows(found[8:]) == rows(old[:real])


@pytest.mark.parametrize("number", [0, 1])
def test_every_second_proxy_judges_by_the_newest_round_alone(number):
  buffer = remembered()
  fit_R, judge_R = (np.asarray(x) for x in replay.split(buffer, number))
  weight_R = np.asarray(buffer.weight_R)
  fits_R = np.asarray(buffer.proxy_R) % 2 == number
  newest_R = np.arange(SIZE) < B
  np.testing.assert_array_equal(fit_R, np.where(fits_R, weight_R, 0))
  np.testing.assert_array_equal(
    judge_R, np.where(~fits_R & newest_R, weight_R, 0)
  )
