"""What methods share that keep some documents of the pool and leave out the others."""

import jax.numpy as jnp

from cmtree_jax import shapes
from cmtree_jax.methods.base import DocumentWeights, Facts, Signals

_LEAST = 1e-6  # weight of what is left out: a logarithm must be finite


def unseen(facts: Facts) -> shapes.FloatN:
  """A number per document that no look has brought yet."""
  return jnp.full(facts.num_documents, jnp.nan)


def note(
  value_N: shapes.Array, signals: Signals, value_B: shapes.Array
) -> shapes.Array:
  """With what is new of the pool's documents among those shown."""
  # The numbers of the targets' documents are past the end.
  return value_N.at[signals.index_B].set(value_B, mode="drop")


def weigh(
  kept_N: shapes.Array,
  kept_mass: shapes.Scalar,
  mass: shapes.Scalar,
  *,
  max_weight: float | shapes.Scalar,
) -> DocumentWeights:
  r"""Equal weights for the documents that are kept, as far as they may be repeated.

  .. math:: w_i = \min(1 / m, R) \text{ if kept}, \qquad m = \sum_\text{kept} q_i

  Where the cap R is below 1 / m, the others get what is left of the tokens.

  Args:
    kept_N: which documents are kept; none or all: all weigh the same.
    kept_mass: their tokens, in any unit.
    mass: those of all documents that were seen.
    max_weight: R.
  """
  some = (kept_mass > 0) & (kept_mass < mass)
  # One half where it is not read, so that nothing is divided by zero.
  m = jnp.where(some, kept_mass / jnp.where(some, mass, 1.0), 0.5)
  m = jnp.minimum(m, 1 - 1e-6)
  kept = jnp.minimum((1 - _LEAST * (1 - m)) / m, max_weight)
  other = jnp.maximum((1 - m * kept) / (1 - m), _LEAST)
  log_w_N = jnp.where(kept_N, jnp.log(kept), jnp.log(other))
  return DocumentWeights(jnp.where(some, log_w_N, 0.0))


def weigh_seen(
  kept_N: shapes.Array,
  mass_N: shapes.FloatN,
  *,
  max_weight: float | shapes.Scalar,
) -> DocumentWeights:
  """`weigh` for documents whose masses were kept; 0 for one that was not seen."""
  kept_mass = jnp.sum(jnp.where(kept_N, mass_N, 0.0))
  return weigh(kept_N, kept_mass, jnp.sum(mass_N), max_weight=max_weight)
