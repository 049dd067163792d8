"""Counts the tokens and FLOPs that everything costs, from the formulas of the work."""

from typing import NamedTuple

# Matmul FLOPs per token in units of one forward pass.
FORWARD = 1
GRADIENT = 3  # forward, and backward twice as dear
PROBE = 3  # forward, and its tangent: two products for each of its own


class Cost(NamedTuple):
  """What some work took."""

  tokens: float = 0.0
  flops: float = 0.0

  def plus(self, tokens: float, passes: int, flops_per_token: float) -> "Cost":
    """With the cost of `passes` forward passes over `tokens` more tokens."""
    return Cost(
      self.tokens + tokens, self.flops + tokens * passes * flops_per_token
    )
