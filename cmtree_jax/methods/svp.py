"""SVP: documents that a small proxy is unsure of, for the training of a large model."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from cmtree_jax import checks, shapes
from cmtree_jax.methods import forgetting, scoring
from cmtree_jax.methods.base import (
  Documents,
  Facts,
  Look,
  Method,
  Planted,
  Small,
)
from cmtree_jax.selection import greedy

# Score -> the measurement that it is read from.
SCORES = {
  "least_confidence": "confidence_ON",
  "entropy": "entropy_ON",
  "k_center": "hidden_ONH",
  "forgetting": "correct_ON",
}
FORMS = ("core_set", "active")
# Of what the first k-center chooses, the part that it starts from: 1,000 of 10,000
# images in the authors' code.
_START = 0.1

SMALL = Small()
PLANTED = Planted(
  more=(("noise", "learnable"),),
  documents=(("random", "plain"), ("rare", "plain"), ("plain", "exact")),
)


def make(
  *,
  score: str = "least_confidence",
  form: str = "core_set",
  share: float = 0.5,
  rounds: int = 3,
  checkpoints: int = 6,
) -> Method:
  r"""Selection via proxy: a cheap model says what an expensive one is to learn.

  .. math:: s_i = -\operatorname{mean}_\tau \max_v p(v \mid x_{<\tau}), \qquad
            s_i = \operatorname{mean}_\tau H(p(\cdot \mid x_{<\tau})), \qquad
            s_i = f_i

  are least confidence, entropy, and the forgetting events of `forgetting`; the
  highest come first. "k_center" always takes the document whose mean hidden state is
  the farthest from all that were taken. "core_set" trains one proxy on the whole pool
  and chooses once. "active" is the loop of active learning: round after round a proxy
  is trained from scratch on what was chosen so far, and the first of the rest are
  added:

  .. math:: L_r = L_{r-1} \cup \operatorname{first}_{b/R}(
            s^{(r)} \text{ outside } L_{r-1})

  Departures: a class is the next token, and a document has the mean over its tokens.
  The first round of "active" trains on the whole pool in place of a random labelled
  part, and nothing is kept for having been in it. Shares are of tokens. In the
  authors' code an entropy that underflows is NaN and ranks first; here such terms are
  zero. "k_center" starts from a tenth of what it keeps, by ids, where they have 1,000
  images at random. A round of "active" is the beginning of a training of all steps: its
  learning rate has not come down. Forgetting events are counted at checkpoints, not in
  every batch.

  Cost:
    "core_set": a proxy of `config.look.steps` steps and a forward pass over the pool,
    or `checkpoints` of them, "forgetting". "active": `rounds` proxies that share the
    steps, and as many passes. 4 bytes a document for each pass,
    and 90 while they are ranked. "k_center" holds the hidden states on the device, and
    passes over them for each document that it takes: 3 seconds for a half of 20,000
    documents on two cores, 5 hours for a half of a million.

  Args:
    score: "least_confidence", "entropy", "k_center" or "forgetting".
    form: "core_set" or "active", which has no training that is long enough to forget.
    share: b, of the pool's tokens that is kept; more where documents may not be
      repeated so often.
    rounds: R, of "active".
    checkpoints: of the training that forgetting events are counted in.
  Returns:
    A Method that reads what its score is made of; it needs no targets.
  Raises:
    ValueError: for an option that is out of its range.
  References:
    Coleman et al., `Selection via Proxy <https://arxiv.org/abs/1906.11829>`_, 2020,
    section 3; stanford-futuredata/selection-via-proxy at 348f90a.
  """
  checks.one_of("score", score, tuple(SCORES))
  checks.one_of("form", form, FORMS)
  checks.share(share=share)
  checks.above_zero(share=share)
  checks.at_least(1, rounds=rounds)
  checks.at_least(2, checkpoints=checkpoints)
  if form == "active" and score == "forgetting":
    raise ValueError(
      'Events of score = "forgetting" are counted in one training: form must be '
      '"core_set".'
    )
  look = Look(checkpoints=checkpoints if score == "forgetting" else 1)
  if form == "active":
    look = Look(checkpoints=rounds, afresh=True)
  last = rounds if form == "active" else 1

  def choose(facts: Facts, stop: int, least: float = 0.0) -> "Rounds":
    """What some rounds choose, and the rank of tokens of a least share."""
    pool = facts.pool
    assert pool is not None

    def score_of(number: int, taken_N: np.ndarray) -> np.ndarray:
      reach = share * (number + 1) / last
      # Only what is added at the end: rounds before have been trained on.
      reach = max(reach, least if number == last - 1 else 0.0)
      return scores(pool, score, number, taken_N=taken_N, reach=reach)

    return in_rounds(score_of, pool, rounds=stop, part=share / last)

  def init(key: shapes.Key, facts: Facts) -> scoring.Weighed:
    del key
    assert facts.pool is not None
    place_N = choose(facts, last, 1 / facts.max_weight).place_N
    return scoring.top(
      -place_N, facts.pool, share=share, max_weight=facts.max_weight
    )

  def curate(facts: Facts, observation: int) -> np.ndarray:
    assert facts.pool is not None
    taken_N = choose(facts, observation + 1).taken_N
    return scoring.chosen(taken_N, facts.pool, max_weight=np.inf).log_w_N

  return scoring.method(
    init,
    features=frozenset({SCORES[score]}),
    look=look,
    curate=curate if form == "active" else None,
    targeted=False,
  )


def scores(
  pool: Documents,
  score: str,
  number: int,
  *,
  taken_N: np.ndarray,
  reach: float,
) -> np.ndarray:
  """s of every document.

  Args:
    pool: the documents, measured.
    score: a name in `SCORES`.
    number: of the observation; forgetting events are those of all of them.
    taken_N: bool, which documents are chosen already.
    reach: share of the pool's tokens that "k_center" ranks.
  """
  x_ON = getattr(pool, SCORES[score])
  assert x_ON is not None
  if score == "forgetting":
    return forgetting.scores(pool, learned=forgetting.LEARNED)
  if score == "k_center":
    return _far_first(pool, x_ON[number], taken_N, reach)
  return -x_ON[number] if score == "least_confidence" else x_ON[number]


def _far_first(
  pool: Documents, x_NH: np.ndarray, taken_N: np.ndarray, reach: float
) -> np.ndarray:
  """Minus the place of each in the order of k-center; the rest share the last."""
  start_N = taken_N
  if not start_N.any():  # as good as random: the first by their ids
    start_N = scoring.first(np.zeros(len(x_NH)), pool, share=_START * reach)
  by_key = np.argsort(
    pool.key_N, kind="stable"
  )  # of equal ones the first is taken
  tokens_N = pool.tokens_N[by_key]
  start = np.flatnonzero(start_N[by_key])
  added = greedy.k_center(
    x_NH[by_key],
    start,
    cost_N=tokens_N,
    budget=float(reach * tokens_N.sum() - tokens_N[start].sum()),
  )
  order = by_key[np.concatenate([start, added])]
  score_N = np.full(len(x_NH), -len(order), float)
  score_N[order] = -np.arange(len(order))
  return score_N


class Rounds(NamedTuple):
  """What rounds of choosing come to."""

  taken_N: np.ndarray  # bool, which documents were chosen
  place_N: (
    np.ndarray
  )  # int, of each in the order of choice; the rest comes last


def in_rounds(
  score_of: Callable[[int, np.ndarray], np.ndarray],
  pool: Documents,
  *,
  rounds: int,
  part: float,
) -> Rounds:
  """Round after round the best of those that are not yet chosen.

  Args:
    score_of: (number of the round, which documents are chosen) -> scores of all.
    pool: the documents.
    rounds: how many.
    part: of the pool's tokens that is added in each round.
  """
  taken_N = np.zeros(len(pool.key_N), bool)
  round_N = np.zeros(len(taken_N), int)  # in which each is chosen
  own_N = np.zeros(len(taken_N))  # its score then
  for number in range(rounds):
    score_N = score_of(number, taken_N)
    own_N = np.where(taken_N, own_N, score_N)
    ahead_N = np.where(taken_N, np.inf, score_N)
    # A long document could take the place of what was chosen before.
    taken_N = taken_N | scoring.first(ahead_N, pool, share=(number + 1) * part)
    round_N += ~taken_N
  order_N = np.lexsort((pool.key_N, -own_N, round_N))
  place_N = np.empty(len(order_N), int)
  place_N[order_N] = np.arange(len(order_N))
  return Rounds(taken_N, place_N)
