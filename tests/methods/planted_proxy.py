"""Proxies in closed form, for methods that steer the mixture of one."""

import jax
import jax.numpy as jnp
import numpy as np

from cmtree_jax.methods.base import Signals
from tests.methods import world

Q_K = np.array([0.3, 0.25, 0.2, 0.25, 0.0])


def facts(steps):
  """Of the domains of `PlantedProxy`."""
  return world.facts_of(Q_K, steps=steps)


class PlantedProxy:
  """Losses fall with two skills: the target's, and that of domain 3.

  Domain 0 is the target's, 1 is noise, 2 a duplicate of 0, 3 can be learned but does
  not help the target, 4 has no documents.
  """

  def __init__(self, scale=100.0):
    self.scale = scale
    self.skills = np.zeros(2)
    self.kept = None

  def train(self, ask, steps):
    assert not (ask.mark and ask.back)
    if ask.mark:
      self.kept = self.skills.copy()
    if ask.back:
      assert self.kept is not None, "back before any mark"
      self.skills = self.kept.copy()
    p_K = np.asarray(ask.mixture_K)
    of_domains = np.array([p_K[0] + p_K[2], p_K[3]])
    share = float(ask.target_share)
    self.skills += steps * (
      (1 - share) * of_domains + share * np.array([1.0, 0.0])
    )

  def observe(self):
    target, other = 1 + 3 * np.exp(-self.skills / self.scale)
    return Signals(
      loss_K=np.array([target, 5.0, target, other, np.nan]),
      target_loss_T=np.array([target / 2]),
    )


class PlantedGradients:
  """Domains: the target's, noise, a duplicate of the first, and the opposite."""

  def __init__(self):
    self.rng = np.random.default_rng(0)

  def train(self, ask, steps):
    pass

  def observe(self):
    noise_KP = 0.3 * self.rng.normal(size=(4, 8))
    noise_KP[2] = noise_KP[0]
    target_P = np.eye(8)[0]
    return gradients(noise_KP + np.outer([1, 0, 1, -1], target_P), target_P)


def gradients(gradient_KP, target_P):
  """What such gradients of domains and of a target show; states lie as they do."""
  gram_KK = jnp.asarray(gradient_KP @ gradient_KP.T)
  dot_K = jnp.asarray(gradient_KP @ target_P)
  return Signals(
    gram_KK=gram_KK,
    head_gram_KK=gram_KK,
    target_dot_K=dot_K,
    head_dot_K=dot_K,
    target_dot_TK=dot_K[None],
    domain_norm_K=jnp.linalg.norm(gradient_KP, axis=1),
    target_norm_T=jnp.linalg.norm(target_P)[None],
    target_nats_T=jnp.ones(1),
    late_hidden_KRH=jnp.asarray(gradient_KP)[:, None],
    target_late_hidden_TH=jnp.asarray(target_P)[None],
  )


class Compiled:
  """(state, signals) -> (state, info, ask), with a count of its traces."""

  def __init__(self, method):
    self.traces = 0

    @jax.jit
    def step(state, signals):
      self.traces += 1
      state, info = method.step(state, signals)
      return state, info, method.ask(state)

    self.step = step

  def __call__(self, state, signals):
    return self.step(state, signals)


def drive(method, facts, proxy):
  """States, infos and asks of a run as the loop would make it."""
  step = Compiled(method)
  state = method.init(jax.random.key(0), facts)
  states, infos, asks = [state], [], []
  for _ in range(facts.steps // method.every):
    signals = world.declared(method, proxy.observe())
    state, info, ask = step(state, signals)
    assert_mixture(ask.mixture_K, facts)
    proxy.train(ask, method.every)
    states.append(state)
    infos.append(info)
    asks.append(ask)
  assert step.traces == 1
  for state in (states[0], states[-1]):
    assert_mixture(world.recipe(method, state, facts), facts)
  return states, infos, asks


def assert_mixture(mixture_K, facts):
  """Sums to one; nothing from domains without documents."""
  np.testing.assert_allclose(np.sum(mixture_K), 1, rtol=1e-5)
  assert not np.asarray(mixture_K)[facts.domain_mass_K == 0].any()


def recipe(method, state):
  """The mixture that the method hands over."""
  return world.recipe(method, state, facts(0))
