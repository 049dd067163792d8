"""A world without models: documents have a planted value, and proxies only count.

There are two targets, and a document's value is another one to each. The loss of a
proxy is what it last trained on: a constant less the mean value of those tokens. So
weights that draw more of what is valued lower the loss, and a value field that a
search measures can be held against the planted one.
"""

import functools
from typing import Any, NamedTuple

import jax
import numpy as np

from cmtree_jax.bilevel.problem import Inner
from cmtree_jax.proxy import engine as engines
from tests import toy

GROUPS, SIZE, TARGETS = 4, 12, 8
PROXIES = 4
NAMES = ("near", "far")  # every second document of the targets is of one
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
  """Group 0 is worth most, and documents of one group differ a little.

  Returns:
    [documents, targets]; the first target gains more by the same step.
  """
  rng = np.random.default_rng(2)
  mean_N = np.array([0.3, 0.0, -0.1, -0.2])[GROUP_N] + 0.02 * rng.normal(
    size=len(GROUP_N)
  )
  more_N = np.array([0.2, 0.0, 0.0, -0.1])[GROUP_N]
  return np.stack([mean_N + more_N, mean_N - more_N], axis=1)


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
    target_of_N=np.arange(len(all_NE)) % 2,
    held_out_NE=all_NE,
    held_out_mass_N=mass_N,
    held_out_of_N=np.arange(len(all_NE)) % 2,
    target_domain_TK=np.tile(built.facts.target_domain_TK, (2, 1)),
    num_proxies=PROXIES,
  )
  world = built.world._replace(
    embedding_NE=features(),
    target_names=NAMES,
    target_of_N=np.arange(TARGETS) % 2,
  )
  return built._replace(world=world, facts=facts)


class Proxies:
  """The engine, and what was called of it."""

  def __init__(self, *, lies: bool = False, quarrel: bool = False):
    """What goes wrong.

    Args:
      lies: the validation loss rises with what values say lowers it.
      quarrel: what is worth something to one proxy costs the next as much.
    """
    self.calls: list[Call] = []
    self._sign = -1.0 if lies else 1.0
    self._quarrel = quarrel
    self._value_NT = values()
    # What is left of the real one, no search reads.
    self.engine = toy.engine()._replace(
      init=_born,
      reset=self._reset,
      train=self._train,
      unroll=self._unroll,
      cooled=self._cooled,
      probe=self._probe,
      losses=self._losses,
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
    return _where(which, _born(keys), phi)

  def _train(self, phi, batches, weight, which):
    self._note("train", phi.params, batches, weight, which, which=which)
    params = self._after(phi.params, batches, weight)
    params = _where(which, params, phi.params)
    return Inner(params, ()), np.zeros(weight.shape[:2])

  def _cooled(self, phi, batches, weight):
    self._note("cooled", phi.params, batches, weight)
    return self._after(phi.params, batches, weight)

  def _after(self, params, batches, weight):
    """A proxy is as good as what it last trained on."""
    value = weight[..., None] * self._value_NT[batches.document_BT]
    mean_PT = value.sum(axis=(1, 2, 3)) / weight.sum(axis=(1, 2, 3))[:, None]
    steps = np.full_like(params["age"], weight.shape[1])
    return dict(params, age=params["age"] + steps, good=mean_PT)

  def _unroll(self, phi, batches, weight, outer):
    """Values but for a constant that differs from proxy to proxy and moment."""
    self._note("unroll", phi.params, batches, weight, outer)
    members = np.arange(len(weight))
    drift_P = DRIFT * np.sin(phi.params["age"] + 2.0 * members)
    good_PT = self._after(phi.params, batches, weight)["good"]
    targets, target_weight = outer
    (target,) = set((targets.document_BT % 2).ravel().tolist())
    good_P = good_PT[:, target]
    loss = START + HARDER * targets.document_BT - good_P[:, None, None, None]
    adjoint = {"drift": drift_P, "target": np.array(target)}
    return engines.Unroll(
      np.sum(target_weight * loss, axis=(1, 2, 3)),
      self._see(batches, adjoint),
      adjoint,
    )

  def _probe(self, params, adjoint, batches):
    self._note("probe", params, adjoint, batches)
    return self._see(batches, adjoint)

  def _see(self, batches, adjoint):
    """[P, S, B, T]: every token has the value of its document."""
    value = self._value_NT[batches.document_BT, adjoint["target"]]
    if self._quarrel:
      value[1::2] *= -1
    return value + adjoint["drift"][:, None, None, None]

  def _losses(self, params, batches):
    self._note("losses", params, batches)
    return START - self._sign * params["good"][:, batches.document_BT % 2]


def _born(keys):
  birth = np.asarray(jax.random.key_data(keys))[:, -1].astype(np.int64)
  params = {
    "age": np.zeros(len(birth), int),
    "birth": birth,
    "good": np.zeros((len(birth), 2)),
  }
  return Inner(params, ())


def _where(which_P, new, old):
  """Those of some members from one tree, the others from another."""

  def choose(a, b):
    return np.where(which_P.reshape(-1, *(1,) * (np.ndim(a) - 1)), a, b)

  return jax.tree.map(choose, new, old)
