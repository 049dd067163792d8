"""DSIR: documents by how much likelier their words are in the target than in the pool."""

from collections.abc import Iterator

import jax
import numpy as np

from cmtree_jax import checks, shapes
from cmtree_jax.data.draw import packing
from cmtree_jax.embed.grams import Grams
from cmtree_jax.methods import scoring
from cmtree_jax.methods.base import (
  TARGET_DOCUMENTS,
  TARGET_FIRST,
  Documents,
  Facts,
  Method,
  Planted,
  Small,
)
from cmtree_jax.types import UserError

KINDS = ("hard", "gumbel", "soft")

SMALL = Small()
PLANTED = Planted(
  options={"shortest": 1},
  more=(*TARGET_FIRST, ("text", "noise")),
  documents=TARGET_DOCUMENTS,
)


def make(
  *,
  kind: str = "hard",
  share: float = 0.1,
  normalized: bool = True,
  buckets: int = 10_000,
  smoothing: float = 1e-8,
  shortest: int = 79,
) -> Method:
  r"""Importance weights of documents under bags of hashed runs of words.

  .. math:: s_{ti} = \frac{1}{n_i} \sum_b c_{ib}
            \big(\log(p_{tb} + \epsilon) - \log(r_b + \epsilon)\big)

  with the counts c of one and two words in a row, n their number in a document, and
  the distributions p of them in the target and r in the pool.

  Departures: every target has a model of its own, and keeps its share; runs of words
  are hashed by MurmurHash, not SHA-256, so other ones collide. The paper and its code
  do not divide by n, `normalized=False`, and draw, `kind="gumbel"`: long documents
  then decide alone.

  Cost:
    Two passes over the counts of words, no training and no FLOPs of a model.

  Args:
    kind: "hard" keeps each target's best documents, "gumbel" draws them without
      replacement in proportion to e^s, "soft" weighs all documents by e^s.
    share: of the pool's tokens that each target keeps, "hard" and "gumbel"; more
      where documents may not be repeated so often.
    normalized: whether n divides.
    buckets: b, that runs of words fall into.
    smoothing: :math:`\epsilon`.
    shortest: runs of words in the shortest document that is chosen from; 40 words,
      as in the paper, have 79 of one and two.
  Returns:
    A Method that reads the counts of words of all documents.
  Raises:
    ValueError: for an option that is out of its range.
    UserError: there are more buckets than counts were made of.
  References:
    Xie et al., `Data Selection for Language Models via Importance Resampling
    <https://arxiv.org/abs/2302.03169>`_, 2023, section 4; PyPI data-selection 1.0.3.
  """
  checks.one_of("kind", kind, KINDS)
  checks.share(share=share)
  checks.above_zero(share=share, smoothing=smoothing)
  checks.at_least(1, buckets=buckets, shortest=shortest)

  def init(key: shapes.Key, facts: Facts) -> scoring.Weighed:
    pool = facts.pool
    assert pool is not None
    score_TN = scores(
      pool,
      facts.train,
      buckets=buckets,
      smoothing=smoothing,
      shortest=shortest,
      normalized=normalized,
    )
    if kind == "soft":
      return scoring.proportional(
        score_TN,
        pool,
        num_targets=len(facts.train),
        max_weight=facts.max_weight,
      )
    if kind == "gumbel":
      score_TN = (
        score_N + scoring.gumbel(pool.key_N, jax.random.fold_in(key, t))
        for t, score_N in enumerate(score_TN)
      )
    return scoring.best(
      score_TN, pool, share=share, max_weight=facts.max_weight
    )

  return scoring.method(init, features=frozenset({"grams"}))


def scores(
  pool: Documents,
  targets: tuple[Documents, ...],
  *,
  buckets: int,
  smoothing: float,
  shortest: int,
  normalized: bool,
) -> Iterator[np.ndarray]:
  """For each target s of all documents; minus infinity for those too short."""
  assert pool.grams is not None
  if buckets > pool.grams.buckets:
    raise UserError(
      f"dsir.buckets = {buckets:,} wants no more than config.grams.buckets = "
      f"{pool.grams.buckets:,}, of which counts are made; raise that."
    )
  number_N = np.concatenate(
    [
      np.asarray(pool.grams.rows(rows).sum(axis=1)).ravel()
      for rows in packing.chunks(len(pool.key_N), scoring.CHUNK)
    ]
  )
  long_N = number_N >= shortest
  if not long_N.any():  # then length tells nothing
    long_N[:] = True
  log_r_b = np.log(_shares(pool.grams, buckets) + smoothing)
  # A bucket of the signal falls into one of the fewer ones of the method.
  place = np.arange(pool.grams.buckets) % buckets
  for target in targets:
    assert target.grams is not None
    log_p_b = np.log(_shares(target.grams, buckets) + smoothing)
    ratio_b = (log_p_b - log_r_b)[place]
    score_N = np.concatenate(
      [
        pool.grams.rows(rows) @ ratio_b
        for rows in packing.chunks(len(number_N), scoring.CHUNK)
      ]
    )
    if normalized:
      score_N /= np.maximum(number_N, 1)
    yield np.where(long_N, score_N, -np.inf)


def _shares(grams: Grams, buckets: int) -> np.ndarray:
  """How often each bucket occurs among all runs of words; sums to one."""
  total_b = np.zeros(buckets)
  for part in packing.chunks(int(grams.start_N1[-1]), _ENTRIES):
    place = grams.bucket[part] % buckets
    total_b += np.bincount(place, grams.count[part], minlength=buckets)
  return total_b / max(total_b.sum(), 1.0)


_ENTRIES = 2**22  # counts that are added at a time; bounds memory
