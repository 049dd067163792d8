"""What each estimator costs, in forward passes, from the formulas of the work.

A gradient is three passes (the backward one is twice as dear), a product with the
Hessian eight: forward-over-reverse is nine, less the primal's gradient of the weights,
which nothing reads; the tangent of a forward pass is two beside the pass itself.
"""

import inspect
from typing import Any, NamedTuple

from cmtree_jax.bilevel import HYPERGRADS
from cmtree_jax.bilevel.unrolled import check_window

_GRADIENT, _HESSIAN, _TANGENT = 3, 8, 3


class WindowCost(NamedTuple):
  """The cost of one hypergradient."""

  inner_passes: int  # forward passes over the tokens of every inner batch
  outer_gradients: int  # of the outer loss


def window(estimator: str, *, num_steps: int, **options: Any) -> WindowCost:
  """The cost of an estimator of `HYPERGRADS`, its options included.

  Raises:
    ValueError: as the estimator itself would.

  >>> window("unrolled", num_steps=16)
  WindowCost(inner_passes=11, outer_gradients=1)
  >>> window("truncated", num_steps=16, window=2).outer_gradients
  8
  """
  parameters = inspect.signature(HYPERGRADS[estimator]).parameters
  chosen = {name: one.default for name, one in parameters.items()} | options
  # The states of a segment are found by training through it once more.
  again = _GRADIENT if chosen.get("policy") == "sqrt" else 0
  if estimator == "unrolled":
    outer = num_steps if chosen["along_path"] else 1
    return WindowCost(_GRADIENT + _HESSIAN + again, outer)
  if estimator == "truncated":
    check_window(num_steps, chosen["window"])
    return WindowCost(
      _GRADIENT + _HESSIAN + again, num_steps // chosen["window"]
    )
  if estimator == "difference":
    return WindowCost(2 * _GRADIENT + again, 1)
  if estimator == "first_order":
    return WindowCost(_GRADIENT + _TANGENT + again, 1)
  if estimator == "one_step":
    # The tangent shares the forward pass of the gradient.
    return WindowCost(_GRADIENT + _TANGENT - 1, num_steps)
  # Each term but the first, each iteration: a product with the Hessian.
  products = (
    chosen["terms"] - 1 if estimator == "neumann" else chosen["iterations"]
  )
  return WindowCost(_GRADIENT + products * _HESSIAN + _TANGENT, 1)
