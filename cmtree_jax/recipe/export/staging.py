r"""A schedule within a budget: over all stages no document is repeated too often.

Every stage has weights under the cap of a recipe, :math:`R = n / e`, for n looks at a
document at most in a training of e epochs. With stages of shares :math:`f_g` a document
is then looked at

.. math:: \sum_g e f_g w_{gi} \le e R \sum_g f_g = n

times at most. The whole copies of a document over all stages are the floor or the
ceiling of what is expected of it, as they are without stages.
"""

import functools
import itertools

import numpy as np

from cmtree_jax.recipe import recap
from cmtree_jax.recipe.export import capping, counts
from cmtree_jax.recipe.export.base import (
  Capped,
  CappedStage,
  Corpus,
  Options,
)
from cmtree_jax.recipe.export.capping import Capping
from cmtree_jax.recipe.export.survey import Survey


def cap(corpus: Corpus, found: Survey, options: Options) -> Capping:
  """Brings every stage of a corpus within the budget of an export.

  Args:
    corpus: with stages.
    found: of the corpus; its weights are not read.
    options: the budget, and the seed of the copies.
  Returns:
    The stages, and the training as a whole, whose weights are the stages' mean.
  Raises:
    UserError: so many copies of a document cannot be written.
  """
  budget = options.budget
  given = [_of_stage(corpus, g) for g in range(len(corpus.stages))]
  weights = [
    recap.recap(one_N, found.tokens_N, max_weight=budget.max_weight)
    for one_N in given
  ]
  share_G = np.array([stage.share for stage in corpus.stages])
  expected_NG = np.stack(
    [
      capping.expected_copies(found._replace(weight_N=one_N), budget) * share
      for one_N, share in zip(given, share_G, strict=True)
    ],
    axis=1,
  )
  expected_N = expected_NG.sum(axis=1)
  capping.require_writable(expected_N)
  mean = recap.mean(weights, share_G)
  bounds = list(itertools.pairwise(found.start_P1.tolist()))
  repeats = _repeats(expected_NG, found, options.seed)
  parts = tuple(
    functools.partial(capping.reweighted, part, mean.weight_N[begin:end])
    for part, (begin, end) in zip(corpus.parts, bounds, strict=True)
  )
  stages = tuple(
    CappedStage(
      stage.begin,
      stage.end,
      capping.mixture_of(corpus, found, weights[g].weight_N),
      tuple(weights[g].weight_N[begin:end] for begin, end in bounds),
      tuple(count_NG[:, g] for count_NG in repeats),
    )
    for g, stage in enumerate(corpus.stages)
  )
  capped = Capped(
    corpus._replace(parts=parts),
    capping.mixture_of(corpus, found, mean.weight_N),
    tuple(count_NG.sum(axis=1) for count_NG in repeats),
    stages,
  )
  return Capping(capped, mean, expected_N)


def _of_stage(corpus: Corpus, number: int) -> np.ndarray:
  """The weights of all documents in a stage."""
  return np.concatenate([part() for part in corpus.stages[number].weights])


def _repeats(
  expected_NG: np.ndarray, found: Survey, seed: int
) -> list[np.ndarray]:
  """By part of the corpus: copies of its documents in every stage."""
  random = np.random.Generator(np.random.Philox(key=seed))
  uniform_N = random.random(len(expected_NG))
  place, repeats = counts.offset(seed), []
  for begin, end in itertools.pairwise(found.start_P1.tolist()):
    count_NG, place = counts.repeat_by_stage(
      expected_NG[begin:end], place, uniform_N[begin:end]
    )
    repeats.append(count_NG)
  return repeats
