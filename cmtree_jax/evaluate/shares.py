"""Where a recipe's training tokens go: to which sources, and near which targets."""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np


class Share(NamedTuple):
  """A group of documents."""

  name: str
  natural: float  # its share of the corpus's tokens
  recipe: float  # its share of the training tokens

  def to_json(self, tokens: int) -> dict[str, Any]:
    """With the tokens that a training of so many spends on it."""
    return {**self._asdict(), "tokens": round(self.recipe * tokens)}


def of_groups(
  group_N: np.ndarray,
  names: Sequence[str],
  log_w_N: np.ndarray,
  mass_N: np.ndarray,
) -> list[Share]:
  """The shares of groups of documents, in the order of their names.

  Args:
    group_N: number of each document's group.
    names: of the groups.
    log_w_N: log-weights of a recipe.
    mass_N: the documents' shares of the corpus's tokens.

  >>> log_w_N = np.log([2.0, 0.5, 0.5])
  >>> group_N, mass_N = np.array([0, 1, 1]), np.full(3, 1 / 3)
  >>> for share in of_groups(group_N, ("a", "b"), log_w_N, mass_N):
  ...   print(f"{share.name} {share.natural:.3f} {share.recipe:.3f}")
  a 0.333 0.667
  b 0.667 0.333
  """
  trained_N = mass_N * np.exp(log_w_N)
  natural, recipe = (
    np.bincount(group_N, one_N / one_N.sum(), minlength=len(names))
    for one_N in (mass_N, trained_N)
  )
  return [
    Share(name, float(a), float(b))
    for name, a, b in zip(names, natural, recipe, strict=True)
  ]


def nearest(
  embeddings: Iterable[np.ndarray], targets: Sequence[np.ndarray]
) -> np.ndarray:
  """The number of the target whose mean text is nearest to each document.

  Near is a large cosine; every document is near some target, however far it is.

  Args:
    embeddings: of the documents, [B, E] at a time.
    targets: of the texts of each target.
  """
  center_TE = np.stack([_unit(one.mean(axis=0)) for one in targets])
  return np.concatenate(
    [np.argmax(one @ center_TE.T, axis=1) for one in embeddings]
  )


def _unit(x_E: np.ndarray) -> np.ndarray:
  return x_E / max(float(np.linalg.norm(x_E)), 1e-12)


def moved(
  tokens_N: np.ndarray, old_w_N: np.ndarray, new_w_N: np.ndarray
) -> float:
  """The share of the training tokens that another recipe spends on other documents.

  Args:
    tokens_N: of the documents that both weigh.
    old_w_N: weights of one recipe.
    new_w_N: and of the other.

  >>> moved(np.ones(2), np.array([1.0, 1.0]), np.array([1.5, 0.5]))
  0.25
  """
  old_N, new_N = (
    tokens_N * w_N / (tokens_N @ w_N) for w_N in (old_w_N, new_w_N)
  )
  return float(np.abs(old_N - new_N).sum() / 2)
