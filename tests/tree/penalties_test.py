"""The overlap of angles whose principal angles are known, and lengths of scores."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cmtree_jax.tree import model, penalties


def overlap(theta, *angles):
  levels = (
    level._replace(angle_PE=jnp.asarray(angle_PE))
    for level, angle_PE in zip(theta, angles, strict=True)
  )
  return penalties.angle_overlap(tuple(levels))


@pytest.fixture
def pair(x64, random_tree):
  return random_tree(0)


def test_orthogonal_spaces_do_not_overlap(pair):
  rows = np.linalg.qr(np.random.default_rng(0).normal(size=(5, 5)))[0]
  np.testing.assert_allclose(overlap(pair, rows[:2], rows[2:]), 0, atol=1e-12)


def test_equal_spaces_overlap_fully_however_their_rows_are_mixed(pair):
  rng = np.random.default_rng(0)
  angle_PE, mix_PP = rng.normal(size=(3, 5)), rng.normal(size=(3, 3))
  found = overlap(pair, angle_PE, mix_PP @ angle_PE)
  np.testing.assert_allclose(found, 1.0, rtol=1e-10)


def test_mixing_rows_changes_nothing(pair):
  rng = np.random.default_rng(1)
  one_PE, two_PE = rng.normal(size=(2, 3, 5))
  found = overlap(pair, one_PE, rng.normal(size=(3, 3)) @ two_PE)
  np.testing.assert_allclose(found, overlap(pair, one_PE, two_PE), rtol=1e-10)
  assert 0.1 < found < 0.9


def test_two_lines_overlap_by_their_squared_cosine(pair):
  angle = 0.7
  one_PE = np.eye(5)[:1]
  two_PE = math.cos(angle) * np.eye(5)[:1] + math.sin(angle) * np.eye(5)[1:2]
  found = overlap(pair, 2 * one_PE, 3 * two_PE)
  np.testing.assert_allclose(found, math.cos(angle) ** 2, rtol=1e-10)


def test_a_line_inside_a_plane_overlaps_fully(pair):
  found = overlap(pair, np.eye(5)[:1], np.eye(5)[:2])
  np.testing.assert_allclose(found, 1.0, rtol=1e-10)


def test_an_angle_as_wide_as_the_space_overlaps_fully_at_no_cost(pair):
  wide_PE, narrow_PE = np.eye(5) + 1, np.eye(5)[:2]
  for angles in [
    (wide_PE, narrow_PE),
    (narrow_PE, wide_PE),
    (wide_PE, 2 * wide_PE),
  ]:
    assert overlap(pair, *angles) == 1
  assert "qr" not in str(jax.make_jaxpr(overlap)(pair, wide_PE, 2 * wide_PE))
  assert "qr" in str(jax.make_jaxpr(overlap)(pair, narrow_PE, narrow_PE))


def test_of_three_levels_it_is_the_mean_over_pairs(x64, random_tree):
  theta = random_tree(0, (2, 1, 3))
  line, other = np.eye(5)[:1], np.eye(5)[1:2]
  np.testing.assert_allclose(
    overlap(theta, line, line, other), 1 / 3, rtol=1e-10
  )


def test_one_level_has_nothing_to_overlap_with(random_tree):
  assert penalties.angle_overlap(random_tree(0, (6,))) == 0


def test_scores_are_charged_by_the_lengths_of_their_vectors(pair):
  assert penalties.score_norm(pair) == 0
  zero: Any = model.with_scores(pair)
  norm = lambda theta: penalties.score_norm(theta)  # noqa: E731
  slope = jax.grad(norm)(zero)[-1].score_MCP
  assert norm(zero) == 0 and not np.any(slope)
  score_MCP = zero[-1].score_MCP.at[0, 1].set([3.0, 0.0, 4.0])
  theta = (*zero[:-1], zero[-1]._replace(score_MCP=score_MCP))
  assert norm(theta) == pytest.approx(5 / 6)
  slope = np.asarray(jax.grad(norm)(theta)[-1].score_MCP)
  np.testing.assert_allclose(slope[0, 1], np.array([0.6, 0, 0.8]) / 6)
  assert np.count_nonzero(slope) == 2
