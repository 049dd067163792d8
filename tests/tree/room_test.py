"""Room for leaves: closed nodes are as if they were not there, and names persist."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cmtree_jax.tree import mixture, model, penalties, room


def opened(theta, depth, node):
  level = theta[depth]
  new = level._replace(open_M=level.open_M.at[node].set(1.0))
  return (*theta[:depth], new, *theta[depth + 1 :])


def test_a_tree_with_room_is_the_same_tree(random_tree, embedding_BE):
  theta = random_tree(0)
  grown = room.with_room(theta, 8, kappa=4.0)
  place = jax.jit(model.log_p_leaf)
  p_BL = jnp.exp(place(theta, embedding_BE))
  grown_BL = jnp.exp(place(grown, embedding_BE))
  places = grown_BL.shape[1] // p_BL.shape[1]
  np.testing.assert_allclose(grown_BL[:, ::places], p_BL, rtol=1e-6)
  assert grown_BL.sum() == pytest.approx(len(embedding_BE), rel=1e-5)
  # Noise does not open a node.
  noisy_BL = jnp.exp(
    place(grown, embedding_BE, temperature=0.5, key=jax.random.key(0))
  )
  assert noisy_BL.reshape(-1, 6, places)[:, :, 1:].max() == 0
  assert penalties.angle_overlap(grown) == penalties.angle_overlap(theta)
  assert room.grows(grown) and not room.grows(theta)


def test_tilts_of_closed_nodes_count_for_nothing(random_tree, embedding_BE):
  grown = room.with_room(random_tree(0), 8, kappa=4.0)
  grown = (*grown[:-1], grown[-1]._replace(tilt_MC=grown[-1].tilt_MC + 1.0))
  places = 2 ** (len(grown) - 2)
  want_L = np.repeat(mixture.leaf_tilt(random_tree(0)), places)
  np.testing.assert_allclose(mixture.leaf_tilt(grown), want_L, rtol=1e-6)

  def total(theta):
    log_p_BL = model.log_p_leaf(theta, embedding_BE)
    tilt_L = mixture.leaf_tilt(theta)
    return mixture.document_log_w(log_p_BL, tilt_L).sum()

  gradient = jax.jit(jax.grad(total))(grown)
  assert all(np.isfinite(x).all() for x in jax.tree.leaves(gradient))
  for level in gradient[2:]:
    assert not np.any(level.tilt_MC) and not np.any(level.prototype_MCP)
  assert np.any(gradient[0].tilt_MC)


def test_names_of_other_leaves_persist(random_tree):
  theta = room.with_room(random_tree(0, (2,)), 4, kappa=4.0)
  assert [x for x in room.paths(theta) if x] == ["0", "1"]
  split = opened(theta, 1, 1)
  assert [x for x in room.paths(split) if x] == ["0", "1.0", "1.1"]
  again = opened(split, 2, 3)
  assert [x for x in room.paths(again) if x] == ["0", "1.0", "1.1.0", "1.1.1"]
  assert int(room.num_open(again)) == 4
  for before, after in ((theta, split), (split, again)):
    places = room.paths(before), room.paths(after)
    assert places[0].index("0") == places[1].index("0")


@pytest.mark.parametrize("leaves", [5, 6])
def test_room_for_no_more_is_refused(random_tree, leaves):
  with pytest.raises(ValueError, match=f"max_leaves = {leaves}.*6 leaves"):
    room.with_room(random_tree(0), leaves, kappa=4.0)
