r"""Sketches of gradients: what an optimizer would make of them, by random signs.

Cosines of gradients need a store of them, which none has room for. Sums with random
signs keep inner products in the mean, and P of them keep a cosine to
:math:`1 / \sqrt P`. The signs come of a key and the number of a block of parameters,
so that whoever asks draws the same ones and nobody stores them.
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from cmtree_jax import shapes
from cmtree_jax.proxy import optim

FORMS = ("adam", "sgd", "sign")

# Parameters whose signs are drawn together: 4 MB of them for 1024 numbers.
BLOCK = 1024
_BITS = 32  # signs that are made of one random number


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

  .. math:: s_p = \frac{1}{\sqrt P} \sum_i R_{ip}\, g_i, \qquad R_{ip} = \pm 1

  Cost: 2 P FLOPs for each number of a gradient; memory of a block of signs.

  Args:
    gradient: g, leaves [B, ...].
    key: of R; equal keys and sizes give equal signs.
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
  flat_BN = jnp.pad(flat_BN, ((0, 0), (0, -flat_BN.shape[1] % BLOCK)))
  blocks = flat_BN.shape[1] // BLOCK
  block_KBN = flat_BN.reshape(-1, blocks, BLOCK).swapaxes(0, 1)

  def add(total_BP, one):
    number, block_BN = one
    sign_NP = signs(jax.random.fold_in(key, number), size)
    # Accelerators else multiply float32 in fewer bits.
    return total_BP + jnp.dot(block_BN, sign_NP, precision="highest"), None

  zeros_BP = jnp.zeros((len(flat_BN), size))
  total_BP, _ = jax.lax.scan(add, zeros_BP, (jnp.arange(blocks), block_KBN))
  return total_BP / jnp.sqrt(size)


def signs(key: shapes.Key, size: int) -> shapes.Array:
  """Random signs [BLOCK, size], float32; a random number gives 32 of them."""
  words = -(-size // _BITS)
  bits = jax.random.bits(key, (BLOCK, words), jnp.uint32)
  one = (bits[..., None] >> jnp.arange(_BITS, dtype=jnp.uint32)) & 1
  return 1.0 - 2.0 * one.reshape(BLOCK, -1)[:, :size].astype(jnp.float32)


def norms(gradient: shapes.Tree) -> shapes.Array:
  """Euclidean norms [B] of B trees with one leading axis."""

  def square(x):
    return jnp.sum(jnp.square(x), axis=tuple(range(1, x.ndim)))

  return jnp.sqrt(jax.tree.reduce(jnp.add, jax.tree.map(square, gradient)))
