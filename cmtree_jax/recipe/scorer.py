r"""A scorer of texts: what weights of single documents say of documents that are new.

A method that weighs single documents says nothing of others, and the corpus that is
trained on may be a hundred times the one that was weighed. As is usual for costly
scores, a cheap model learns them: a ridge regression on words and pairs of words, and
a curve that never falls from its predictions to weights,

.. math:: s(x) = v \cdot x + b \approx \log w, \qquad
          \hat w(x) = \mathrm{E}[w \mid s(x)]

with x the logarithms of the counts, of unit length. Documents are known in four parts,
each of which has a regression that was fitted to the others, and the curve is fitted to
what these predict. A new document has the mean of the four weights: so new documents
like the known ones get as many tokens as these, also from a method that only keeps or
leaves out. How much of the weights the words explain is told: of a quality that words
show nearly all, of a choice at random nothing. Of what depends on other documents, as
duplicates do, a scorer knows no more than how those were written.

References:
  Gu et al., `Data Selection via Optimal Control <https://arxiv.org/abs/2410.07064>`_,
  2024, section 2.3; Penedo et al., `FineWeb <https://arxiv.org/abs/2406.17557>`_, 2024,
  section 4.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cmtree_jax.data import sealed, store
from cmtree_jax.embed import log_odds
from cmtree_jax.embed import texts as of_texts

FILE = "scorer.npz"
DOCUMENTS = 32_768  # most that are fitted to
LEAST = 0.1  # of the weights' variance; who explains less is no scorer

_FOLDS = 4  # of documents; each is predicted from the others
_PENALTY = 1.0  # on rows of length one
_FLOOR = 0.01  # of the mean weight: less is all the same
_EQUAL = 1e-9  # of a variance: weights differ by rounding
_CHUNK = 1000  # documents; bounds the memory of their counts


class Scorer(NamedTuple):
  """The regressions, the curve, and what they are worth."""

  coefficient_JF: np.ndarray  # v of each of J regressions, float32
  bias_J: np.ndarray  # b
  score_C: np.ndarray  # s where the curve turns, ascending
  weight_C: np.ndarray  # E[w | s] there
  explained: float  # share of the variance of w, in documents not fitted to

  @property
  def serves(self) -> bool:
    """Whether the words say enough of the weights."""
    return self.explained >= LEAST

  def __call__(self, texts: Sequence[str]) -> np.ndarray:
    """The expected weight of each text, float64; its mean is one like the known ones'."""
    found = [np.zeros(0)]
    for start in range(0, len(texts), _CHUNK):
      x_NF = log_odds.word_rows(texts[start : start + _CHUNK])
      score_NJ = x_NF @ self.coefficient_JF.T + self.bias_J
      weight_NJ = np.interp(score_NJ, self.score_C, self.weight_C)
      found.append(weight_NJ.mean(axis=1))
    return np.concatenate(found)

  def text(self) -> str:
    """What a person is told of it."""
    share = max(self.explained, 0)  # below zero: they tell nothing
    told = f"Words explain {share:.0%} of what the weights of documents vary"
    if self.serves:
      return f"{told}; new documents are weighed by them ({FILE})."
    return f"{told}: the recipe is for these documents alone."

  def save(self, path: Path) -> None:
    """Writes the file that `load` reads."""
    store.save_arrays(
      path, {k: np.asarray(x) for k, x in self._asdict().items()}
    )


class Weights(NamedTuple):
  """The weights that a scorer in a file gives to texts, a `Measure`."""

  path: str  # absolute
  digest: str  # of the file
  version: int = 1

  def __call__(self, texts: Sequence[str]) -> dict[str, np.ndarray]:
    """One weight of each text."""
    return {"weight_N": load(Path(self.path))(texts)}


def is_beside(recipe: Mapping[str, Any]) -> bool:
  """Whether a recipe.json was written with a scorer."""
  return FILE in recipe.get(sealed.FILES, {})


def load(path: Path) -> Scorer:
  """The scorer in a file."""
  with np.load(path) as file:
    found = Scorer(*(file[name] for name in Scorer._fields))
  return found._replace(explained=float(found.explained))


def fit(
  texts: Sequence[str], weight_N: np.ndarray, tokens_N: np.ndarray
) -> Scorer | None:
  """Learns the weights of texts; None where a fold has none of them.

  Cost: less than a millisecond of one core and ten kilobytes for each document.

  Args:
    texts: some of the corpus, as good as random.
    weight_N: their weights, of mean one in the corpus.
    tokens_N: their lengths, by which they count.
  """
  fold_N = of_texts.folds(texts, _FOLDS)
  if len(np.unique(fold_N)) < _FOLDS:
    return None
  x_NF = log_odds.word_rows(texts)
  log_w_N = np.log(np.maximum(weight_N, _FLOOR))
  score_N = np.zeros(len(texts))
  coefficient, bias = [], []
  for fold in range(_FOLDS):
    own = fold_N == fold
    model = _ridge(x_NF[~own], log_w_N[~own])
    score_N[own] = model.predict(x_NF[own])
    coefficient.append(model.coef_)
    bias.append(model.intercept_)
  expected_N = np.zeros(len(texts))
  for fold in range(_FOLDS):
    own = fold_N == fold
    curve = _curve(score_N[~own], weight_N[~own], tokens_N[~own])
    expected_N[own] = np.interp(score_N[own], *curve)
  return Scorer(
    np.asarray(coefficient, np.float32),
    np.asarray(bias),
    *_curve(score_N, weight_N, tokens_N),
    _explained(expected_N, weight_N, tokens_N),
  )


def _ridge(x_NF: Any, y_N: np.ndarray) -> Any:
  from sklearn.linear_model import Ridge

  return Ridge(_PENALTY, solver="sparse_cg", tol=1e-3).fit(x_NF, y_N)


def _curve(
  score_N: np.ndarray, weight_N: np.ndarray, tokens_N: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  from sklearn.isotonic import IsotonicRegression

  found = IsotonicRegression().fit(score_N, weight_N, tokens_N)
  return found.X_thresholds_, found.y_thresholds_


def _explained(
  expected_N: np.ndarray, weight_N: np.ndarray, tokens_N: np.ndarray
) -> float:
  mass_N = tokens_N / tokens_N.sum()
  varies = mass_N @ (weight_N - mass_N @ weight_N) ** 2
  if varies < _EQUAL:
    return 1.0  # equal weights are explained without words
  return float(1 - mass_N @ (weight_N - expected_N) ** 2 / varies)
