"""A proxy in closed form that methods of the loop `domains` can steer.

Domain 0 is the target's, 1 is noise, 2 a duplicate of 0, 3 can be learned but does
not help the target, 4 has no documents.
"""

import jax
import jax.numpy as jnp
import numpy as np

from cmtree_jax.methods.base import Facts, Signals

Q_K = np.array([0.3, 0.25, 0.2, 0.25, 0.0])


def facts(steps, q_K=Q_K, targets=1, max_weight=100.0):
  """What the methods know; features are not read."""
  count = len(q_K)
  return Facts(
    max_weight=max_weight,
    horizon=1.0,
    sample_NE=np.zeros((1, 1)),
    sample_mass_N=np.ones(1),
    target_NE=np.zeros((1, 1)),
    target_mass_N=np.ones(1),
    domain_mass_K=np.asarray(q_K),
    target_domain_TK=np.full((targets, count), 1 / count),
    steps=steps,
  )


class PlantedProxy:
  """Two skills that losses fall with: the target's, and that of domain 3."""

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


def compiled(method):
  """(state, signals) -> (state, info, ask)."""

  @jax.jit
  def step(state, signals):
    state, info = method.step(state, signals)
    return state, info, method.ask(state)

  return step


def drive(method, facts, proxy, key=0):
  """States, infos and asks of a run as the loop would make it."""
  step = compiled(method)
  state = method.init(jax.random.key(key), facts)
  states, infos, asks = [state], [], []
  for _ in range(facts.steps // method.every):
    observed = proxy.observe()
    signals = Signals(
      **{
        name: value
        for name, value in observed._asdict().items()
        if name in method.signals
      }
    )
    state, info, ask = step(state, signals)
    np.testing.assert_allclose(ask.mixture_K.sum(), 1, rtol=1e-5)
    empty_K = np.asarray(facts.domain_mass_K) == 0
    assert not np.asarray(ask.mixture_K)[empty_K].any()
    proxy.train(ask, method.every)
    states.append(state)
    infos.append(info)
    asks.append(ask)
  assert step._cache_size() == 1
  return states, infos, asks


def recipe(method, state, q_K=Q_K):
  """The mixture that a method hands over."""
  weights = method.finalize(state)
  return np.asarray(q_K) * np.exp(np.asarray(weights.log_w_K, np.float64))


def assert_obeys_the_interface(method):
  """A step keeps structure and types; `finalize` is legal before and after it."""
  known = facts(40 * method.every)
  state = method.init(jax.random.key(0), known)
  shown = {"loss_K": (3, 5), "target_loss_T": (3, 1)}
  signals_S = Signals(
    **{
      name: jnp.ones(shape)
      for name, shape in shown.items()
      if name in method.signals
    }
  )

  def body(state, signals):
    state, info = method.step(state, signals)
    return state, (info, method.ask(state))

  # Traced only: scan refuses a state that changes its structure or types.
  jax.eval_shape(
    lambda state, signals_S: jax.lax.scan(body, state, signals_S),
    state,
    signals_S,
  )
  signals = jax.tree.map(lambda x: x[0], signals_S)
  step = compiled(method)
  for _ in range(2):
    mixture_K = recipe(method, state)
    np.testing.assert_allclose(mixture_K.sum(), 1, rtol=1e-5)
    assert mixture_K[4] == 0
    state, *_ = step(state, signals)
  assert step._cache_size() == 1
