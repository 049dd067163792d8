"""Values: what a little more of a document would take off the outer loss."""

from collections.abc import Callable

import jax

from cmtree_jax import shapes


def probe(
  losses: Callable[[shapes.Tree, shapes.Tree], shapes.Array],
  params: shapes.Tree,
  adjoint: shapes.Tree,
  batch: shapes.Tree,
) -> tuple[shapes.Array, shapes.Array]:
  r"""Losses and values of any documents, at the cost of a forward pass and its tangent.

  .. math:: v_i = -\langle \nabla \ell_i(\phi), \textstyle\sum_t u_t \rangle

  where :math:`u_t` is the cotangent of the inner gradient at step t: the fall
  of the outer loss, to first order, per unit of weight that document i is given
  at every step of the unroll. The tangent of a product of two matrices is two
  products, so that is as many FLOPs as a gradient, without its memory.

  Args:
    losses: (params, batch) -> losses of any shape.
    params: phi at some point of the unroll.
    adjoint: `Hypergradient.adjoint`.
    batch: the documents to value.
  Returns:
    (losses, values), both of the shape of the losses.
  References:
    Gu et al., `Data Selection via Optimal Control
    <https://arxiv.org/abs/2410.07064>`_, 2024, eq. 8.
  """
  loss, slope = jax.jvp(lambda p: losses(p, batch), (params,), (adjoint,))
  return loss, -slope
