"""Which mixtures to try: designs of runs, and candidates that a surrogate scores.

All of them obey the repetition cap p_k <= R q_k and give nothing to a domain without
mass. Random numbers come from the caller, as numpy's Generator or RandomState.
"""

import numpy as np

from cmtree_jax.shapes import FloatK
from cmtree_jax.types import UserError

Rng = np.random.Generator | np.random.RandomState

# RegMix: concentrations of the Dirichlet, and how many to draw for one to keep.
_STRENGTHS = np.logspace(np.log10(0.1), np.log10(5.0), 15)
_DRAWS = 100


def regmix(
  prior_K: FloatK,
  count: int,
  *,
  rng: np.random.Generator,
  cap_K: FloatK | None = None,
  exponent: float = 0.5,
  minimum: float = 2e-4,
) -> np.ndarray:
  r"""RegMix's design: mixtures around the flattened prior, from sparse to dense.

  .. math:: p \sim \mathrm{Dirichlet}(s\, \tilde q), \quad
            \tilde q_k \propto q_k^{1/2}, \quad
            s \in \mathrm{logspace}(0.1 \ldots 5,\ 15)

  Draws above the cap are rejected. Shares below `minimum` become zero, the others are
  rounded to multiples of it, and what then came twice is dropped. There are a
  hundred draws per mixture; `count` of those that are left are kept at random.

  Three departures from the authors' code. They draw once at each of the 15
  strengths and keep one; here the strength is chosen first, which gives the same
  distribution. Their rounded rows sum to one up to the grid; here the remainders
  are rounded so that every row sums to one exactly. And where too few draws obey
  the cap, the others are not lost: their excess is moved, see `capped`.

  Args:
    prior_K: q, the domains' shares of the corpus.
    count: R, rows; with fewer distinct mixtures than that, some come twice.
    rng: makes the draws and the choice.
    cap_K: the largest share of each domain (the paper's is 15 q_k, at most 1).
    exponent: what flattens the prior; the authors' code calls it temperature.
    minimum: the step of the grid, and so the smallest share apart from zero.
  Returns:
    mixture_RK.
  Raises:
    ValueError: for a grid too coarse for the number of domains.
  References:
    Liu et al., `RegMix <https://arxiv.org/abs/2407.01492>`_, 2024, section 3.1 and
    `mixture_config/synthesize_mixture.py`.
  """
  prior_K = np.asarray(prior_K, np.float64)
  if not 0 < minimum <= 1 / np.count_nonzero(prior_K):
    raise UserError(
      f"A smallest share of {minimum} must be above 0 and at most"
      f" 1 / {np.count_nonzero(prior_K)}, one over the number of domains."
    )
  flat_K = prior_K**exponent * (prior_K > 0)
  strength_S = rng.integers(len(_STRENGTHS), size=count * _DRAWS)
  draw_SK = np.concatenate(
    [
      dirichlet(flat_K, int(number), rng=rng, strength=strength)
      for strength, number in zip(
        _STRENGTHS, np.bincount(strength_S, minlength=15), strict=True
      )
    ]
  )
  obeys_S = np.ones(len(draw_SK), bool)
  if cap_K is not None:
    obeys_S = (draw_SK <= cap_K).all(axis=1)
  mixture_RK = rng.permutation(_on_grid(draw_SK[obeys_S], minimum))[:count]
  if len(mixture_RK) < count and cap_K is not None:
    moved_SK = capped(rng.permutation(draw_SK[~obeys_S])[:count], cap_K)
    moved_SK = rng.permutation(_on_grid(moved_SK, minimum))
    mixture_RK = np.concatenate([mixture_RK, moved_SK])
  return np.resize(mixture_RK, (count, len(prior_K)))  # from the top again


def dirichlet(
  prior_K: FloatK,
  count: int,
  *,
  rng: Rng,
  strength: float = 1.0,
  cap_K: FloatK | None = None,
) -> np.ndarray:
  r"""Candidates around a prior: :math:`p \sim \mathrm{Dirichlet}(s\, q)`.

  Args:
    prior_K: q, of any scale; a domain of share zero gets nothing.
    count: C, rows.
    rng: makes the draws.
    strength: s; smaller is sparser.
    cap_K: the largest share of each domain; imposed by `capped`.
  Returns:
    mixture_CK.
  """
  prior_K = np.asarray(prior_K, np.float64)
  used_K = prior_K > 0
  draw_CK = np.zeros((count, len(prior_K)))
  alpha = strength * prior_K[used_K] / prior_K.sum()
  draw_CK[:, used_K] = rng.dirichlet(alpha, count)
  return draw_CK if cap_K is None else capped(draw_CK, cap_K)


def one_hot(prior_K: FloatK) -> np.ndarray:
  """One mixture per domain that has any text: all of it from that domain."""
  return np.eye(len(prior_K))[np.asarray(prior_K) > 0]


def capped(mixture_CK: np.ndarray, cap_K: FloatK) -> np.ndarray:
  r"""The nearest mixtures below the caps: what one domain loses, the others gain.

  .. math:: p'_k = \min(\bar p_k,\, c\, p_k), \qquad \sum_k p'_k = 1

  This is the projection in the sense of the Kullback-Leibler divergence. A row
  that obeys the caps stays as it is.

  Args:
    mixture_CK: rows sum to one.
    cap_K: sum to one or more.

  >>> capped(np.array([[0.8, 0.15, 0.05]]), np.array([0.5, 0.3, 0.5])).tolist()
  [[0.5, 0.3, 0.2]]
  """
  cap_K = np.asarray(cap_K, np.float64)
  over_C = (mixture_CK > cap_K).any(axis=1)
  # A little everywhere, so that the excess of a sparse row has where to go.
  rows = np.maximum(mixture_CK[over_C], 1e-6 * cap_K)
  rows /= rows.sum(axis=1, keepdims=True)
  full = np.zeros(rows.shape, bool)
  for _ in cap_K:  # each round fills one domain at least, or is the last
    full |= rows > cap_K
    left = 1 - np.where(full, cap_K, 0).sum(axis=1, keepdims=True)
    rest = np.where(full, 0, rows)
    total = np.maximum(rest.sum(axis=1, keepdims=True), 1e-300)
    rows = np.where(full, cap_K, rest / total * np.maximum(left, 0))
    if not ((rows > cap_K) & ~full).any():
      break
  result_CK = mixture_CK.copy()
  result_CK[over_C] = rows / rows.sum(axis=1, keepdims=True)
  return result_CK


def _on_grid(draw_SK: np.ndarray, minimum: float) -> np.ndarray:
  """Rounded by largest remainders; distinct rows, in lexical order."""
  draw_SK = np.where(draw_SK < minimum, 0, draw_SK)
  units = round(1 / minimum)
  exact_SK = draw_SK / draw_SK.sum(axis=1, keepdims=True) * units
  units_SK = np.floor(exact_SK).astype(int)
  missing_S = units - units_SK.sum(axis=1, keepdims=True)
  order_SK = np.argsort(units_SK - exact_SK, axis=1, kind="stable")
  rank_SK = np.argsort(order_SK, axis=1, kind="stable")
  return np.unique(units_SK + (rank_SK < missing_S), axis=0) / units
