"""Where a recipe's tokens go."""

import numpy as np
import pytest

from cmtree_jax.evaluate import shares


def test_shares_are_those_of_tokens_and_sum_to_one():
  rng = np.random.default_rng(0)
  mass_N = rng.dirichlet(np.ones(50))
  group_N = rng.integers(0, 3, 50)
  w_N = rng.exponential(size=50)
  found = shares.of_groups(
    group_N, ("a", "b", "c", "none"), np.log(w_N), mass_N
  )
  trained_N = mass_N * w_N / (mass_N @ w_N)
  for number, one in enumerate(found):
    inside_N = group_N == number
    assert one.natural == pytest.approx(mass_N[inside_N].sum(), abs=1e-3)
    assert one.recipe == pytest.approx(trained_N[inside_N].sum(), abs=1e-3)
  assert found[3][1:] == (0, 0)
  assert found[0].to_json(1000)["tokens"] == round(found[0].recipe * 1000)


def test_a_document_is_near_the_target_of_the_same_direction():
  targets = [np.array([[4.0, 0.0], [2.0, 0.0]]), np.array([[0.0, 0.1]])]
  documents = np.array([[1.0, 0.9], [0.1, 0.2], [-1.0, 5.0], [0.3, 0.0]])
  found_N = shares.nearest([documents[:1], documents[1:]], targets)
  np.testing.assert_array_equal(found_N, [0, 1, 1, 0])
