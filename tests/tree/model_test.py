"""Leaf probabilities against a plain recursion, their symmetries and noise."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cmtree_jax.tree import model


def by_recursion(theta, document_E, node=0):
  """Leaf probabilities below a node, in order, in plain Python and float64."""
  if not theta:
    return [1.0]
  level = theta[0]
  z_P = np.asarray(level.angle_PE, np.float64) @ np.asarray(document_E)
  z_P /= np.linalg.norm(z_P)
  prototypes = np.asarray(level.prototype_MCP, np.float64)
  odds = []
  for prototype_P in prototypes[node if len(prototypes) > 1 else 0]:
    cosine = z_P @ prototype_P / np.linalg.norm(prototype_P)
    odds.append(np.exp(np.exp(float(level.log_kappa)) * cosine))
  children = level.tilt_MC.shape[1]
  return [
    odds[child] / sum(odds) * below
    for child in range(children)
    for below in by_recursion(theta[1:], document_E, node * children + child)
  ]


@pytest.mark.parametrize("branching", [(6,), (2, 3), (2, 1, 3)])
@pytest.mark.parametrize("oblivious", [False, True])
def test_leaves_are_those_of_a_recursion(
  x64, random_tree, embedding_BE, branching, oblivious
):
  theta = random_tree(0, branching, oblivious=oblivious)
  p_BL = np.exp(model.log_p_leaf(theta, embedding_BE))
  expected_BL = [by_recursion(theta, document_E) for document_E in embedding_BE]
  assert p_BL.shape[1] == model.num_leaves(theta) == 6
  # 1e-12 under the root of `normalize` moves a cosine by as much at most.
  np.testing.assert_allclose(p_BL, expected_BL, rtol=1e-10)


@pytest.mark.parametrize("temperature", [0.01, 1.0, 100.0])
def test_leaf_probabilities_sum_to_one(random_tree, embedding_BE, temperature):
  for seed in range(5):
    log_p_BL = model.log_p_leaf(
      random_tree(seed),
      embedding_BE,
      temperature=temperature,
      key=jax.random.key(seed),
    )
    np.testing.assert_allclose(np.exp(log_p_BL).sum(1), 1.0, rtol=1e-5)


def test_documents_are_routed_independently(x64, random_tree, embedding_BE):
  theta, order = random_tree(0), np.array([3, 1, 0, 6, 2, 5, 4])
  log_p_BL = model.log_p_leaf(theta, embedding_BE)
  permuted_BL = model.log_p_leaf(theta, embedding_BE[order])
  np.testing.assert_allclose(permuted_BL, log_p_BL[order], rtol=1e-12)


def test_the_length_of_features_and_prototypes_does_not_matter(
  x64, random_tree, embedding_BE
):
  theta = random_tree(0)
  longer = tuple(
    x._replace(angle_PE=3 * x.angle_PE, prototype_MCP=7 * x.prototype_MCP)
    for x in theta
  )
  np.testing.assert_allclose(
    model.log_p_leaf(longer, 5 * embedding_BE),
    model.log_p_leaf(theta, embedding_BE),
    rtol=1e-10,
  )


def test_permuted_siblings_permute_their_leaves(x64, random_tree, embedding_BE):
  root, below = random_tree(0)
  order = np.array([2, 0, 1])  # of the children of the second node
  swapped = below._replace(
    prototype_MCP=below.prototype_MCP.at[1].set(below.prototype_MCP[1, order])
  )
  leaf_order = np.array([0, 1, 2, *(3 + order)])
  np.testing.assert_allclose(
    model.log_p_leaf((root, swapped), embedding_BE),
    model.log_p_leaf((root, below), embedding_BE)[:, leaf_order],
    rtol=1e-12,
  )


def test_an_oblivious_level_is_one_with_repeated_prototypes(
  x64, random_tree, embedding_BE
):
  theta = random_tree(0, oblivious=True)
  repeated = tuple(
    level._replace(
      prototype_MCP=jnp.repeat(level.prototype_MCP, len(level.tilt_MC), axis=0)
    )
    for level in theta
  )
  assert repeated[1].prototype_MCP.shape[0] == 2
  log_p_BL = model.log_p_leaf(theta, embedding_BE)
  np.testing.assert_allclose(
    log_p_BL, model.log_p_leaf(repeated, embedding_BE), rtol=1e-12
  )
  # A product of partitions: the joint is the product of its margins.
  p_BMC = np.exp(log_p_BL).reshape(-1, 2, 3)
  outer_BMC = p_BMC.sum(2)[:, :, None] * p_BMC.sum(1)[:, None, :]
  np.testing.assert_allclose(p_BMC, outer_BMC, rtol=1e-10)


def test_temperature_divides_the_logits(x64, random_tree, embedding_BE):
  theta = random_tree(0, (6,))
  sharper = (theta[0]._replace(log_kappa=theta[0].log_kappa + jnp.log(4.0)),)
  np.testing.assert_allclose(
    model.log_p_leaf(theta, embedding_BE, temperature=0.25),
    model.log_p_leaf(sharper, embedding_BE),
    rtol=1e-6,  # the logarithm of 4 is float32
  )


def test_gumbel_noise_at_low_temperature_samples_the_softmax(random_tree):
  theta = random_tree(1)
  document_BE = jnp.asarray(np.random.default_rng(2).normal(size=(1, 5)))
  expected_L = np.exp(model.log_p_leaf(theta, document_BE))[0]
  draws = 20_000
  log_p_BL = model.log_p_leaf(
    theta,
    jnp.repeat(document_BE, draws, axis=0),
    temperature=1e-3,
    key=jax.random.key(0),
  )
  error_L = np.abs(np.exp(log_p_BL).mean(0) - expected_L)
  # Four standard deviations, and the temperature's own bias of about itself.
  spread_L = np.sqrt(expected_L * (1 - expected_L) / draws)
  assert (error_L < 4 * spread_L + 1e-3).all()
  assert expected_L.max() < 0.8  # else the check would be empty


def test_noise_differs_between_keys_and_levels(random_tree, embedding_BE):
  level = random_tree(0, (3,), oblivious=True)[0]
  flat = level._replace(log_kappa=jnp.asarray(-50.0))  # nothing but noise
  twice = (flat, flat._replace(tilt_MC=jnp.zeros((3, 3))))
  one_BL, two_BL = (
    model.log_p_leaf(twice, embedding_BE, key=jax.random.key(seed))
    for seed in (0, 1)
  )
  assert np.abs(one_BL - two_BL).max() > 0.1
  p_BMC = np.exp(one_BL).reshape(-1, 3, 3)
  first_BC, second_BC = p_BMC.sum(2), p_BMC[:, 0] / p_BMC[:, :1].sum(2)
  assert np.abs(first_BC - second_BC).max(1).min() > 1e-3


def test_straight_through_is_hard_forward_and_soft_backward(
  x64, random_tree, embedding_BE
):
  theta = random_tree(0)
  log_p_BL = model.log_p_leaf(theta, embedding_BE)
  cotangent_BL = jnp.asarray(np.random.default_rng(1).normal(size=(7, 6)))
  hard_BL, pullback = jax.vjp(model.straight_through, log_p_BL)
  np.testing.assert_allclose(
    hard_BL, np.eye(6)[np.argmax(log_p_BL, 1)], atol=1e-15
  )
  # The derivative of exp(log p) is p itself.
  np.testing.assert_allclose(
    pullback(cotangent_BL)[0], np.exp(log_p_BL) * cotangent_BL, rtol=1e-12
  )


def test_a_document_without_features_is_routed_evenly(random_tree):
  theta = random_tree(0)
  log_p = lambda embedding_BE: model.log_p_leaf(theta, embedding_BE)  # noqa: E731
  zero_BE = jnp.zeros((1, 5))
  np.testing.assert_allclose(np.exp(log_p(zero_BE)), 1 / 6, rtol=1e-5)
  slope = jax.jacobian(log_p)(zero_BE)
  assert np.isfinite(slope).all()


def test_all_levels_see_what_an_encoder_adds(random_tree, embedding_BE):
  theta: Any = model.with_scores(random_tree(0))
  shape = theta[-1].score_MCP.shape
  score_MCP = jnp.asarray(np.random.default_rng(1).normal(size=shape))
  theta = (*theta[:-1], theta[-1]._replace(score_MCP=score_MCP))
  started: Any = model.with_encoder(theta, jax.random.key(0), 6)
  before, same = (model.place(x, embedding_BE) for x in (theta, started))
  np.testing.assert_array_equal(before.log_p_BL, same.log_p_BL)
  encoder = started[0].encoder
  out_EH = np.random.default_rng(2).normal(size=(5, 6))
  moved = encoder._replace(out_EH=jnp.asarray(out_EH))
  found: Any = model.place(
    (started[0]._replace(encoder=moved), *started[1:]), embedding_BE
  )
  u_BH = np.asarray(embedding_BE) @ np.asarray(encoder.in_HE).T
  # Hendrycks and Gimpel, 2016, the approximation by a hyperbolic tangent.
  inner_BH = (2 / np.pi) ** 0.5 * (u_BH + 0.044715 * u_BH**3)
  hidden_BH = u_BH / 2 * (1 + np.tanh(inner_BH))
  expected: Any = model.place(
    theta, jnp.asarray(embedding_BE + hidden_BH @ out_EH.T)
  )
  np.testing.assert_allclose(found.log_p_BL, expected.log_p_BL, atol=1e-5)
  np.testing.assert_allclose(found.lean_BL, expected.lean_BL, atol=1e-5)
  assert np.abs(found.log_p_BL - before.log_p_BL).max() > 0.1
