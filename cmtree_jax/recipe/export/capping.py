"""A corpus within a budget: no format repeats a document more often than it allows.

Weights are capped at :math:`R = n / e`, for n looks at a document at most in a training
of e epochs of the corpus. Leaves that mixtures draw from have the mean weight of their
documents, which is then no higher. Resampled text has whole copies, so its cap is the
whole part of n. A training that repeats even the natural mixture more often than n
gets the natural mixture.
"""

import functools
import itertools
import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from cmtree_jax.budget import Budget
from cmtree_jax.recipe import recap
from cmtree_jax.recipe.export import counts
from cmtree_jax.recipe.export.base import Capped, Corpus, Options, Shard
from cmtree_jax.recipe.export.survey import Survey
from cmtree_jax.types import UserError


class Capping(NamedTuple):
  """A capped corpus, and what the cap did."""

  capped: Capped
  weights: recap.Recapped
  expected_N: np.ndarray  # float64, copies in resampled text before rounding


def cap(corpus: Corpus, found: Survey, options: Options) -> Capping:
  """Brings a corpus within the budget of an export.

  Args:
    corpus: with the recipe's weights.
    found: of the corpus.
    options: the budget, and the seed of the copies.
  Raises:
    UserError: so many copies of a document cannot be written.
  """
  budget = options.budget
  weights = recap.recap(
    found.weight_N, found.tokens_N, max_weight=budget.max_weight
  )
  expected_N = expected_copies(found, budget)
  require_writable(expected_N)
  parts, repeats = [], []
  place = counts.offset(options.seed)
  bounds = itertools.pairwise(found.start_P1.tolist())
  for part, (begin, end) in zip(corpus.parts, bounds, strict=True):
    count_N, place = counts.repeat(expected_N[begin:end], place)
    repeats.append(count_N)
    parts.append(
      functools.partial(reweighted, part, weights.weight_N[begin:end])
    )
  capped = Capped(
    corpus._replace(parts=tuple(parts)),
    mixture_of(corpus, found, weights.weight_N),
    tuple(repeats),
  )
  return Capping(capped, weights, expected_N)


def mixture_of(
  corpus: Corpus, found: Survey, weight_N: np.ndarray
) -> dict[str, float]:
  """Leaf name -> share of the tokens that weights draw."""
  share_L = found.of_leaves(found.tokens_N * weight_N)
  share_L = share_L / share_L.sum()
  return dict(zip(corpus.leaf_names, share_L.tolist(), strict=True))


def require_writable(expected_N: np.ndarray) -> None:
  """Refuses more copies of a document than `counts` can tell.

  Raises:
    UserError: says how many came.
  """
  if (most := expected_N.max()) >= 2**21:
    raise UserError(
      f"Wanted less than two million repeats of a document, came {most:,.0f}. "
      "Lower config.budget.max_epochs or config.export.tokens."
    )


def whole_looks(budget: Budget) -> int:
  """Copies of one document in resampled text, at most."""
  if budget.epochs > budget.max_epochs:  # natural
    return math.ceil(budget.epochs)
  return max(1, math.floor(budget.max_epochs))


def expected_copies(found: Survey, budget: Budget) -> np.ndarray:
  """Mean copies of the documents; rounded up, none is above `whole_looks`."""
  # A budget below one look has weights that are lower than whole looks allow.
  limit = min(whole_looks(budget), max(budget.max_epochs, budget.epochs))
  weights = recap.recap(
    found.weight_N,
    found.tokens_N,
    max_weight=max(1.0, limit / budget.epochs),
  )
  return np.minimum(weights.weight_N * budget.epochs, limit)


def reweighted(part: Callable[[], Shard], weight_N: np.ndarray) -> Shard:
  """A shard with other weights."""
  return part()._replace(weight_N=weight_N)
