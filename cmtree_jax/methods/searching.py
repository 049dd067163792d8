"""Shared by methods that ask for whole runs: the runs, and what they showed."""

from typing import Any, NamedTuple

import jax
import numpy as np

from cmtree_jax import shapes
from cmtree_jax.methods.base import (
  DomainWeights,
  Facts,
  Signals,
  domain_weights,
)


class Trials(NamedTuple):
  """Runs that a method of the loop `runs` has asked for, and what they showed."""

  mixture_RK: np.ndarray  # rows from `count` on have not run
  size_R: np.ndarray  # int, indices into `Facts.sizes`
  loss_RT: np.ndarray  # bits per byte of each target; NaN before the run
  count: np.ndarray  # int scalar, runs done

  @classmethod
  def plan(
    cls, mixture_RK: np.ndarray, *, num_targets: int, size: int = 0
  ) -> "Trials":
    """Trials of which none has run yet."""
    runs = len(mixture_RK)
    return cls(
      np.asarray(mixture_RK, np.float64),
      np.full(runs, size),
      np.full((runs, num_targets), np.nan),
      np.array(0),
    )

  def pending(self, stop: int | None = None) -> "Trials":
    """Those still to run, up to number `stop`."""
    rows = slice(int(self.count), stop)
    return Trials(
      self.mixture_RK[rows], self.size_R[rows], self.loss_RT[rows], np.array(0)
    )

  def add(self, signals: Signals) -> "Trials":
    """The trials with the result of the next run."""
    loss_RT = self.loss_RT.copy()
    loss_RT[self.count] = signals.target_loss_T
    return self._replace(loss_RT=loss_RT, count=np.asarray(self.count + 1))

  @property
  def mean_loss_R(self) -> np.ndarray:
    """Losses of the runs done, mean over targets."""
    return self.loss_RT[: int(self.count)].mean(axis=1)


class State(NamedTuple):
  """The runs, and what is needed to choose the next ones."""

  trials: Trials
  seed_W: np.ndarray  # the random key, as words
  q_K: np.ndarray  # the domains' shares of the corpus
  max_weight: np.ndarray  # R

  @property
  def cap_K(self) -> np.ndarray:
    """The largest share of each domain."""
    return self.max_weight * self.q_K

  def rng(self, stream: int) -> np.random.Generator:
    """Random numbers that differ from stream to stream."""
    return np.random.default_rng([*self.seed_W, stream])

  def plan(self, mixture_RK: np.ndarray) -> "State":
    """The state with these runs planned."""
    num_targets = self.trials.loss_RT.shape[1]
    return self._replace(
      trials=Trials.plan(mixture_RK, num_targets=num_targets)
    )

  def weights(self, mixture_K: np.ndarray) -> DomainWeights:
    """The weights of a mixture, as far as documents may be repeated."""
    return domain_weights(
      mixture_K, self.q_K, max_weight=float(self.max_weight)
    )


class Info(NamedTuple):
  """What one run showed, in bits per byte."""

  loss: float  # mean over targets
  best_loss: float  # the least so far


def start(key: shapes.Key, facts: Facts) -> State:
  """The state before runs are planned."""
  return State(
    Trials.plan(
      np.zeros((0, facts.num_domains)), num_targets=facts.num_targets
    ),
    np.asarray(jax.random.key_data(key)).ravel(),
    natural(facts),
    np.array(facts.max_weight, np.float64),
  )


def natural(facts: Facts) -> np.ndarray:
  """q, in float64."""
  q_K = np.asarray(facts.domain_mass_K, np.float64)
  return q_K / q_K.sum()


def step(state: Any, signals: Signals) -> tuple[Any, Info]:
  """Adds the result of the next run to any state that has trials."""
  trials = state.trials.add(signals)
  loss_R = trials.mean_loss_R
  return state._replace(trials=trials), Info(loss_R[-1], np.nanmin(loss_R))
