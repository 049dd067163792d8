r"""Sketches of gradients: what an optimizer would make of them, in few numbers.

Cosines of gradients need a store of them, which none has room for. Of a count sketch
every number of a gradient goes into one of P sums, with a random sign. Inner products
of such sums are those of the gradients in the mean, and cosines are kept to
:math:`1 / \sqrt P`, as by P dense rows of random signs, for a P-th of their cost. Signs
and places come of a key, so that whoever asks draws the same ones.

References:
  Charikar, Chen and Farach-Colton, `Finding frequent items in data streams
  <https://doi.org/10.1016/S0304-3975(03)00400-6>`_, 2004; Weinberger et al., `Feature
  hashing <https://arxiv.org/abs/0902.2206>`_, 2009, lemma 2.
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from cmtree_jax import shapes
from cmtree_jax.proxy import optim

FORMS = ("adam", "sgd", "sign")


def formed(form: str, gradient: shapes.Tree, opt_state: Any) -> shapes.Tree:
  r"""A gradient in the form that is compared.

  .. math:: \Gamma = \frac{m'}{\sqrt{v' + \epsilon}}, \qquad
            m' = \beta_1 m + (1 - \beta_1) g, \quad
            v' = \beta_2 v + (1 - \beta_2) g^2

  for "adam", with the moments m and v of the training that g is taken in.

  Departures: as the authors' code, and not the paper, this corrects no bias and adds
  :math:`\epsilon` under the root: of a late step both differ by a factor.

  Args:
    form: "adam"; "sgd", g itself; or "sign", the signs of its numbers.
    gradient: g, of parameters; further axes may be before theirs.
    opt_state: of Adam, whose moments are m and v; no other form reads it.
  References:
    Xia et al., `LESS <https://arxiv.org/abs/2402.04333>`_, 2024, section 3.1;
    princeton-nlp/LESS at 8abf962, collect_grad_reps.py.
  """
  if form == "sgd":
    return gradient
  if form == "sign":
    return jax.tree.map(jnp.sign, gradient)
  assert form == "adam", form
  m, v = (optax.tree.get(opt_state, name) for name in ("mu", "nu"))
  return jax.tree.map(adam, gradient, m, v)


def adam(
  g: shapes.Array,
  m: shapes.Array,
  v: shapes.Array,
  *,
  b1: float = optim.B1,
  b2: float = optim.B2,
  epsilon: float = optim.EPSILON,
) -> shapes.Array:
  """Gamma of `formed` for one array; the constants are those of our trainings."""
  mean = b1 * m + (1 - b1) * g
  square = b2 * v + (1 - b2) * g**2
  return mean / jnp.sqrt(square + epsilon)


def project(gradient: shapes.Tree, key: shapes.Key, size: int) -> shapes.Array:
  r"""Sketches [B, P] of B trees with one leading axis, float32.

  .. math:: s_p = \sum_{i: h_i = p} r_i\, g_i, \qquad r_i = \pm 1

  P numbers in a row have places of their own, turned at random: two numbers share one
  with probability 1 / P, or never.

  Cost: 2 FLOPs for each number of a gradient; memory of one gradient of signs.

  Args:
    gradient: g, leaves [B, ...].
    key: of r and h; equal keys, sizes and shapes give equal ones.
    size: P.

  >>> g = {"a": jnp.eye(3), "b": jnp.ones((3, 2))}
  >>> s_BP = project(g, jax.random.key(0), 4096)
  >>> (s_BP @ s_BP.T).round()
  Array([[3., 2., 2.],
         [2., 3., 2.],
         [2., 2., 3.]], dtype=float32)
  """
  leaves = jax.tree.leaves(gradient)
  flat_BN = jnp.concatenate(
    [x.reshape(len(x), -1).astype(jnp.float32) for x in leaves], axis=1
  )
  flat_BN = jnp.pad(flat_BN, ((0, 0), (0, -flat_BN.shape[1] % size)))
  blocks = flat_BN.shape[1] // size
  sign_key, turn_key = jax.random.split(key)
  sign_KP = jax.random.rademacher(sign_key, (blocks, size), jnp.float32)
  turn_K = jax.random.randint(turn_key, (blocks,), 0, size)

  def add(total_BP, one):
    number, sign_P, turn = one
    block_BP = jax.lax.dynamic_slice_in_dim(
      flat_BN, number * size, size, axis=1
    )
    return total_BP + jnp.roll(sign_P * block_BP, turn, axis=1), None

  zeros_BP = jnp.zeros((len(flat_BN), size))
  numbered = jnp.arange(blocks), sign_KP, turn_K
  total_BP, _ = jax.lax.scan(add, zeros_BP, numbered)
  return total_BP


def norms(gradient: shapes.Tree) -> shapes.Array:
  """Euclidean norms [B] of B trees with one leading axis."""

  def square(x):
    return jnp.sum(jnp.square(x), axis=tuple(range(1, x.ndim)))

  return jnp.sqrt(jax.tree.reduce(jnp.add, jax.tree.map(square, gradient)))
