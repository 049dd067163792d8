"""Forgetting: documents that a model learns and loses again, or never learns."""

import numpy as np

from cmtree_jax import checks, shapes
from cmtree_jax.methods import scoring
from cmtree_jax.methods.base import (
  Documents,
  Facts,
  Look,
  Method,
  Planted,
  Small,
)

# Share of the pool's tokens whose documents count as learned at the end. The others
# were mostly never learned, so at one half these alone would fill a half of the pool.
LEARNED = 0.75

SMALL = Small()
PLANTED = Planted(
  more=(("noise", "learnable"),),
  documents=(
    ("random", "plain"),
    ("shuffled", "plain"),
    ("rare", "plain"),
  ),
)


def make(
  *, share: float = 0.5, checkpoints: int = 6, learned: float = LEARNED
) -> Method:
  r"""Keeps the documents that are forgotten most often while a proxy trains.

  .. math:: f_i = \sum_{c=1}^{C-1} [a_{ci} \ge \ell > a_{c+1,i}], \qquad
            f_i = \infty \text{ if } \max_c a_{ci} < \ell

  a is the share of a document's tokens that are the likeliest under checkpoint c.
  The level :math:`\ell` at which a document counts as learned is one for all
  checkpoints: that which a given share of the pool's tokens reaches at the end of
  training. Before the first checkpoint nothing is learned.

  Departures: the paper asks whether an image's class is right, each time that the
  image is in a batch. A document has many tokens, and in a training of less than an
  epoch it is seen once: so all documents are measured at the checkpoints, and the
  level takes the place of "right". What is never learned comes first, as in the
  paper, and with it what cannot be learned. Equal counts are told apart by the
  documents' ids, and shares are of tokens.

  Cost:
    A proxy of `config.look.steps` steps, and `checkpoints` forward passes over the
    pool; 4 bytes a document for each of them, and 90 while they are ranked.

  Args:
    share: of the pool's tokens that is kept; more where documents may not be
      repeated so often.
    checkpoints: C, evenly spaced over the training; two or more.
    learned: share of the pool's tokens whose documents count as learned at the end.
  Returns:
    A Method that reads what shares of tokens are the likeliest; it needs no targets.
  Raises:
    ValueError: for an option that is out of its range.
  References:
    Toneva et al., `An Empirical Study of Example Forgetting
    <https://arxiv.org/abs/1812.05159>`_, 2019, definition of forgetting events;
    mansheej/data_diet at aee462e counts alike.
  """
  checks.share(share=share, learned=learned)
  checks.above_zero(share=share, learned=learned)
  checks.at_least(2, checkpoints=checkpoints)

  def init(key: shapes.Key, facts: Facts) -> scoring.Weighed:
    del key
    pool = facts.pool
    assert pool is not None
    event_N = scores(pool, learned=learned)
    found = scoring.top(event_N, pool, share=share, max_weight=facts.max_weight)
    return found.telling(never=[int(np.isinf(event_N).sum())])

  return scoring.method(
    init,
    features=frozenset({"correct_ON"}),
    look=Look(checkpoints=checkpoints),
    targeted=False,
  )


def scores(pool: Documents, *, learned: float) -> np.ndarray:
  """f of every document, from all observations in their order.

  Args:
    pool: the documents, measured.
    learned: see `make`.
  """
  assert pool.correct_ON is not None
  level = reached_by(pool.correct_ON[-1], pool.tokens_N, learned)
  # A document without one right token has learned nothing.
  level = max(level, np.finfo(np.float32).tiny)
  return events(row_N >= level for row_N in pool.correct_ON)


def events(learned_ON) -> np.ndarray:
  """How often each is learned at one time and not at the next; infinite: never.

  Args:
    learned_ON: for each time, which documents are learned.

  >>> rows = np.array([[1, 0, 0], [0, 1, 0], [1, 1, 0], [0, 1, 0]], bool)
  >>> events(rows)
  array([ 2.,  0., inf])
  """
  count_N, ever_N, before_N = 0.0, False, False
  for now_N in learned_ON:
    count_N = count_N + (before_N & ~now_N)
    ever_N, before_N = ever_N | now_N, now_N
  return np.where(ever_N, count_N, np.inf)


def reached_by(x_N: np.ndarray, tokens_N: np.ndarray, share: float) -> float:
  """The highest level that documents with a share of the tokens reach.

  >>> reached_by(np.array([0.1, 0.4, 0.2, 0.3]), np.ones(4), 0.5)
  0.3
  """
  order_N = np.argsort(-x_N, kind="stable")
  held_N = np.cumsum(tokens_N[order_N])
  # The last sum is the whole; a share of one must find it.
  place = np.searchsorted(held_N, share * held_N[-1])
  return float(x_N[order_N[place]])
