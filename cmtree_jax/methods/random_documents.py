"""Random documents, a control: a subset that nothing was known about."""

from typing import NamedTuple

import jax.numpy as jnp

from cmtree_jax import shapes
from cmtree_jax.methods.base import Facts, Method, Signals


class State(NamedTuple):
  """Masses seen so far."""

  kept: shapes.Scalar
  all: shapes.Scalar
  share: shapes.Scalar


class SubsetWeights(NamedTuple):
  """The documents whose key is below a threshold, weighted alike."""

  share: shapes.Scalar
  log_w_kept: shapes.Scalar

  def log_w(self, signals: Signals) -> shapes.FloatB:
    """The same for all that are kept; 1e-6 of that for the others."""
    dropped = self.log_w_kept + jnp.log(1e-6)
    return jnp.where(signals.key_B < self.share, self.log_w_kept, dropped)


def make(*, share: float = 0.2) -> Method:
  r"""Trains on a random share of the documents, as often as their number allows.

  .. math:: w_i = 1 / m \text{ if } u_i < s \text{ else } 0, \qquad
            m = \textstyle\sum_{u_i < s} q_i

  It has the effective sample size of a selection without its choice, so what a
  method gains over it is not for the repetitions.

  Args:
    share: s, of the documents; raised to 1 / R, below which documents would be
      repeated too often.
  Returns:
    A Method that reads masses and keys in one pass.
  Raises:
    ValueError: for a share that is not in (0, 1].
  """
  if not 0 < share <= 1:
    raise ValueError(f"share {share} must be above 0 and at most 1.")

  def init(key: shapes.Key, facts: Facts) -> State:
    del key
    # A tenth more, since documents differ in length.
    least = min(1.0, 1.1 / facts.max_weight)
    zero = jnp.float32(0.0)
    return State(zero, zero, jnp.float32(max(share, least)))

  def step(state: State, signals: Signals):
    kept_B = jnp.where(signals.key_B < state.share, signals.mass_B, 0.0)
    return State(
      state.kept + jnp.sum(kept_B),
      state.all + jnp.sum(signals.mass_B),
      state.share,
    ), None

  def finalize(state: State) -> SubsetWeights:
    kept = jnp.where(state.kept > 0, state.kept, 1.0)
    total = jnp.where(state.all > 0, state.all, 1.0)
    # 1e-6 of the weight goes to the documents that are left out.
    mean = kept + 1e-6 * (total - kept)
    return SubsetWeights(state.share, jnp.log(total / mean))

  return Method(
    init,
    step,
    finalize,
    frozenset({"mass_B", "key_B"}),
    "pass",
    targeted=False,
  )
