"""Weights of documents brought under the cap of another budget, and what that did."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from cmtree_jax import budget


class Recapped(NamedTuple):
  """Weights under a cap; see `recap`."""

  weight_N: np.ndarray  # float64; none above the cap, mean one
  max_weight: float  # the cap, R
  moved: float  # share of the training tokens that went to other documents
  at_cap: int  # documents; with stages those that are there in any

  def to_json(self) -> dict[str, Any]:
    """What a manifest says of it."""
    return {
      "max_weight": self.max_weight,
      "moved": self.moved,
      "documents_at_cap": self.at_cap,
    }

  def text(self) -> str:
    """What a person is told of it."""
    return text(self.moved, self.at_cap, self.max_weight)


def recap(
  weight_N: np.ndarray, tokens_N: np.ndarray, *, max_weight: float
) -> Recapped:
  """Weights with none above a cap; the excess goes to the rest in proportion.

  Args:
    weight_N: zero or more, of any scale.
    tokens_N: of the documents.
    max_weight: R, at least one.
  """
  mass_N = tokens_N / tokens_N.sum()
  capped_N = budget.capped(weight_N, mass_N, max_weight=max_weight)
  mean = mass_N @ weight_N
  before_N = weight_N / mean if mean else np.zeros_like(capped_N)
  return Recapped(
    capped_N,
    max_weight,
    moved=float(mass_N @ np.maximum(capped_N - before_N, 0)),
    at_cap=int(_is_at_cap(capped_N, max_weight).sum()),
  )


def _is_at_cap(weight_N: np.ndarray, max_weight: float) -> np.ndarray:
  return weight_N > max_weight * (1 - _ROUNDING)


def mean(stages: Sequence[Recapped], share_G: np.ndarray) -> Recapped:
  """Weights of the stages of a training as one, of the training as a whole.

  Args:
    stages: under the same cap.
    share_G: their shares of the training tokens.
  """
  weight_N = np.zeros_like(stages[0].weight_N)
  at_cap_N, moved = np.zeros(len(weight_N), bool), 0.0
  for stage, share in zip(stages, share_G.tolist(), strict=True):
    weight_N += share * stage.weight_N
    at_cap_N |= _is_at_cap(stage.weight_N, stage.max_weight)
    moved += share * stage.moved
  # Rounding alone can put a mean above what it is a mean of.
  weight_N = np.minimum(weight_N, stages[0].max_weight)
  return Recapped(weight_N, stages[0].max_weight, moved, int(at_cap_N.sum()))


def text(moved: float, at_cap: int, max_weight: float) -> str:
  """What a person is told of a cap."""
  if max_weight == 1:
    return (
      f"The cap is weight 1: all documents are drawn alike, as in the natural mixture, "
      f"and {moved:.2%} of the training tokens are not where the recipe wants them."
    )
  found = (
    f"{at_cap:,} documents are at the cap of weight {max_weight:.4g}; "
    f"{moved:.2%} of the training tokens went from such documents to the others."
  )
  if moved > _ANOTHER:
    found += " That is another recipe: learn one with this config.budget."
  return found


# A quarter of the tokens. What they go to was not chosen for this budget: where a
# recipe selects documents, all others are alike to it.
_ANOTHER = 0.25


_ROUNDING = 1e-6  # of weights that were computed in float32
