"""CiT: the model in training chooses its own text, by what it makes of the targets'."""

import numpy as np

from cmtree_jax import checks, shapes
from cmtree_jax.data.draw import packing
from cmtree_jax.methods import scoring
from cmtree_jax.methods.base import (
  Documents,
  Facts,
  Look,
  Method,
  Planted,
  Small,
)
from cmtree_jax.selection import neighbors

_RIDGE = 1e-3  # of the mean variance, added to all

SMALL = Small()
PLANTED = Planted(
  more=(("target", "natural"),),
  documents=(("target", "natural"), ("target", "plain")),
)


def make(
  *,
  threshold: float = 0.55,
  least: float = 0.01,
  rounds: int = 3,
  whitened: bool = True,
) -> Method:
  r"""Curation in training: rounds of choosing by the model and training on it.

  .. math:: K_r = \{ i : \max_{m \in \text{target}}
            \cos(A_r (h_r(x_i) - c_r),\, A_r (h_r(m) - c_r)) > \theta \}, \qquad
            w_i = \frac1R \sum_{r=1}^R \frac{[i \in K_r]}{q(K_r)}

  h_r is the mean of the last hidden states of the proxy in round r, which was trained
  on :math:`K_{r-1}`; c_r is their mean over the pool, and A_r the inverse root of
  their covariance. If fewer tokens than a least share are near enough to a target,
  those nearest to it are kept instead. A document weighs what it did over all rounds,
  as the recipe is for one training.

  Departures: the paper trains a CLIP, and compares captions with names of classes in
  the space of its text encoder. Here the targets' texts take the place of the names,
  and the language model in training that of the encoder. Hidden states of language
  models lie near a few directions, so that most pairs pass any threshold: of 700
  documents of the default corpus the paper's 0.55 kept 83 to 90 % for its three
  targets, and 36 to 50 % where states were whitened (c and A). The first round is
  chosen by a proxy trained on the whole pool, as there is no encoder from elsewhere;
  the least share is of the pool for each target, not of a batch, and that of the
  paper's threshold .7 (it has .003 for .55). Where documents may not be repeated so
  often as the kept ones would be, the others share what is left.

  Cost:
    A proxy of `config.look.steps` steps and `rounds` forward passes over pool and
    targets; hidden states, 4 bytes a document for each number and round, and 90
    while they are ranked.

  Args:
    threshold: :math:`\theta`, a cosine.
    least: of the pool's tokens that each target keeps in any case.
    rounds: R.
    whitened: whether c_r and A_r are those of the pool, or nothing is changed.
  Returns:
    A Method that reads the documents' hidden states.
  Raises:
    ValueError: for an option that is out of its range.
  References:
    Xu et al., `CiT <https://arxiv.org/abs/2301.02241>`_, 2023, algorithm 1;
    facebookresearch/CiT at 5caecad.
  """
  if not -1 <= threshold <= 1:
    raise ValueError(f"threshold {threshold} must be a cosine, from -1 to 1.")
  checks.share(least=least)
  checks.at_least(1, rounds=rounds)

  def kept(facts: Facts, observation: int) -> np.ndarray:
    return curated(
      facts, observation, threshold=threshold, least=least, whitened=whitened
    )

  def init(key: shapes.Key, facts: Facts) -> scoring.Weighed:
    del key
    pool = facts.pool
    assert pool is not None
    found = [
      scoring.chosen(kept(facts, r), pool, max_weight=facts.max_weight)
      for r in range(rounds)
    ]
    log_w_N = np.log(np.mean([np.exp(one.log_w_N) for one in found], axis=0))
    tokens = [one.told_T["tokens"][0] for one in found]
    summary = scoring.Weighed(log_w_N, log_w_N.astype(float), {})
    return summary.telling(round=range(rounds), tokens=tokens)

  def curate(facts: Facts, observation: int) -> np.ndarray:
    assert facts.pool is not None
    kept_N = kept(facts, observation)
    return scoring.chosen(kept_N, facts.pool, max_weight=np.inf).log_w_N

  return scoring.method(
    init,
    features=frozenset({"hidden_ONH"}),
    look=Look(checkpoints=rounds),
    curate=curate,
  )


def curated(
  facts: Facts,
  observation: int,
  *,
  threshold: float,
  least: float,
  whitened: bool,
) -> np.ndarray:
  """Which documents of the pool are near to some target, bool; see `make`."""
  pool = facts.pool
  assert pool is not None and pool.hidden_ONH is not None
  hidden_NH = pool.hidden_ONH[observation]
  size = hidden_NH.shape[1]
  center_H, turn_HH = np.zeros(size), np.eye(size)
  if whitened:
    center_H, turn_HH = whitening(hidden_NH)
  kept_N = np.zeros(len(hidden_NH), bool)
  for target in facts.train:
    assert target.hidden_ONH is not None
    goal_MH = (target.hidden_ONH[observation] - center_H) @ turn_HH
    cosine_N = np.concatenate(
      [
        neighbors.nearest((hidden_NH[part] - center_H) @ turn_HH, goal_MH)[1]
        for part in packing.chunks(len(hidden_NH), scoring.CHUNK)
      ]
    )
    kept_N |= near(cosine_N, pool, threshold=threshold, least=least)
  return kept_N


def whitening(x_NH: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """The mean of some rows, and the inverse root of their covariance.

  >>> x_NH = np.array([[1.0, 0.0], [3.0, 0.0], [2.0, 5.0], [2.0, -5.0]])
  >>> center_H, turn_HH = whitening(x_NH)
  >>> y_NH = (x_NH - center_H) @ turn_HH
  >>> (y_NH.T @ y_NH / 4).round(1)
  array([[1., 0.],
         [0., 1.]])
  """
  parts = packing.chunks(len(x_NH), scoring.CHUNK)
  center_H = np.asarray(np.mean(x_NH, axis=0, dtype=np.float64))
  covariance_HH = np.zeros((len(center_H), len(center_H)))
  for part in parts:
    y_BH = x_NH[part] - center_H
    covariance_HH += y_BH.T @ y_BH / len(x_NH)
  variance_H, axis_HH = np.linalg.eigh(covariance_HH)
  # Directions without any variance are not to be all that counts.
  variance_H = variance_H + _RIDGE * variance_H.mean() + 1e-30
  return center_H, (axis_HH / np.sqrt(variance_H)) @ axis_HH.T


def near(
  cosine_N: np.ndarray, pool: Documents, *, threshold: float, least: float
) -> np.ndarray:
  """Those above the threshold; the nearest instead where that is too few, bool.

  >>> pool = Documents(np.arange(4, dtype=np.uint64), np.full(4, 9), np.zeros((4, 1)))
  >>> near(np.array([0.1, 0.6, 0.2, 0.3]), pool, threshold=0.5, least=0.25)
  array([False,  True, False, False])
  >>> near(np.array([0.1, 0.6, 0.2, 0.3]), pool, threshold=0.5, least=0.5)
  array([False,  True, False,  True])
  """
  kept_N = cosine_N > threshold
  tokens_N = pool.tokens_N
  if tokens_N[kept_N].sum() < least * tokens_N.sum():
    kept_N = scoring.first(cosine_N, pool, share=least)
  return kept_N
