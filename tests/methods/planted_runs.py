"""A world of closed-form losses, for methods that ask for whole runs."""

import numpy as np

from cmtree_jax.methods.base import Signals
from tests.methods import world

Q = np.array([0.1, 0.4, 0.2, 0.3, 0.0])  # the last domain has no text
TARGET, NOISE, COPY, NEUTRAL, EMPTY = range(5)
CURVE_STEPS = (10, 20, 40, 60, 80, 100)
SIZES, FINAL_SIZE = (100, 200, 400, 800), 6400


def facts(max_weight=20.0, **more):
  """Two targets, five domains."""
  return world.facts_of(
    Q,
    np.tile([0.6, 0.0, 0.3, 0.1, 0.0], (2, 1)),
    max_weight=max_weight,
    steps=100,
    final_steps=1000,
    curve_steps=CURVE_STEPS,
    **more,
  )


def loss_T(mixture_K: np.ndarray) -> np.ndarray:
  """The target's domain and its duplicate help alike, noise harms."""
  useful = mixture_K[TARGET] + mixture_K[COPY]
  one = 1 + np.exp(-2 * useful + 0.5 * mixture_K[NOISE])
  return np.array([one, 2 * one])


def loss_K(mixture_K: np.ndarray) -> np.ndarray:
  """Each domain's own loss falls with its share; copies help each other."""
  share_K = mixture_K.copy()
  share_K[[TARGET, COPY]] = mixture_K[TARGET] + mixture_K[COPY]
  return np.where(Q > 0, 1 + np.exp(-2 * share_K), np.nan)


def constant_curve(mixture_K, size):
  """[C, T] of a proxy that has learned all after its first steps."""
  del size
  return np.tile(loss_T(mixture_K), (len(CURVE_STEPS), 1))


def drive(method, state, *, curve=constant_curve, stop=10_000):
  """(state, mixtures that ran, infos) after the loop has obeyed every ask."""
  ran, infos = [], []
  while len(ran) < stop and len(method.ask(state).mixture_RK):
    trial = method.ask(state)
    mixture_K, size = trial.mixture_RK[0], int(trial.size_R[0])
    curve_CT = curve(mixture_K, size)
    signals = Signals(
      mixture_K=mixture_K,
      loss_K=loss_K(mixture_K),
      target_loss_T=curve_CT[-1],
      curve_CT=curve_CT,
      size=size,
    )
    state, info = method.step(state, world.declared(method, signals))
    ran.append(mixture_K)
    infos.append(info)
  return state, np.array(ran), infos


def recipe(method, state):
  """The mixture that the method hands over."""
  return world.recipe(method, state, facts())
