"""Random documents: a subset chosen blindly, the control of selection."""

from typing import NamedTuple

import jax.numpy as jnp

from cmtree_jax import shapes
from cmtree_jax.methods import subsets
from cmtree_jax.methods.base import (
  DocumentWeights,
  Facts,
  Method,
  Planted,
  Signals,
  Small,
)


class State(NamedTuple):
  """Documents seen so far."""

  kept_N: shapes.Array  # whether a document is trained on
  kept: shapes.Scalar  # mass of these documents
  all: shapes.Scalar  # mass of all documents
  max_weight: shapes.Scalar  # R


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
    return State(
      kept_N=jnp.zeros(facts.num_documents, bool),
      kept=jnp.float32(0.0),
      all=jnp.float32(0.0),
      max_weight=jnp.float32(facts.max_weight),
    )

  def step(state: State, signals: Signals):
    kept_B = signals.key_B < share
    return State(
      subsets.note(state.kept_N, signals, kept_B),
      state.kept + jnp.sum(jnp.where(kept_B, signals.mass_B, 0.0)),
      state.all + jnp.sum(signals.mass_B),
      state.max_weight,
    ), None

  def finalize(state: State) -> DocumentWeights:
    return subsets.weigh(
      state.kept_N, state.kept, state.all, max_weight=state.max_weight
    )

  return Method(
    init,
    step,
    finalize,
    frozenset({"mass_B", "key_B", "index_B"}),
    "look",
    weighs="documents",
    targeted=False,
  )
