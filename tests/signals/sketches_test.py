"""Forms of gradients and their sketches: the authors' numbers, inner products kept."""

import pathlib
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cmtree_jax.proxy import optim
from cmtree_jax.signals import sketches

CASES = pathlib.Path(__file__).parent / "cases"


class Moments(NamedTuple):
  """As Adam's state has them."""

  mu: jax.Array
  nu: jax.Array


def linear_loss(params, x_D, y):
  """The cross-entropy of a linear softmax model."""
  logits_C = params["W"] @ x_D + params["b"]
  return optax.softmax_cross_entropy_with_integer_labels(logits_C, y)


def flat(tree):
  """In the reference's order: W row by row, then b."""
  return np.concatenate([np.ravel(tree["W"]), np.ravel(tree["b"])])


def test_forms_are_those_of_the_authors_code():
  """princeton-nlp/LESS at 8abf962, collect_grad_reps.py."""
  case = np.load(CASES / "less_adam_gradient.npz")
  params = {"W": case["W"], "b": case["b"]}
  gradient = jax.grad(linear_loss)(params, case["x"][0], int(case["y"][0]))
  np.testing.assert_allclose(flat(gradient), case["grad_sgd"], rtol=1e-5)
  np.testing.assert_array_equal(
    flat(sketches.formed("sign", gradient, None)), case["grad_sign"]
  )
  found = sketches.adam(
    flat(gradient),
    case["exp_avg"],
    case["exp_avg_sq"],
    b1=0.9,
    b2=0.999,
    epsilon=1e-8,
  )
  np.testing.assert_allclose(found, case["grad_adam_reference"], rtol=1e-5)


def test_adam_takes_the_moments_of_the_training():
  optimizer = optim.adamw(
    1e-2, warmup_steps=1, total_steps=None, weight_decay=0.0, eps_root=1e-8
  )
  params = {"a": jnp.ones(3)}
  state = optimizer.init(params)
  gradient = {"a": jnp.array([0.1, -0.2, 0.0])}  # too short to be clipped
  for _ in range(3):
    _, state = optimizer.update(gradient, state, params)
  _, after = optimizer.update(gradient, state, params)
  found = sketches.formed("adam", gradient, state)["a"]
  m, v = optax.tree.get(after, "mu")["a"], optax.tree.get(after, "nu")["a"]
  np.testing.assert_allclose(found, m / jnp.sqrt(v + 1e-8), rtol=1e-6)


@pytest.mark.parametrize("which", range(12))
def test_norms_are_grand(which):
  """mansheej/data_diet at aee462e; GraNd of a linear layer."""
  case = np.load(CASES / "data_diet_scores.npz")
  params = {"W": case["W"].T, "b": case["b"]}
  gradient = jax.grad(linear_loss)(
    params, case["X"][which], int(case["labels"][which])
  )
  found = sketches.norms(jax.tree.map(lambda x: x[None], gradient))
  np.testing.assert_allclose(found[0], case["grad_norm"][which], rtol=1e-5)


def test_sketches_keep_inner_products():
  rng = np.random.default_rng(0)
  shared_N = rng.normal(size=3000)
  own_BN = rng.normal(size=(4, 3000))
  tree = {
    "a": np.float32(own_BN[:, :1000] + shared_N[:1000]).reshape(4, 10, 100),
    "b": np.float32(own_BN[:, 1000:] - shared_N[1000:]),
  }
  flat_BN = np.concatenate([tree["a"].reshape(4, -1), tree["b"]], axis=1)
  size = 2048
  found_BP = sketches.project(tree, jax.random.key(1), size)
  true_BB = flat_BN @ flat_BN.T
  norm_B = np.sqrt(np.diag(true_BB))
  error_BB = (found_BP @ found_BP.T - true_BB) / np.outer(norm_B, norm_B)
  # Each is a mean of `size` products; its deviation is at most sqrt(2 / size).
  assert np.abs(error_BB).max() < 4 * np.sqrt(2 / size)
  # Linear, and the same signs whatever is sketched beside it.
  one = jax.tree.map(lambda x: 2 * x[2:3], tree)
  np.testing.assert_allclose(
    sketches.project(one, jax.random.key(1), size)[0],
    2 * found_BP[2],
    rtol=1e-4,
    atol=1e-3,
  )


def test_blocks_do_not_cancel():
  size = 1024
  x_N = np.random.default_rng(0).normal(size=size)
  opposed = np.concatenate([x_N, -x_N])[None].astype(np.float32)
  found_BP = sketches.project([opposed], jax.random.key(0), size)
  ratio = np.linalg.norm(found_BP) / np.linalg.norm(opposed)
  assert ratio == pytest.approx(1, abs=0.1)


def test_every_number_has_a_sign_and_a_place():
  """Each alone in a tree of its own: one entry of one, fair in sign and place."""
  size, numbers = 32, 96
  found_BP, other_BP = (
    np.asarray(sketches.project([jnp.eye(numbers)], jax.random.key(k), size))
    for k in (2, 3)
  )
  assert (np.abs(found_BP).sum(axis=1) == 1).all()
  assert (np.abs(found_BP) == found_BP**2).all()
  assert abs(found_BP.sum()) < 4 * np.sqrt(numbers)
  # Another key draws others.
  alike = found_BP.sum(axis=1) @ other_BP.sum(axis=1)
  assert abs(alike) < 4 * np.sqrt(numbers)
  # Numbers that stand next to each other never share a place, others by chance.
  place_KP = np.argmax(np.abs(found_BP), axis=1).reshape(-1, size)
  assert all(len(set(place_P)) == size for place_P in place_KP.tolist())
  turn_K = (place_KP - np.arange(size)).T % size
  assert (turn_K == turn_K[0]).all() and len(set(turn_K[0])) > 1


def test_inner_products_are_right_in_the_mean_and_as_near_as_by_dense_signs():
  """Of gradients whose large numbers all lie in the same columns."""
  rng = np.random.default_rng(0)
  scale_N = np.tile(np.exp(rng.normal(size=64)), 100)
  x_BN = (scale_N * rng.normal(size=(2, 6400)) + 0.3).astype(np.float32)
  size, draws = 256, 400
  sketch = jax.jit(jax.vmap(lambda key: sketches.project([x_BN], key, size)))
  found_SBP = np.asarray(sketch(jax.random.split(jax.random.key(3), draws)))
  found_S = np.sum(found_SBP[:, 0] * found_SBP[:, 1], axis=1)
  x_N, y_N = x_BN.astype(float)
  # The variance of P dense rows of signs.
  dense = (x_N @ x_N) * (y_N @ y_N) + (x_N @ y_N) ** 2
  dense = np.sqrt((dense - 2 * (x_N**2 @ y_N**2)) / size)
  assert abs(found_S.mean() - x_N @ y_N) < 4 * dense / np.sqrt(draws)
  assert found_S.std() == pytest.approx(dense, rel=0.15)
