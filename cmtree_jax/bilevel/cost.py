"""What a hypergradient costs, in forward passes, from the formulas of the work.

A gradient is three passes (the backward one is twice as dear), a product with the
Hessian eight: forward-over-reverse is nine, but for the primal's gradient of the
weights, which nothing reads; the tangent of a forward pass is two beside the pass
itself. The formula of an estimator stands beside it.
"""

from typing import NamedTuple

GRADIENT, HESSIAN, TANGENT = 3, 8, 3


class UnrollCost(NamedTuple):
  """The cost of one hypergradient through an unroll of training steps."""

  inner_passes: int  # forward passes over the tokens of every inner batch
  outer_gradients: int  # of the outer loss
