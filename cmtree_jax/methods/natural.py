"""Natural: every document weighs the same; every recipe is compared with it."""

from typing import NamedTuple

from cmtree_jax.methods.base import (
  EqualWeights,
  Method,
  Planted,
  Small,
)


class State(NamedTuple):
  """Nothing is learned."""


SMALL = Small()
PLANTED = Planted()


def make() -> Method:
  r"""Every document has weight one, so each is drawn once per epoch.

  .. math:: w_i = 1

  Returns:
    A Method that reads nothing but the documents' masses.

  >>> import jax.numpy as jnp
  >>> from cmtree_jax.methods.base import Signals
  >>> method = make()
  >>> method.finalize(State()).log_w(Signals(mass_B=jnp.ones(2))).tolist()
  [0.0, 0.0]
  """

  return Method(
    init=lambda key, facts: State(),
    step=lambda state, signals: (state, None),
    finalize=lambda state: EqualWeights(),
    signals=frozenset({"mass_B"}),
    loop="none",
    targeted=False,
  )
