"""Runs a method of the loop `domains` on observations that are made up."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cmtree_jax.methods.base import Facts, Method, Signals


def facts(mass_K, target_TK=None, *, max_weight=100.0, steps=150) -> Facts:
  """Of domains with these masses; targets are spread like the corpus if None."""
  mass_K = np.asarray(mass_K, np.float32)
  target_TK = mass_K[None] if target_TK is None else target_TK
  return Facts(
    max_weight=max_weight,
    horizon=10.0,
    sample_NE=np.zeros((1, 1), np.float32),
    sample_mass_N=np.ones(1, np.float32),
    target_NE=np.zeros((1, 1), np.float32),
    target_mass_N=np.ones(1, np.float32),
    domain_mass_K=mass_K,
    target_domain_TK=np.asarray(target_TK, np.float32),
    steps=steps,
  )


def run(method: Method, facts: Facts, show, world: Any, *, count: int):
  """(state, mixtures asked for [count, K]) after observations of a world.

  Args:
    method: in the loop `domains`; only what it declares reaches it.
    facts: of the run.
    show: (world, key) -> Signals, and (world, mixture_K) -> world is its second
      part: what training on a mixture does.
    world: at the start.
    count: observations.
  """
  see, train = show

  def observe(carry, key):
    state, world = carry
    signals = see(world, key)
    hidden = set(signals._fields) - method.signals
    signals = signals._replace(**dict.fromkeys(hidden))
    state, _ = method.step(state, signals)
    mixture_K = method.ask(state).mixture_K
    return (state, train(world, mixture_K)), mixture_K

  @jax.jit
  def go(state, world, keys):
    return jax.lax.scan(observe, (state, world), keys)

  state = method.init(jax.random.key(0), facts)
  keys = jax.random.split(jax.random.key(1), count)
  (state, _), mixture_SK = go(state, world, keys)
  return state, np.asarray(mixture_SK)


def recipe(method: Method, state, facts: Facts) -> np.ndarray:
  """The mixture of the weights that the method hands over."""
  every_B = Signals(domain_B=np.arange(facts.num_domains))
  log_w_K = np.asarray(method.finalize(state).log_w(every_B), np.float64)
  assert np.isfinite(log_w_K).all()
  return np.asarray(facts.domain_mass_K) * np.exp(log_w_K)


def gradients(gradient_KP, target_P=None) -> dict[str, jax.Array]:
  """The signals that such gradients of domains and of a target give."""
  gram_KK = jnp.asarray(gradient_KP) @ jnp.asarray(gradient_KP).T
  signals = {"gram_KK": gram_KK, "head_gram_KK": gram_KK}
  if target_P is not None:
    signals["target_dot_K"] = jnp.asarray(gradient_KP) @ jnp.asarray(target_P)
  return signals
