r"""Sub-pools: parts of a corpus that a short training repeats as a long one the whole.

A training of B tokens on a pool of N tokens sees it B / N times. One of b tokens that
is to stand for it sees a part of N b / B tokens, and then repeats a document of weight
w just as often. Parts are drawn by a hash of document ids, within every stratum alike,
and those of equal number are nested: the smaller one is in the larger.

References:
  Matched repetition: 2606.07597.
"""

from hashlib import blake2b
from typing import NamedTuple

import numpy as np

from cmtree_jax import budget as budgets
from cmtree_jax.budget import Budget
from cmtree_jax.data.draw import sampler


class Subpool(NamedTuple):
  """A part of the corpus, for a training of a length that is known."""

  inside_N: np.ndarray  # bool
  mass_N: np.ndarray  # shares of its tokens; zero outside
  epochs: float  # how often the training sees it
  max_weight: float  # R, at these epochs

  def weights(self, weight_N: np.ndarray) -> np.ndarray:
    """A recipe's weights in here: zero outside, mean one, none above R."""
    return budgets.capped(weight_N, self.mass_N, max_weight=self.max_weight)

  def mixed(self, mixture_K: np.ndarray, domain_N: np.ndarray) -> np.ndarray:
    """Weights in here that give a mixture of domains, which no cap changes.

    A domain that has no documents in here is left out.

    Raises:
      ValueError: that leaves none.
    """
    inside_K = np.bincount(domain_N, self.mass_N, len(mixture_K))
    with np.errstate(divide="ignore", invalid="ignore"):
      ratio_K = np.where(inside_K > 0, mixture_K / inside_K, 0.0)
    if not ratio_K.any():
      raise ValueError(
        "The mixture is of domains that have no documents in a sub-pool of "
        f"{self.inside_N.sum():,}; raise config.budget.min_documents."
      )
    return np.where(self.inside_N, ratio_K[domain_N], 0.0)


class Subpools(NamedTuple):
  """What sub-pools of a corpus are drawn from."""

  key_N: np.ndarray  # uint64, of document ids
  stratum_N: np.ndarray  # int, of each document
  pairs_N: np.ndarray  # tokens
  budget: Budget  # of the training that all others stand for
  least: int = 0  # documents of every stratum that are in, whatever the share
  # uint64, equal for documents that are in together as far as may be; None: each is
  # by itself.
  unit_N: np.ndarray | None = None

  def of(self, tokens: int, *number: int | str) -> Subpool:
    """The sub-pool of a training.

    Args:
      tokens: of the whole training.
      number: equal numbers give nested sub-pools, others independent ones.
    """
    pairs_N = self.pairs_N
    point_N = self._points(number)
    share = min(1.0, tokens / (self.budget.epochs * pairs_N.sum()))
    least = min(self.budget.min_documents, len(point_N))
    # The smallest that holds enough documents, where the share does not.
    inside_N = (point_N < share) | (share == 1)
    if inside_N.sum() < least:
      inside_N = point_N <= np.partition(point_N, least - 1)[least - 1]
    held_N = np.where(inside_N, pairs_N, 0)
    epochs = tokens / held_N.sum()
    cap = min(self.budget.max_weight, self.budget.max_epochs / epochs)
    return Subpool(
      inside_N, held_N / held_N.sum(), epochs, max_weight=max(1.0, cap)
    )

  def _points(self, number: tuple[int | str, ...]) -> np.ndarray:
    """The share of the corpus, of a nested sequence, that first holds a document.

    The documents of a stratum lie in a circle in the order of a hash, and one goes
    round it from a place by chance. So a document is in a share s of all sub-pools
    of that share, however long it is and however few its stratum has.
    """
    # Whole numbers of any type are the same ones.
    named = [x if isinstance(x, str) else int(x) for x in number]
    salt = blake2b(repr(named).encode(), digest_size=8).digest()
    unit_N = self.key_N if self.unit_N is None else self.unit_N
    hash_N = sampler.mixed(unit_N ^ np.uint64(int.from_bytes(salt, "little")))
    order_O = np.lexsort((self.key_N, hash_N, self.stratum_N))
    stratum_O, pairs_O = self.stratum_N[order_O], self.pairs_N[order_O]
    first_O = np.searchsorted(stratum_O, stratum_O)
    before_O = np.cumsum(pairs_O) - pairs_O
    total_O = np.bincount(stratum_O, pairs_O)[stratum_O]
    chance_O = sampler.unit_keys(hash_N[order_O])[first_O].astype(np.float64)
    begin_O = (before_O - before_O[first_O]) / total_O - chance_O
    begin_O += begin_O < 0
    place_O = np.empty(len(order_O), np.int64)
    place_O[np.lexsort((begin_O, stratum_O))] = np.arange(len(order_O))
    begin_O[place_O - first_O < self.least] = -1
    point_N = np.empty(len(order_O))
    point_N[order_O] = begin_O
    return point_N
