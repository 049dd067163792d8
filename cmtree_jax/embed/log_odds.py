r"""The view of grams: how much likelier a text's words are in each target.

There are too many runs of words for a tree to see. Of the few numbers that could stand
for them, the log-odds of plain classifiers, one for each target, tell far more of what
documents are worth than as many random directions, and they can be read.

Texts that a classifier was fitted to would lie further apart than new ones do, so that
it scores others alone: a hash of a text says which fold it is of, and the classifiers
that score it were fitted without that fold.
"""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cmtree_jax.embed import grams, whiten
from cmtree_jax.embed import texts as of_texts
from cmtree_jax.shapes import FloatNE
from cmtree_jax.types import UserError

FOLDS = 4  # of texts
# The inverse of the penalty, for a target's text beside it. Without held-out texts
# none chooses, and this is the middle one of those that `methods/classifier.py` tries.
STRENGTH = 100.0
_WORDS = grams.Words(buckets=65_536, words=2)
_CHUNK = 1000  # documents; bounds the memory of their counts


def fit(
  texts: Sequence[str],
  goals: Mapping[str, Sequence[str]],
  *,
  sample: int,
  seed: int,
) -> "LogOddsEmbedder":
  r"""An embedder of every target's log-odds, whitened on the sampled texts.

  .. math:: f_t(x) = v_t \cdot x + b_t \approx
            \log \frac{p(x \mid t)}{p(x \mid \text{corpus})}

  with x the logarithms of the counts of one and two words in a row, of unit length,
  and v of a logistic regression, in which both classes count alike.

  Args:
    texts: the corpus.
    goals: texts of every target; those without any are left out.
    sample: how many texts of each, chosen by hash, to learn from.
    seed: chooses the texts.
  Raises:
    UserError: there is no target, or one has too few texts for every fold to leave
      some.
  """
  chosen = of_texts.sample(texts, sample, seed)
  pool, fold_N = word_rows(chosen), of_texts.folds(chosen, FOLDS)
  coefficient, bias = [], []
  for name, goal in goals.items():
    if not len(goal):
      continue
    own = of_texts.sample(goal, sample, seed)
    target, fold_M = word_rows(own), of_texts.folds(own, FOLDS)
    for fold in range(FOLDS):
      some = fold_M != fold
      if not (some.any() and (fold_N != fold).any()):
        raise UserError(
          f"The view grams fits classifiers of target {name!r} without a fold of its "
          f"texts, and {len(own)} are too few; take it out of "
          "config.embedding.views."
        )
      made = logistic(target[some], pool[fold_N != fold], STRENGTH)
      coefficient.append(made.coef_[0])
      bias.append(made.intercept_[0])
  if not bias:
    raise UserError(
      "The view grams of config.embedding.views tells how much likelier words are in "
      "a target, and there is none; name some in config.data.targets."
    )
  coefficient_TKF = np.reshape(coefficient, (-1, FOLDS, _WORDS.buckets))
  coefficient_TKF = coefficient_TKF.astype(np.float32)
  bias_TK = np.reshape(bias, (-1, FOLDS))
  found_NT = _log_odds(chosen, coefficient_TKF, bias_TK)
  return LogOddsEmbedder(coefficient_TKF, bias_TK, whiten.fit(found_NT))


class LogOddsEmbedder:
  """Gives texts their log-odds: `embedder(texts)` has unit rows [N, T + 1], float32."""

  def __init__(
    self,
    coefficient_TKF: np.ndarray,
    bias_TK: np.ndarray,
    whitening: whiten.Whitening,
  ):
    self._coefficient_TKF, self._bias_TK = coefficient_TKF, bias_TK
    self._whitening = whitening

  def __call__(self, texts: Sequence[str]) -> FloatNE:
    """One unit row per text; the last number is the constant's."""
    width = self._whitening.whiten_FG.shape[1] + 1
    rows: list[FloatNE] = [np.zeros((0, width), np.float32)]
    for start in range(0, len(texts), _CHUNK):
      found_NT = _log_odds(
        texts[start : start + _CHUNK], self._coefficient_TKF, self._bias_TK
      )
      rows.append(self._whitening(found_NT))
    return np.concatenate(rows)

  def to_arrays(self) -> dict[str, np.ndarray]:
    """Plain arrays, to be kept as .npz; `from_arrays` gives equal results."""
    return {
      "coefficient_TKF": self._coefficient_TKF,
      "bias_TK": self._bias_TK,
      **self._whitening._asdict(),
    }

  @classmethod
  def from_arrays(cls, arrays: dict[str, np.ndarray]) -> "LogOddsEmbedder":
    """The embedder that `to_arrays` was called on."""
    kept = dict(arrays)
    coefficient_TKF, bias_TK = kept.pop("coefficient_TKF"), kept.pop("bias_TK")
    return cls(coefficient_TKF, bias_TK, whiten.Whitening(**kept))


def logistic(positive: Any, negative: Any, strength: float) -> Any:
  """scikit-learn's fit of two classes that count alike, however many are in each.

  Args:
    positive: rows, dense or of SciPy.
    negative: of the other class.
    strength: C, the weight of a row of the first class beside the penalty.
  """
  import scipy.sparse
  from sklearn.exceptions import ConvergenceWarning
  from sklearn.linear_model import LogisticRegression

  sizes = positive.shape[0], negative.shape[0]
  x = (
    scipy.sparse.vstack([positive, negative])
    if scipy.sparse.issparse(positive)
    else np.concatenate([positive, negative])
  )
  model = LogisticRegression(
    C=strength,
    solver="liblinear",  # one thread and a seed: equal bits everywhere
    dual=scipy.sparse.issparse(positive),  # fewer documents than features
    random_state=0,
    max_iter=200,
  )
  with warnings.catch_warnings():
    # Of a weak penalty on few documents; held-out ones judge that fit as it is.
    warnings.simplefilter("ignore", ConvergenceWarning)
    return model.fit(
      x,
      np.repeat([True, False], sizes),
      sample_weight=np.repeat([1.0, sizes[0] / sizes[1]], sizes),
    )


def unit_rows(counts: Any) -> Any:
  """1 + logarithms of the counts of words, rows of length one."""
  from sklearn.feature_extraction.text import TfidfTransformer

  to_unit = TfidfTransformer(use_idf=False, sublinear_tf=True)
  return to_unit.fit_transform(counts)


def word_rows(texts: Sequence[str]) -> Any:
  """`unit_rows` of the words and pairs of words of texts, sparse."""
  counted = grams.gathered(_WORDS(texts), _WORDS.buckets)
  return unit_rows(counted.rows(slice(0, len(texts))))


def _log_odds(
  texts: Sequence[str], coefficient_TKF: np.ndarray, bias_TK: np.ndarray
) -> np.ndarray:
  """f of every text and target, by the classifiers that have not seen its fold."""
  fold_N, x_NF = of_texts.folds(texts, FOLDS), word_rows(texts)
  found_NT = np.zeros((len(texts), len(bias_TK)))
  for fold in range(FOLDS):
    own = fold_N == fold
    found_NT[own] = x_NF[own] @ coefficient_TKF[:, fold].T + bias_TK[:, fold]
  return found_NT
