"""A world of closed-form losses, for methods that ask for whole runs."""

from typing import Any

import jax
import numpy as np

from cmtree_jax.methods.base import Facts, Method, Signals

Q = np.array([0.1, 0.4, 0.2, 0.3, 0.0])  # the last domain has no text
TARGET, NOISE, COPY, NEUTRAL, EMPTY = range(5)


def facts(max_weight: float = 20.0, **more: Any) -> Facts:
  """Two targets, five domains."""
  sample = np.ones((4, 2)), np.full(4, 0.25)
  return Facts(
    max_weight,
    10.0,
    *sample,
    *sample,
    domain_mass_K=Q,
    target_domain_TK=np.tile(Q, (2, 1)),
    **more,
  )


def loss(mixture_K: np.ndarray) -> np.ndarray:
  """Domain 0 is the target's, 2 its duplicate; 1 is noise, which only harms."""
  useful = mixture_K[TARGET] + mixture_K[COPY]
  first = 1 + np.exp(-2 * useful) + 0.3 * mixture_K[NOISE]
  return np.array([first, 2 * first])


def drive(method: Method, state: Any, stop: int = 10_000):
  """(state, mixtures that ran, infos) after the loop has obeyed every ask."""
  ran, infos = [], []
  while len(ran) < stop and len(method.ask(state).mixture_RK):
    mixture_K = method.ask(state).mixture_RK[0]
    signals = Signals(mixture_K=mixture_K, target_loss_T=loss(mixture_K))
    state, info = method.step(state, signals)
    ran.append(mixture_K)
    infos.append(info)
  return state, np.array(ran), infos


def mixture(method: Method, state: Any) -> np.ndarray:
  """p of the domains, from the weights that the method hands over."""
  log_w_K = method.finalize(state).log_w(Signals(domain_B=np.arange(len(Q))))
  return Q * np.exp(np.asarray(log_w_K, np.float64))


def assert_same_structure(one: Any, two: Any) -> None:
  """What a checkpoint needs: the same tree of arrays, shapes and types."""
  assert jax.tree.structure(one) == jax.tree.structure(two)
  for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True):
    assert isinstance(a, np.ndarray) and a.shape == b.shape
    assert a.dtype == b.dtype
