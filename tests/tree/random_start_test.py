"""A start by chance: what is random, and what must hold all the same."""

import functools

import numpy as np
import pytest

from cmtree_jax.tree import model, random_start, starts
from cmtree_jax.tree.mixture import Sample
from cmtree_jax.types import UserError


def documents(size=400, width=6):
  """Features around a common direction, as those of texts are: not centered."""
  rng = np.random.default_rng(0)
  features = rng.normal(0, 0.2, (size, width)) + np.eye(width)[0]
  features /= np.linalg.norm(features, axis=1, keepdims=True)
  mass_N = rng.uniform(0.5, 1.5, size)
  return features.astype(np.float32), mass_N / mass_N.sum()


def angle(seed, angle_dim=3):
  return random_start.random_angle(
    *documents(),
    np.zeros(400, int),
    (),
    angle_dim=angle_dim,
    rng=np.random.default_rng(seed),
  )


def test_rows_are_orthonormal_and_a_matter_of_the_seed():
  np.testing.assert_allclose(angle(0) @ angle(0).T, np.eye(3), atol=1e-12)
  np.testing.assert_array_equal(angle(0), angle(0))
  assert np.abs(angle(0) - angle(1)).max() > 0.1


def test_no_direction_is_preferred():
  # The mean projector on a random space of 2 out of 6 dimensions is I / 3.
  found = np.mean([angle(s, 2).T @ angle(s, 2) for s in range(2000)], axis=0)
  np.testing.assert_allclose(found, np.eye(6) / 3, atol=0.03)


def test_prototypes_are_documents_that_no_leaf_is_empty_of():
  features, mass_N = documents()
  rng = np.random.default_rng(0)
  center = random_start.random_documents(features, mass_N, 16, rng=rng)
  rows = {row.tobytes() for row in features}
  assert len({row.tobytes() for row in center} & rows) == 16

  def least(center):
    child_N = np.argmax(features @ center.T, axis=1)
    return np.bincount(child_N, mass_N, minlength=16).min()

  once = [
    least(features[rng.choice(400, 16, replace=False, p=mass_N)])
    for _ in range(200)
  ]
  assert least(center) > np.quantile(once, 0.75) > 0


def test_documents_without_mass_are_no_prototypes():
  features, mass_N = documents()
  mass_N = np.where(np.arange(400) < 5, mass_N, 0.0)
  rng = np.random.default_rng(0)
  center = random_start.random_documents(features, mass_N, 5, rng=rng)
  assert {row.tobytes() for row in center} == {
    row.tobytes() for row in features[:5]
  }
  with pytest.raises(UserError, match="6 prototypes from 5 documents"):
    random_start.random_documents(features, mass_N, 6, rng=rng)


@pytest.mark.parametrize("oblivious", [False, True])
def test_a_tree_grown_from_it_uses_all_of_its_leaves(oblivious):
  features, mass_N = documents()
  for seed in range(5):
    rng = np.random.default_rng(seed)
    theta = starts.grow(
      Sample(features, mass_N),
      starts.Form((3, 3), oblivious),
      kappa=16.0,
      angle=functools.partial(random_start.random_angle, angle_dim=3, rng=rng),
      cluster=functools.partial(random_start.random_documents, rng=rng),
    )
    p_NL = np.exp(model.log_p_leaf(theta, features))
    # Cosines are all alike here, so leaves are soft, and none is nearly empty.
    assert (mass_N @ p_NL).min() > 0.1 / 9
    if not oblivious:
      hard = np.bincount(p_NL.argmax(axis=1), mass_N, minlength=9)
      assert hard.min() > 0
