"""A world of closed-form losses for methods that fit laws to whole runs."""

from typing import Any

import jax
import numpy as np

from cmtree_jax.methods.base import Facts, Method, Signals

Q = np.array([0.1, 0.4, 0.2, 0.3, 0.0])  # the last domain has no text
TARGET, NOISE, COPY, NEUTRAL, EMPTY = range(5)
CURVE_STEPS = (10, 20, 40, 60, 80, 100)
SIZES, FINAL_SIZE = (100, 200, 400, 800), 6400


def facts(max_weight: float = 20.0, **more: Any) -> Facts:
  """Two targets; five domains."""
  sample = np.ones((4, 2)), np.full(4, 0.25)
  return Facts(
    max_weight,
    10.0,
    *sample,
    *sample,
    domain_mass_K=Q,
    target_domain_TK=np.tile([0.6, 0.0, 0.3, 0.1, 0.0], (2, 1)),
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


def drive(method: Method, state: Any, losses=None, stop: int = 10_000):
  """The state after the loop has run what is asked for, and the infos."""
  infos = []
  while len(infos) < stop and len(method.ask(state).mixture_RK):
    trial = method.ask(state)
    mixture_K, size = trial.mixture_RK[0], int(trial.size_R[0])
    curve_CT = (losses or constant_curve)(mixture_K, size)
    state, info = method.step(
      state,
      Signals(
        mixture_K=mixture_K,
        loss_K=loss_K(mixture_K),
        target_loss_T=curve_CT[-1],
        curve_CT=curve_CT,
        size=size,
      ),
    )
    infos.append(info)
  return state, infos


def constant_curve(mixture_K, size):
  """[C, T] of a proxy that has learned all after its first steps."""
  del size
  return np.tile(loss_T(mixture_K), (len(CURVE_STEPS), 1))


def mixture(method: Method, state: Any) -> np.ndarray:
  """p of the domains, from the weights that the method hands over."""
  log_w_K = method.finalize(state).log_w(Signals(domain_B=np.arange(len(Q))))
  return Q * np.exp(np.asarray(log_w_K, np.float64))


def assert_same_structure(one: Any, two: Any) -> None:
  """What a checkpoint needs: the same tree of arrays, shapes and types."""
  assert jax.tree.structure(one) == jax.tree.structure(two)
  for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True):
    assert isinstance(a, np.ndarray) and a.shape == b.shape and a.size
    assert a.dtype == b.dtype
