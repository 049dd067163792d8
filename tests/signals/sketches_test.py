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
  x_N = np.random.default_rng(0).normal(size=sketches.BLOCK)
  opposed = np.concatenate([x_N, -x_N])[None].astype(np.float32)
  found_BP = sketches.project([opposed], jax.random.key(0), 1024)
  ratio = np.linalg.norm(found_BP) / np.linalg.norm(opposed)
  assert ratio == pytest.approx(1, abs=0.1)


def test_signs_are_fair_and_differ_from_block_to_block():
  one, two = (
    np.asarray(sketches.signs(jax.random.key(k), 40)) for k in range(2)
  )
  assert set(np.unique(one)) == {-1.0, 1.0}
  assert one.shape == (sketches.BLOCK, 40)
  deviation = 1 / np.sqrt(one.size)
  assert abs(one.mean()) < 4 * deviation
  assert abs((one * two).mean()) < 4 * deviation
  # Columns and rows of one block do not repeat either.
  gram_PP = one.T @ one / len(one) - np.eye(40)
  assert np.abs(gram_PP).max() < 5 / np.sqrt(len(one))
