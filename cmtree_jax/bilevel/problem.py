"""What the hypergradient estimators differentiate: an inner and an outer loss."""

from collections.abc import Callable
from typing import NamedTuple

import optax

from cmtree_jax import shapes


class InnerLoss(NamedTuple):
  """The inner objective `sum(weights(theta, batch) * losses(params, batch))`.

  The two functions return arrays of one shape (per document or per token), so
  that one pass gives the derivative with respect to every weight.
  """

  losses: Callable[[shapes.Tree, shapes.Tree], shapes.Array]
  weights: Callable[[shapes.Tree, shapes.Tree], shapes.Array]


class Inner(NamedTuple):
  """phi: a proxy in training."""

  params: shapes.Tree
  opt_state: optax.OptState


class Hypergradient(NamedTuple):
  """What an estimator hands back."""

  loss: shapes.Scalar  # the outer loss after the last inner step
  grad_theta: shapes.Tree  # its derivative with respect to theta
  phi_next: Inner  # the proxy after the inner steps
  adjoint: shapes.Tree  # sum over steps of d loss / d (inner gradient)


def init_inner(
  params: shapes.Tree, optimizer: optax.GradientTransformation
) -> Inner:
  """phi at the start of its training."""
  return Inner(params, optimizer.init(params))


OuterLoss = Callable[[shapes.Tree, shapes.Tree], shapes.Scalar]
