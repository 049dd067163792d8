"""Uniform over clusters: the same number of tokens from each domain."""

from cmtree_jax.methods import temperature
from cmtree_jax.methods.base import (
  Method,
  Planted,
  Small,
)

SMALL = Small()
PLANTED = Planted()


def make() -> Method:
  r"""Each of K domains gets 1/K of the tokens, up to the repetition cap.

  .. math:: w_k = \min(R,\, c / q_k), \qquad \sum_k q_k w_k = 1

  Returns:
    A Method that needs the domains' masses alone.
  References:
    Stratified sampling; the baseline of Chen et al., `Aioli
    <https://arxiv.org/abs/2411.05735>`_, 2024.
  """
  return temperature.make(temperature=float("inf"))
