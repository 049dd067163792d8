"""The replay buffer: what is remembered of a round, by hand; shuffled values."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from cmtree_jax.tree import replay

B, SIZE = 40, 60
OPTIONS = replay.Replay(size=SIZE, decay=0.5, clip=1e9)


def round_of(seed):
  """Documents, the last eight without mass; their weights are 1.5, then 0.75."""
  rng = np.random.default_rng(seed)
  mass_B = np.append(rng.uniform(1, 2, B - 8), np.zeros(8))
  return replay.Round(
    features=jnp.asarray(rng.normal(size=(B, 3)), jnp.float32),
    value_B=jnp.asarray(rng.normal(1.0, 0.1, B), jnp.float32),
    mass_B=jnp.asarray(mass_B / mass_B.sum(), jnp.float32),
    log_proposal_B=jnp.asarray(rng.normal(0, 0.3, B), jnp.float32),
  ), jnp.log(jnp.where(jnp.arange(B) % 2, 1.5, 0.75))


def remembered(options=OPTIONS, seeds=(0, 1)):
  buffer = replay.empty(options.size, jnp.zeros((1, 3)))
  for seed in seeds:
    buffer = replay.remember(buffer, *round_of(seed), options)
  return buffer


def test_the_newest_come_first_and_the_oldest_are_dropped():
  buffer, (old, _), (new, _) = remembered(), round_of(0), round_of(1)
  np.testing.assert_array_equal(buffer.features[:B], new.features)
  np.testing.assert_array_equal(buffer.features[B:], old.features[: SIZE - B])
  none = remembered(seeds=(0,)).weight_R[B:]
  np.testing.assert_array_equal(none, 0.0)


def test_a_round_weighs_one_and_half_of_that_a_round_later():
  (old, _), (new, _) = round_of(0), round_of(1)
  weight_R = np.asarray(remembered().weight_R)
  for one, found, total in ((new, weight_R[:B], 1.0), (old, weight_R[B:], 0.5)):
    expected_B = one.mass_B * np.exp(-one.log_proposal_B)
    expected_B = total * expected_B / expected_B.sum()
    np.testing.assert_allclose(found, expected_B[: len(found)], rtol=1e-5)


def test_values_are_centered_where_the_weights_that_were_trained_on_are():
  (one, log_w_B), buffer = round_of(0), remembered(seeds=(0,))
  gain = np.sum(buffer.weight_R[:B] * np.exp(log_w_B) * buffer.value_R[:B])
  assert abs(gain) < 1e-6
  moved_B = one.value_B - buffer.value_R[:B]
  np.testing.assert_allclose(moved_B, moved_B[0], atol=1e-6)
  plain = np.sum(buffer.weight_R[:B] * buffer.value_R[:B])
  assert abs(plain) > 1e-4  # the weights matter


def test_far_values_are_clipped_at_so_many_deviations():
  free = remembered(seeds=(0,))
  current_B = free.weight_R[:B] * np.exp(round_of(0)[1])
  value_B = np.asarray(free.value_R[:B])
  spread = np.sqrt(np.sum(current_B * value_B**2) / np.sum(current_B))
  tight = remembered(dataclasses.replace(OPTIONS, clip=0.8), seeds=(0,))
  np.testing.assert_allclose(
    tight.value_R[:B], np.clip(value_B, -0.8 * spread, 0.8 * spread), rtol=1e-4
  )
  assert (np.abs(value_B) > 0.8 * spread).any()


def test_features_may_be_numbers_of_domains():
  new = round_of(0)[0]._replace(features=jnp.arange(B))
  buffer = replay.empty(SIZE, jnp.arange(4))
  found = replay.remember(buffer, new, jnp.zeros(B), OPTIONS).features
  assert found.dtype == new.features.dtype
  np.testing.assert_array_equal(found[:B], np.arange(B))


def test_shuffled_values_are_those_of_the_round_and_leave_what_has_no_mass():
  new, real = round_of(0)[0], B - 8
  shuffle = jax.jit(replay.shuffled)
  one, two = (
    np.asarray(shuffle(new, jax.random.key(seed)).value_B) for seed in (0, 1)
  )
  old = np.asarray(new.value_B)
  for found in (one, two):
    np.testing.assert_array_equal(np.sort(found[:real]), np.sort(old[:real]))
    np.testing.assert_array_equal(found[real:], old[real:])
    assert (found[:real] != old[:real]).mean() > 0.8
  assert (one[:real] != two[:real]).mean() > 0.8
  # What has no mass may stand anywhere.
  back = jax.tree.map(lambda x: x[::-1], new)
  found = np.asarray(shuffle(back, jax.random.key(0)).value_B)
  np.testing.assert_array_equal(found[:8], old[::-1][:8])
  np.testing.assert_array_equal(np.sort(found[8:]), np.sort(old[:real]))


def test_every_fifth_document_is_held_out():
  fit_R, held_R = replay.split(jnp.ones(12))
  np.testing.assert_array_equal(np.flatnonzero(held_R), [0, 5, 10])
  np.testing.assert_array_equal(fit_R + held_R, 1.0)
