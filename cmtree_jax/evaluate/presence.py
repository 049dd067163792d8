"""Whether a target's texts are like anything in a pool, before anything is searched.

K counts domains, M a target's texts.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from cmtree_jax.selection import neighbors
from cmtree_jax.shapes import FloatNE

_MOST = 2000  # texts whose neighbors are looked for
_HELD = 0.9  # share of a target's tokens that "its" domains hold


class Presence(NamedTuple):
  """How a target lies in a pool."""

  texts: int
  kl: float  # nats, of the target's domains against the pool's
  kl_of_chance: float  # what as many texts of the pool itself would have
  share: (
    float  # of the pool's tokens, in the domains that hold most of the target
  )
  nearest: float  # median cosine of a text to the nearest document of the pool
  among: float  # the same to the nearest other text of the target
  nearer: float  # share of texts that are nearer to the pool than to each other


def of(
  target_MK: Float[np.ndarray, "M K"],
  pool_K: Float[np.ndarray, " K"],
  target_ME: Float[np.ndarray, "M E"],
  pool_NE: FloatNE,
) -> Presence:
  r"""Where a target's texts lie, and how near the pool's documents are.

  .. math:: \mathrm{KL} = \sum_k t_k \log \frac{t_k}{q_k}

  Shares t and q are smoothed by one text in all domains together, so that a domain
  without documents costs much and not everything. A target of few texts is in few
  domains by chance alone: :math:`(K - 1) / 2 M` nats.

  Args:
    target_MK: tokens of each of the target's texts in each domain.
    pool_K: q, the domains' shares of the pool's tokens.
    target_ME: features of the texts, at least two.
    pool_NE: features of the pool's documents.
  """
  texts, domains = target_MK.shape
  tokens_K = target_MK.sum(axis=0) / target_MK.sum()
  q_K = _smoothed(pool_K, len(pool_NE))
  t_K = _smoothed(tokens_K, texts)
  order_K = np.argsort(-tokens_K / np.maximum(pool_K, 1e-12), kind="stable")
  held_K = np.cumsum(tokens_K[order_K]) - tokens_K[order_K] < _HELD
  some_ME = target_ME[: min(_MOST, texts)]
  to_pool_M = neighbors.nearest(some_ME, pool_NE).cosine_N
  to_others_M = neighbors.each(some_ME, k=1)[1][:, 0]
  return Presence(
    texts=texts,
    kl=float(t_K @ np.log(t_K / q_K)),
    kl_of_chance=(domains - 1) / (2 * texts),
    share=float(pool_K[order_K[held_K]].sum()),
    nearest=float(np.median(to_pool_M)),
    among=float(np.median(to_others_M)),
    nearer=float(np.mean(to_pool_M >= to_others_M)),
  )


def _smoothed(share_K: np.ndarray, texts: int) -> np.ndarray:
  """As if one more text were spread over all domains."""
  return (share_K * texts + 1 / len(share_K)) / (texts + 1)
