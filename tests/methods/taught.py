"""A proxy in closed form of which one skill can be learned only after another one."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cmtree_jax.methods.base import Documents, Facts, Signals
from tests.methods import world

# What a domain's text is of: the first skill, the second one that needs the first,
# nothing, and a skill that the target does not ask for.
FIRST, SECOND, NOISE, OTHER = range(4)
RATE = 0.04  # at which a skill is learned by a step on nothing else
# Where texts lie; those of the target lie between the first two.
PLACE_KE = np.array([[1.0, 0.3], [1, -0.3], [-1, 0.5], [-1, -0.5]])


def facts(mass_K, of_K, steps, *, max_weight=100.0) -> Facts:
  """Of domains that hold one document each.

  Args:
    mass_K: their shares.
    of_K: what each is of.
    steps: of a search.
    max_weight: of a domain.
  """
  domains = np.arange(len(of_K))
  pool = Documents(
    np.arange(len(of_K), dtype=np.uint64),
    np.asarray(mass_K),
    PLACE_KE[list(of_K)],
    domains,
  )
  goal = Documents(
    np.zeros(1, np.uint64), np.ones(1), PLACE_KE[:2].mean(axis=0)[None]
  )
  return world.facts_of(
    mass_K,
    np.eye(len(of_K))[:1],
    steps=steps,
    max_weight=max_weight,
    pool=pool,
    train=(goal,),
  )


@functools.partial(jax.jit, static_argnames="steps")
def after(skill_S, mixture_K, of_KS, sequel, *, steps: int):
  """Skills after steps on a mixture.

  Args:
    skill_S: before.
    mixture_K: shares.
    of_KS: which skill each domain is of.
    sequel: whether the second skill needs the first.
    steps: of training.
  """

  def step(skill_S, _):
    share_S = mixture_K @ of_KS
    ease_S = (
      jnp.ones(4).at[SECOND].set(jnp.where(sequel, skill_S[FIRST] ** 3, 1.0))
    )
    ease_S = ease_S.at[NOISE].set(0.0)
    return skill_S + RATE * share_S * ease_S * (1 - skill_S), None

  return jax.lax.scan(step, skill_S, length=steps)[0]


def target_loss(skill_S):
  """Of texts that ask for the first two skills."""
  return 2.5 - skill_S[FIRST] - skill_S[SECOND]


@functools.partial(jax.jit, static_argnames="steps")
def _gain(skill_S, log_K, of_KS, sequel, *, steps):
  def fall(log_K):
    return -target_loss(
      after(skill_S, jnp.exp(log_K), of_KS, sequel, steps=steps)
    )

  gain_K = jax.grad(fall)(log_K)
  # Weights of a step count by their shares alone.
  return gain_K - jnp.exp(log_K) * gain_K.sum()


class Taught:
  """Shows losses, and what shares are worth, with noise on both."""

  def __init__(self, of_K, *, sequel=True, noise=0.0, seed=0):
    self.of_KS = np.eye(4)[list(of_K)]
    self.sequel, self.noise = sequel, noise
    self.rng = np.random.default_rng(seed)
    self.skill_S: Any = np.zeros(4)
    self.gain_K = np.zeros(len(of_K))

  def train(self, ask, steps):
    """As the loop does."""
    if ask.fresh:
      self.skill_S = np.zeros(4)
    p_K = np.asarray(ask.mixture_K, np.float64)
    self.gain_K = np.zeros(len(p_K))
    if ask.valued:
      log_K = np.log(np.maximum(p_K, 1e-12))
      gain_K = _gain(self.skill_S, log_K, self.of_KS, self.sequel, steps=steps)
      gain_K = np.asarray(gain_K, np.float64)
      blur_K = self.rng.normal(size=len(p_K)) * np.sqrt(p_K)
      blur_K *= self.noise * np.abs(gain_K).sum()
      self.gain_K = gain_K + blur_K - p_K * blur_K.sum()
    self.skill_S = after(
      self.skill_S, p_K, self.of_KS, self.sequel, steps=steps
    )

  def observe(self):
    """Losses with noise of a hundredth."""
    skill_S = np.asarray(self.skill_S, np.float64)
    loss_K = 4 - 3 * self.of_KS @ (skill_S * (np.arange(4) != NOISE))
    loss_K = loss_K * (1 + 0.1 * self.noise * self.rng.normal(size=len(loss_K)))
    return Signals(
      loss_K=jnp.asarray(loss_K, jnp.float32),
      target_loss_T=jnp.asarray(target_loss(skill_S), jnp.float32)[None],
      share_gain_K=jnp.asarray(self.gain_K, jnp.float32),
    )
