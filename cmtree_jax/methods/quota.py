"""Quota: the best documents of each part by any score, as many as a mixture wants."""

from typing import Any

import numpy as np

from cmtree_jax import budget, checks, shapes
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
from cmtree_jax.methods.reasons import because
from cmtree_jax.types import UserError

MIXTURES = ("natural", "crisp", "recipe:WORKDIR")


SMALL = Small()
PLANTED = Planted(
  dict(share=0.3), more=TARGET_FIRST, documents=TARGET_DOCUMENTS
)


def make(
  *,
  scorer: Any = "classifier",
  mixture: str = "crisp",
  share: float = 0.1,
) -> Method:
  r"""Lets a mixture say how much of each domain, and a score which of it.

  .. math:: w_i = p_k / m_k \text{ for the best documents of domain } k, \qquad
            m_k \ge \min(q_k, \max(s\, p_k,\; p_k / R))

  A document's score is that by which the scorer itself would keep it, compared within
  its domain alone; equal ones are taken by their ids. m_k is the part of the pool's
  tokens that is kept of domain k, the shortest prefix that reaches its bound, so the
  domain's share of the training is p_k exactly, whatever the documents' lengths are.
  Where all domains have enough, a share s of the pool is kept. A domain that has not
  keeps all it has, and repeats it more often, R times at most; what that leaves of its
  quota goes to the others in proportion. The history says of each domain how many
  tokens it lacks.

  Departures: WebOrganizer's quota is the mixture that RegMix finds on its own domains,
  here it is any. In HERMES the quality of documents within cells told something where
  a cell held 2,271 of them in the median, and nothing where it held 429: with few
  documents to a domain this is no better than the mixture alone.

  Args:
    scorer: name of a method that scores documents; its options are those of its own
      block. Its features, models and looks are this method's. One that ranks only what
      it would take itself (rds_plus, facility_location, svp by centers) leaves the
      others in the order of their ids.
    mixture: p. "natural": as much of each domain as there is. "crisp": the shares of
      the targets' texts in the domains, as in `crisp`. "recipe:WORKDIR": what an
      earlier recipe weighs them with, on its leaves (partition.kind=tree:WORKDIR) or
      on labelled sources, where one that is new weighs 1.
    share: s, of the pool's tokens.
  Returns:
    A Method that reads what the scorer reads.
  Cost:
    That of the scorer, and some sixty bytes for each document.
  Raises:
    ValueError: for a share that is not in (0, 1], an unknown mixture, or a scorer that
      does not score documents.
  References:
    Wettig et al., `WebOrganizer <https://arxiv.org/abs/2502.10341>`_, 2025, section
    5; Qiao et al., `HERMES <https://arxiv.org/abs/2607.02266>`_, 2026, section 5.
  """
  kind, _, workdir = mixture.partition(":")
  if mixture not in MIXTURES[:2] and not (kind == "recipe" and workdir):
    checks.one_of("mixture", mixture, MIXTURES)
  checks.share(share=share)
  checks.above_zero(share=share)
  inner = scoring.named(
    "scorer",
    scorer,
    lambda method: method.scores,
    "scores single documents (`weighs documents` in docs/methods.md)",
    but=make,
  )

  def init(key: shapes.Key, facts: Facts) -> scoring.Weighed:
    assert facts.pool is not None
    score_N = inner.init(key, facts).score_N
    return weigh(
      score_N,
      facts.pool,
      _mixture(kind, facts),
      share=share,
      max_weight=facts.max_weight,
    )

  return scoring.method(
    init,
    features=inner.features,
    look=inner.look,
    curate=inner.curate,
    targeted=inner.targeted or kind == "crisp",
  )._replace(extends=workdir, entries=inner.entries, labels=inner.labels)


def weigh(
  score_N: np.ndarray,
  pool: Documents,
  mixture_K: np.ndarray,
  *,
  share: float,
  max_weight: float,
) -> scoring.Weighed:
  """The best documents of each domain, with the domains' shares as the mixture wants.

  Args:
    score_N: the highest of a domain is the first to be kept.
    pool: the documents, with their domains.
    mixture_K: p, of any scale.
    share: s, of the pool's tokens.
    max_weight: R.
  """
  assert pool.domain_N is not None
  domain_N, size = np.asarray(pool.domain_N), len(mixture_K)
  q_N = pool.tokens_N / pool.tokens_N.sum()
  q_K = np.bincount(domain_N, q_N, minlength=size)
  w_K = budget.capped(
    mixture_K / np.maximum(q_K, 1e-300), q_K, max_weight=max_weight
  )
  p_K = q_K * w_K
  # The shortest prefix of each domain; no document may weigh more than R.
  wanted_K = p_K * max(share, 1 / max_weight)
  order_N = np.lexsort((pool.key_N, -np.asarray(score_N), domain_N))
  count_K = np.bincount(domain_N, minlength=size)
  first_K = np.cumsum(count_K) - count_K
  before_N, place_N = np.empty(len(q_N)), np.empty(len(q_N), np.int64)
  held_N = np.concatenate([[0.0], np.cumsum(q_N[order_N])])
  before_N[order_N] = held_N[:-1] - np.repeat(held_N[first_K], count_K)
  place_N[order_N] = 1 + np.arange(len(q_N)) - np.repeat(first_K, count_K)
  # Sums of masses differ by so much with their order.
  kept_N = before_N < wanted_K[domain_N] * (1 - 1e-9)
  m_K = np.bincount(domain_N, q_N * kept_N, minlength=size)
  left_K = np.minimum(scoring.LEAST, w_K)  # weight of what is not kept
  kept_w_K = (p_K - left_K * (q_K - m_K)) / np.maximum(m_K, 1e-300)
  w_N = np.where(kept_N, kept_w_K[domain_N], left_K[domain_N])
  total = pool.tokens_N.sum()
  tokens_K = np.rint(m_K * total).astype(np.int64)
  found = scoring.weighed(w_N, score_N, tokens_K.tolist())
  kept_K = np.bincount(domain_N[kept_N], minlength=size)
  lacks_K = np.maximum(share * p_K - q_K, 0) * total
  why = because(
    "place {place} of the {documents} documents of domain {domain}, whose quota keeps "
    "{kept}",
    place=place_N,
    documents=count_K[domain_N],
    domain=domain_N,
    kept=kept_K[domain_N],
  )
  return found.saying(why).telling(
    domain=range(size),
    quota=p_K.tolist(),
    documents=count_K.tolist(),
    kept=kept_K.tolist(),
    lacks_tokens=np.rint(lacks_K).astype(np.int64).tolist(),
  )


def _mixture(kind: str, facts: Facts) -> np.ndarray:
  """p, of any scale."""
  q_K = np.asarray(facts.domain_mass_K, np.float64)
  if kind == "natural":
    return q_K
  if kind == "crisp":
    if not facts.num_targets:
      raise UserError(
        "config.quota.mixture = crisp wants the targets' shares in the domains, came "
        "no target: set config.data.targets, or config.quota.mixture = natural."
      )
    target_K = np.mean(np.asarray(facts.target_domain_TK, np.float64), axis=0)
    # As in `crisp`: a domain without target documents keeps a little weight.
    return (1 - 1e-3) * target_K + 1e-3 * q_K
  log_w_K = np.asarray(facts.earlier_log_w_K, np.float64)
  return q_K * np.exp(np.nan_to_num(log_w_K, nan=0.0))
