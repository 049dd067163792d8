"""A world without models: documents have a planted value, and proxies only count.

The loss of a proxy is what it last trained on: a constant less the mean value of
those tokens. So weights that draw more of what is valued lower the loss, and a
value field that a search measures can be held against the planted one.
"""

import functools
from typing import Any, NamedTuple

import jax
import numpy as np

from cmtree_jax.bilevel.problem import Inner
from cmtree_jax.proxy import engine as engines
from tests import toy

GROUPS, SIZE, TARGETS = 4, 12, 8
START = 3.0  # loss of a proxy that has not trained
HARDER = (
  0.01  # every document of the target costs so much more than the one before
)
DRIFT = 0.1
GROUP_N = np.repeat(np.arange(GROUPS), SIZE)


class Call(NamedTuple):
  """One call of the engine by the loop."""

  name: str
  ages: np.ndarray  # of the members, before it
  births: np.ndarray  # a number for the key that each was born of
  which: np.ndarray  # members that it is about
  shapes: Any  # of all that followed phi or params


def features() -> np.ndarray:
  """Groups are apart; a document's place within its group says nothing."""
  rng = np.random.default_rng(1)
  return (
    np.eye(GROUPS)[GROUP_N] + 0.1 * rng.normal(size=(len(GROUP_N), GROUPS))
  ).astype(np.float32)


def values() -> np.ndarray:
  """Group 0 is worth most, and documents of one group differ a little."""
  rng = np.random.default_rng(2)
  return np.array([0.3, 0.0, -0.1, -0.2])[GROUP_N] + 0.02 * rng.normal(
    size=len(GROUP_N)
  )


@functools.cache
def corpus() -> toy.Corpus:
  """Documents of one to three rows; the target says nothing of the groups."""
  rng = np.random.default_rng(0)
  texts = [rng.integers(1, toy.V, rng.integers(5, 20)) for _ in GROUP_N]
  goal = [rng.integers(1, toy.V, 12) for _ in range(TARGETS)]
  built = toy.build(texts, GROUP_N, goal, target_K=[1 / GROUPS] * GROUPS)
  all_NE, mass_N = features(), built.world.mass_N.astype(np.float32)
  facts = built.facts._replace(
    max_weight=4.0,
    sample_NE=all_NE,
    sample_mass_N=mass_N,
    target_NE=all_NE,
    target_mass_N=mass_N,
    held_out_NE=all_NE,
    held_out_mass_N=mass_N,
  )
  world = built.world._replace(embedding_NE=features())
  return built._replace(world=world, facts=facts)


class Proxies:
  """The engine, and what was called of it."""

  def __init__(self, *, lies: bool = False):
    """`lies`: the validation loss rises with what values say lowers it."""
    self.calls: list[Call] = []
    self._sign = -1.0 if lies else 1.0
    self._value_N = values()
    # What is left of the real one, no search reads.
    self.engine = toy.engine()._replace(
      init=_born,
      reset=self._reset,
      train=self._train,
      unroll=self._unroll,
      cooled=self._cooled,
      probe=self._probe,
      weighted_nats=self._weighted_nats,
    )

  def asked(self, name: str) -> list[Call]:
    """The calls of one function."""
    return [call for call in self.calls if call.name == name]

  def _note(self, name, params, *others, which=True):
    ages = params["age"]
    which = np.broadcast_to(which, ages.shape)
    shapes = jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), others
    )
    self.calls.append(Call(name, ages, params["birth"], which, shapes))

  def _reset(self, phi, keys, which):
    self._note("reset", phi.params, keys, which=which)
    new = _born(keys)
    return jax.tree.map(lambda a, b: np.where(which, b, a), phi, new)

  def _train(self, phi, batches, weight, which):
    self._note("train", phi.params, batches, weight, which, which=which)
    params = self._after(phi.params, batches, weight)
    params = jax.tree.map(
      lambda new, old: np.where(which, new, old), params, phi.params
    )
    return Inner(params, ()), np.zeros(weight.shape[:2])

  def _cooled(self, phi, batches, weight):
    self._note("cooled", phi.params, batches, weight)
    return self._after(phi.params, batches, weight)

  def _after(self, params, batches, weight):
    """A proxy is as good as what it last trained on."""
    value = weight * self._value_N[batches.document_BT]
    mean = value.sum(axis=(1, 2, 3)) / weight.sum(axis=(1, 2, 3))
    steps = np.full_like(params["age"], weight.shape[1])
    return dict(params, age=params["age"] + steps, good=mean)

  def _unroll(self, phi, batches, weight, outer):
    """Values but for a constant that differs from proxy to proxy and moment."""
    self._note("unroll", phi.params, batches, weight, outer)
    drift_P = DRIFT * np.sin(phi.params["age"] + 2.0 * np.arange(len(weight)))
    good_P = self._after(phi.params, batches, weight)["good"]
    targets, target_weight = outer
    loss = START + HARDER * targets.document_BT - good_P[:, None, None, None]
    return engines.Unroll(
      np.sum(target_weight * loss, axis=(1, 2, 3)),
      self._see(batches, drift_P),
      {"drift": drift_P},
    )

  def _probe(self, params, adjoint, batches):
    self._note("probe", params, adjoint, batches)
    return self._see(batches, adjoint["drift"])

  def _see(self, batches, drift_P):
    """[P, S, B, T]: every token has the value of its document."""
    return self._value_N[batches.document_BT] + drift_P[:, None, None, None]

  def _weighted_nats(self, params, weighted):
    self._note("weighted_nats", params, weighted)
    return START - self._sign * params["good"]


def _born(keys):
  birth = np.asarray(jax.random.key_data(keys))[:, -1].astype(np.int64)
  zeros = np.zeros(len(birth))
  return Inner({"age": zeros.astype(int), "birth": birth, "good": zeros}, ())
