"""What methods share that keep some documents of the pool and leave out the others."""

import jax.numpy as jnp

from cmtree_jax import shapes
from cmtree_jax.methods.base import DocumentWeights, Facts, Signals

_LEAST = 1e-6  # weight of what is left out: a logarithm must be finite


def unseen(facts: Facts) -> shapes.FloatN:
  """A number per document that no look has brought yet."""
  return jnp.full(facts.num_documents, jnp.nan)


def note(
  number_N: shapes.FloatN, signals: Signals, number_B: shapes.FloatB
) -> shapes.FloatN:
  """With the numbers of the pool's documents among those shown."""
  return number_N.at[signals.index_B].set(number_B, mode="drop")


def weigh(
  kept_N: shapes.Array,
  mass_N: shapes.FloatN,
  *,
  max_weight: float | shapes.Scalar,
) -> DocumentWeights:
  r"""Equal weights for the documents that are kept, as far as they may be repeated.

  .. math:: w_i = \min(1 / m, R) \text{ if kept}, \qquad m = \sum_\text{kept} q_i

  Where the cap R is below 1 / m, the others get what is left of the tokens.

  Args:
    kept_N: which documents are kept; none: all weigh the same.
    mass_N: q, their shares of the tokens; NaN or 0 where a document is not seen yet.
    max_weight: R.
  """
  q_N = jnp.nan_to_num(mass_N)
  q_N = q_N / jnp.maximum(jnp.sum(q_N), 1e-30)
  m = jnp.sum(jnp.where(kept_N, q_N, 0.0))
  some = (m > 0) & (m < 1)
  m = jnp.where(some, m, 0.5)  # any, where it is not read
  kept = jnp.minimum((1 - _LEAST * (1 - m)) / m, max_weight)
  other = jnp.maximum((1 - m * kept) / (1 - m), _LEAST)
  w_N = jnp.where(kept_N, kept, other)
  return DocumentWeights(jnp.where(some, jnp.log(w_N), 0.0))
