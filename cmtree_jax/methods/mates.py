"""MATES: documents whose influence a head predicts from what one step does."""

import jax
import numpy as np

from cmtree_jax import checks, shapes
from cmtree_jax.methods import scoring
from cmtree_jax.methods.base import (
  TARGET_DOCUMENTS,
  Documents,
  Facts,
  Look,
  Method,
  Planted,
  Small,
)
from cmtree_jax.selection import regression

SMALL = Small(options={"documents": 1024})
PLANTED = Planted(
  options={"documents": 1000, "temperature": 0.1}, documents=TARGET_DOCUMENTS
)


def make(
  *,
  share: float = 0.2,
  documents: int = 80_000,
  stages: int = 1,
  temperature: float = 0.5,
) -> Method:
  r"""Keeps documents that are predicted to lower the targets' loss the most.

  .. math:: y_i = L(\phi) - L\big(\mathrm{AdamW}(\phi, \nabla \ell_i)\big), \qquad
            s_i = f(x_i) / \tau + G_i

  The influence y of some documents is measured by one step of training on each, from
  the state of the proxy's training; a head f on the embedding is fitted to its
  z-scores and predicts that of all others. The Gumbel noise G makes the first of the
  ranking a sample without replacement in proportion to :math:`e^{f / \tau}`. With
  several stages the proxy goes on with the documents that were kept, and is asked
  again; documents are then ranked by the mean of the stages' predictions.

  Departures: the authors' code keeps the lowest of (predicted loss / tau + G), which
  is no such sample; here noise has the right sign. f is a ridge regression on the
  embedding, not BERT. There is one mean over the targets, in bits per byte. A recipe
  does not change in the training that it is for, so the stages share one. Shares are
  of tokens.

  Cost:
    A proxy of `config.look.steps` steps; at each stage a gradient and a forward pass
    over `config.look.goal_rows` rows of the targets for each of `documents`; one
    solution of E x E equations. 4 bytes a document for each stage.

  Args:
    share: of the pool's tokens that is kept; more where documents may not be
      repeated so often.
    documents: whose influence is measured at each stage.
    stages: of the training.
    temperature: :math:`\tau`.
  Returns:
    A Method that reads the influence of some documents, and all embeddings.
  Raises:
    ValueError: for an option that is out of its range.
  References:
    Yu et al., `MATES <https://arxiv.org/abs/2406.06046>`_, 2024, section 3;
    cxcscmu/MATES at 5d2860c.
  """
  checks.share(share=share)
  checks.above_zero(share=share, temperature=temperature)
  checks.at_least(regression.LEAST, documents=documents)
  checks.at_least(1, stages=stages)

  def ranked(
    pool: Documents, observations: range, key: shapes.Key
  ) -> tuple[np.ndarray, list[regression.Ridge]]:
    heads = [head(pool, number) for number in observations]
    f_N = np.mean([one.score(pool.embedding_NE) for one in heads], axis=0)
    return f_N / temperature + scoring.gumbel(pool.key_N, key), heads

  def init(key: shapes.Key, facts: Facts) -> scoring.Weighed:
    pool = facts.pool
    assert pool is not None
    score_N, heads = ranked(pool, range(stages), key)
    found = scoring.top(score_N, pool, share=share, max_weight=facts.max_weight)
    return found.telling(spearman=[heads[-1].spearman])

  def curate(facts: Facts, observation: int) -> np.ndarray:
    pool = facts.pool
    assert pool is not None
    key = jax.random.fold_in(jax.random.key(facts.seed), 1 + observation)
    score_N, _ = ranked(pool, range(observation, observation + 1), key)
    return scoring.top(
      score_N, pool, share=share, max_weight=facts.max_weight
    ).log_w_N

  return scoring.method(
    init,
    features=frozenset({"influence_ON"}),
    look=Look(checkpoints=stages, asked=documents),
    curate=curate if stages > 1 else None,
  )


def head(pool: Documents, number: int) -> regression.Ridge:
  """f of one stage, fitted to the z-scores of what was measured."""
  assert pool.influence_ON is not None
  y_N = np.asarray(pool.influence_ON[number], np.float64)
  asked = np.flatnonzero(~np.isnan(y_N))
  return regression.fit(
    np.asarray(pool.embedding_NE[asked]),
    regression.standardized(y_N[asked]),
    pool.key_N[asked],
    source="config.mates.documents",
  )
