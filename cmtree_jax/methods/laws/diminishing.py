"""Double-diminishing proportions: shares that are halved again and again."""

import numpy as np


def design(
  rng: np.random.Generator,
  cap_K: np.ndarray,
  *,
  num_mixtures: int,
  grid: float | None = None,
) -> np.ndarray:
  r"""Mixtures of shares :math:`\lfloor r^{max}_k \rfloor 2^{-s}`, or none.

  The largest share is rounded down to the grid, once; its halves are not, and end
  above the grid's step. So a cap of .5857 gives .5625, .28125, .140625, .0703125
  and zero. A domain whose cap is below the grid's step has that cap and zero, where
  the authors' has zero alone: a law can tell nothing of a domain that is never seen.

  Each mixture visits the domains in an order of its own. For each domain it draws
  one of the domain's shares, zero among them, such that the domains still to come
  can take up the rest; the last domain gets the rest. The authors enumerate all
  mixtures in a fixed order, which is possible for few domains only.

  Args:
    rng: makes the draws.
    cap_K: :math:`r^{max}`, the largest share that the data allows; sums to one or
      more.
    num_mixtures: rows; different ones, as long as new ones are drawn.
    grid: the step that the largest shares are rounded down to, and the least
      share; default 1/16, or the power of two below 1/(2K) where that is finer, so
      that small domains are seen.
  References:
    Ye et al., `Data Mixing Laws <https://arxiv.org/abs/2403.16952>`_, 2024,
    appendix on mixture sampling; 1/16 from the authors' code.
  """
  cap_K = np.minimum(np.asarray(cap_K, np.float64), 1.0)
  if grid is None:
    domains = max(int((cap_K > 0).sum()), 1)
    grid = min(1 / 16, 2.0 ** -np.ceil(np.log2(2 * domains)))
  # Rounded down after a hair up, so that a cap of 3/16 stays.
  most_K = np.floor(cap_K / grid + 1e-9) * grid
  halvings = int(np.ceil(np.log2(1 / grid))) + 1
  share_KS = most_K[:, None] * 2.0 ** -np.arange(halvings)
  share_KS = np.where(share_KS > grid * (1 - 1e-9), share_KS, 0.0)
  share_KS[:, 0] = np.where(most_K > 0, most_K, cap_K)
  share_KS = np.hstack([share_KS, np.zeros((len(cap_K), 1))])
  found_RK = np.zeros((0, len(cap_K)))
  for _ in range(100):
    before = len(found_RK)
    drawn_RK = _draw(rng, cap_K, share_KS, num_mixtures)
    found_RK = np.vstack([found_RK, drawn_RK])
    _, first_R = np.unique(found_RK.round(9), axis=0, return_index=True)
    found_RK = found_RK[np.sort(first_R)]
    if not before < len(found_RK) < num_mixtures:
      break
  return found_RK[np.arange(num_mixtures) % len(found_RK)]


def _draw(rng, cap_K, share_KS, count):
  """Mixtures [count, K]; they may repeat."""
  order_RK = rng.permuted(np.tile(np.arange(len(cap_K)), (count, 1)), axis=1)
  cap_RK = cap_K[order_RK]
  # What the domains after each place can still take: the last one any share, the
  # others shares on the grid.
  most_RK = share_KS[order_RK, 0]
  most_RK[:, -1] = cap_RK[:, -1]
  later_RK = most_RK[:, ::-1].cumsum(axis=1)[:, ::-1] - most_RK
  rows, left_R = np.arange(count), np.ones(count)
  mixture_RK = np.zeros(order_RK.shape)
  # A share that comes twice (zero, mostly) is drawn once.
  new_KS = np.ones(share_KS.shape, bool)
  new_KS[:, 1:] = share_KS[:, 1:] < share_KS[:, :-1]
  for place, domain_R in enumerate(order_RK.T):
    share_RS = share_KS[domain_R]
    after_RS = left_R[:, None] - share_RS
    fits_RS = (after_RS >= -1e-12) & (
      after_RS <= later_RK[:, place, None] + 1e-12
    )
    chance_RS = np.where(
      fits_RS & new_KS[domain_R], rng.random(fits_RS.shape), -1
    )
    pick_R = chance_RS.argmax(axis=1)
    # The last domain takes the rest. So does one for which no share fits, which is
    # rare unless the caps leave little freedom.
    rest_R = np.minimum(left_R, cap_RK[:, place])
    drawn_R = np.where(fits_RS.any(axis=1), share_RS[rows, pick_R], rest_R)
    if place == len(cap_K) - 1:
      drawn_R = rest_R
    mixture_RK[rows, domain_R] = drawn_R
    left_R = np.maximum(left_R - drawn_R, 0.0)
  return mixture_RK / mixture_RK.sum(axis=1, keepdims=True)
