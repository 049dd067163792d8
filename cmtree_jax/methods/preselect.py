"""PreSelect: documents whose losses put models into the order of the target's loss."""

import itertools

import numpy as np

from cmtree_jax import checks, shapes
from cmtree_jax.embed import log_odds
from cmtree_jax.methods import classifier, scoring
from cmtree_jax.methods.base import (
  MODELS,
  TARGET_DOCUMENTS,
  TARGET_FIRST,
  Documents,
  Facts,
  Look,
  Method,
  Planted,
  Small,
)
from cmtree_jax.types import UserError

SMALL = Small()
PLANTED = Planted(
  options={"extended": False}, more=TARGET_FIRST, documents=TARGET_DOCUMENTS
)


def make(
  *,
  share: float = 0.1,
  models: tuple[str, ...] = ("proxy", "target"),
  checkpoints: int = 3,
  extended: bool = True,
  documents: int = 8192,
) -> Method:
  r"""The predictive strength of documents, and a classifier of words that learns it.

  .. math:: s_i = \frac1Z \sum_{a, b:\, L_a < L_b} [\ell_a(x_i) < \ell_b(x_i)]

  with the losses :math:`\ell` of a document and L of the target's texts under models
  a and b, and the number Z of pairs. Where s is one, the document alone would tell
  which model is better at the target.

  A few pairs make many ties, and the loss of one document is noisy. So the paper fits
  a classifier on words to documents of the highest s against as many of the lowest
  (`extended`), and ranks by that. It is fitted twice, each time without one half of
  the pool, and scores the half that it was not fitted on.

  Departures: the models are not six released ones of 7 to 65 billion parameters, but
  the proxy and one that goes on with the target's texts, at three points of their
  training each. Models that differ in size or steps alone are in one order on nearly
  all that can be learned. The order is that of the loss on the target, not of
  accuracies, and every target has its own. The strongest agreement that there is makes
  the positives, where the paper asks for a full one. The classifier is the logistic
  regression of `methods/classifier.py`, not fastText.

  Cost:
    Models of `config.look.steps` steps, and `checkpoints` forward passes of each over
    pool and targets; 4 bytes a document for each pass, and 90 while they are ranked.

  Args:
    share: of the pool's tokens that each target keeps; more where documents may not
      be repeated so often.
    models: two or more of "proxy", "teacher", which is larger, and "target".
    checkpoints: of the training of each.
    extended: whether a classifier on words ranks the documents, or s itself.
    documents: most of each class that are fitted on.
  Returns:
    A Method that reads losses under several models.
  Raises:
    ValueError: for an option that is out of its range.
  References:
    Shum et al., `Predictive Data Selection <https://arxiv.org/abs/2503.00808>`_,
    2025, section 2; hkust-nlp/PreSelect at 258c632.
  """
  checks.share(share=share)
  checks.above_zero(share=share)
  checks.at_least(1, checkpoints=checkpoints)
  checks.at_least(2, documents=documents)
  for name in models:
    checks.one_of("models", name, MODELS)
  if len({*models}) < len(models):
    raise ValueError(f"models = {models} names one twice; give each once.")
  if len(models) * checkpoints < 2:
    raise ValueError(
      f"models = {models} at checkpoints = {checkpoints} must be two or more."
    )

  def init(key: shapes.Key, facts: Facts) -> scoring.Weighed:
    del key
    pool = facts.pool
    assert pool is not None
    strength_TN = [strength(pool, target) for target in facts.train]
    score_TN = strength_TN
    told = {"strength": [s_N.mean() for s_N in strength_TN]}
    if extended:
      fits = [fit(pool, s_N, documents=documents) for s_N in strength_TN]
      score_TN = (one.score(pool, classifier.word_rows) for one in fits)
      told["held_out_loss"] = [one.loss for one in fits]
    found = scoring.best(
      score_TN, pool, share=share, max_weight=facts.max_weight
    )
    return found.telling(**told)

  grams = {"grams"} if extended else set()
  return scoring.method(
    init,
    features=frozenset({"loss_ON"} | grams),
    look=Look(models=models, checkpoints=checkpoints),
  )


def strength(pool: Documents, target: Documents) -> np.ndarray:
  """s of every document for one target, from 0 to 1."""
  assert pool.loss_ON is not None and target.loss_ON is not None
  goal_O = np.asarray(target.loss_ON, np.float64) @ (
    target.tokens_N / target.tokens_N.sum()
  )
  return agreement(pool.loss_ON, goal_O)


def agreement(loss_ON: np.ndarray, goal_O: np.ndarray) -> np.ndarray:
  """The share of the pairs of models that a document orders as the goal does.

  Pairs that are equal at the goal do not count; equal losses are no agreement.

  Args:
    loss_ON: of each document under each model.
    goal_O: of the target.

  >>> agreement(np.array([[1.0, 3.0], [2.0, 2.0], [3.0, 1.0]]), np.array([5, 6, 7]))
  array([1., 0.])
  """
  pairs = [
    (a, b)
    for a, b in itertools.permutations(range(len(goal_O)), 2)
    if goal_O[a] < goal_O[b]
  ]
  if not pairs:
    raise UserError(
      f"All {len(goal_O)} models have the same loss on the target, so none is "
      "better; raise preselect.checkpoints or look.steps."
    )
  count_N = np.zeros(loss_ON.shape[1])
  for a, b in pairs:
    count_N += loss_ON[a] < loss_ON[b]
  return count_N / len(pairs)


def fit(
  pool: Documents, strength_N: np.ndarray, *, documents: int
) -> classifier.Fit:
  """The best fits on words; what is held out of each chooses its regularity.

  Args:
    pool: the documents, with counts of words.
    strength_N: s.
    documents: most of each class that are fitted on.
  """
  middle = classifier.middle_of(pool.key_N)
  ends = [
    tuple(
      classifier.word_rows(pool, number)
      for number in extremes(strength_N, pool.key_N, half_N, documents // 2)
    )
    for half_N in (pool.key_N <= middle, pool.key_N > middle)
  ]
  found = []
  for regularity in classifier.STRENGTHS:
    models, losses = [], []
    for own, (high, low) in zip(ends, reversed(ends), strict=True):
      models.append(log_odds.logistic(high, low, regularity))
      for x, sign in zip(own, (-1, 1), strict=True):
        f = models[-1].decision_function(x)
        losses.append(np.logaddexp(0, sign * f).mean())
    made = classifier.Fit(tuple(models), middle, regularity, np.mean(losses))
    found.append(made)
  return min(found, key=lambda one: one.loss)


def extremes(
  strength_N: np.ndarray, key_N: np.ndarray, among_N: np.ndarray, most: int
) -> tuple[np.ndarray, np.ndarray]:
  """Numbers of documents of the highest strength, and of as many of the lowest.

  Args:
    strength_N: s.
    key_N: tell documents of equal strength apart.
    among_N: whether a document may be taken.
    most: of each.
  """
  number = np.flatnonzero(among_N)
  s = strength_N[number]
  number = number[np.lexsort((key_N[number], s))]
  highest = number[strength_N[number] == s.max(initial=0)]
  count = min(len(highest), len(number) - len(highest), most)
  if not count:
    raise UserError(
      f"All {len(number)} documents order the models alike, so that no classifier "
      "can be fitted; raise preselect.checkpoints or set preselect.extended = False."
    )
  return np.sort(highest[:count]), np.sort(number[:count])
