"""The natural mixture: the control that every recipe is compared with."""

from typing import NamedTuple

from cmtree_jax.methods.base import EqualWeights, Facts, Method, Signals


class State(NamedTuple):
  """Nothing is learned."""


def make() -> Method:
  r"""Every document has weight one, so each is drawn once per epoch.

  .. math:: w_i = 1

  Returns:
    A Method that reads nothing but the documents' masses.

  >>> import jax.numpy as jnp
  >>> method = make()
  >>> method.finalize(State()).log_w(Signals(mass_B=jnp.ones(2))).tolist()
  [0.0, 0.0]
  """

  def init(key, facts: Facts) -> State:
    del key, facts
    return State()

  def step(state: State, signals: Signals):
    del signals
    return state, None

  def finalize(state: State) -> EqualWeights:
    del state
    return EqualWeights()

  return Method(init, step, finalize, frozenset({"mass_B"}), "pass")
