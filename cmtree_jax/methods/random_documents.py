"""Random documents: a subset chosen blindly, the control of selection."""

from typing import NamedTuple

import jax.numpy as jnp

from cmtree_jax import shapes
from cmtree_jax.methods.base import (
  Facts,
  Method,
  Planted,
  Signals,
  Small,
)


class State(NamedTuple):
  """Masses seen so far."""

  kept: shapes.Scalar  # mass of the documents that are trained on
  all: shapes.Scalar  # mass of all documents
  max_weight: shapes.Scalar  # R


class SubsetWeights(NamedTuple):
  """One weight for documents whose key is below a threshold, one for the others."""

  share: shapes.Scalar  # the threshold
  log_w_kept: shapes.Scalar
  log_w_other: shapes.Scalar

  def log_w(self, signals: Signals) -> shapes.FloatB:
    """The weight that a document's key decides."""
    kept_B = signals.key_B < self.share
    return jnp.where(kept_B, self.log_w_kept, self.log_w_other)


SMALL = Small()
PLANTED = Planted()


def make(*, share: float = 0.2) -> Method:
  r"""Trains on a random share of the documents, as often as their number allows.

  .. math:: w_i = 1 / m \text{ if } u_i < s \text{ else } 0, \qquad
            m = \textstyle\sum_{u_i < s} q_i

  It repeats documents as often as a method of selection does, but chooses blindly.
  So what such a method gains over this one is the gain of its choice.

  Args:
    share: s, the share of the documents that is kept. Where the repetition cap R is
      below 1 / m, the others get what is left.
  Returns:
    A Method that reads masses and keys in one pass.
  Raises:
    ValueError: for a share that is not in (0, 1].
  """
  if not 0 < share <= 1:
    raise ValueError(f"share {share} must be above 0 and at most 1.")

  def init(key: shapes.Key, facts: Facts) -> State:
    del key
    zero = jnp.float32(0.0)
    return State(zero, zero, jnp.float32(facts.max_weight))

  def step(state: State, signals: Signals):
    kept_B = jnp.where(signals.key_B < share, signals.mass_B, 0.0)
    return State(
      state.kept + jnp.sum(kept_B),
      state.all + jnp.sum(signals.mass_B),
      state.max_weight,
    ), None

  def finalize(state: State) -> SubsetWeights:
    seen = state.kept > 0
    m = jnp.where(seen, state.kept / jnp.where(seen, state.all, 1.0), share)
    m = jnp.minimum(m, 1 - 1e-6)
    w_kept = jnp.minimum((1 - _LEAST * (1 - m)) / m, state.max_weight)
    w_other = (1 - m * w_kept) / (1 - m)
    return SubsetWeights(
      jnp.float32(share),
      jnp.log(w_kept),
      jnp.log(jnp.maximum(w_other, _LEAST)),
    )

  return Method(
    init,
    step,
    finalize,
    frozenset({"mass_B", "key_B"}),
    "look",
    targeted=False,
  )


_LEAST = 1e-6  # weight of what is left out: a logarithm must be finite
