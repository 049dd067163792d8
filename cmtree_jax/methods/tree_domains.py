"""`cmtree` on domains that are given: the same learner, and nothing but tilts to learn.

A document's features are those of its domain alone, one in the domain's place. A
tree of one level whose prototypes are these places has the domains for leaves. What
stands for the corpus is one document per domain, of the domain's mass: exact.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cmtree_jax import shapes
from cmtree_jax.methods.base import DomainWeights, Facts, Method, Signals
from cmtree_jax.tree import model, warm_start

# Sharpness. Gumbel noise among 1e8 draws stays below 22 and above -3, and so a
# document is in its own domain to e^-75, however noisy the step.
_KAPPA = 100.0


class State(NamedTuple):
  """What the next round needs."""

  tree: Any  # of the wrapped method
  domain_mass_K: shapes.FloatK


def of_domains(tree: Method) -> Method:
  """The method that gives a tree's learner domains for documents.

  Args:
    tree: reads features; its `init` starts from `start`.
  """

  def init(key: shapes.Key, facts: Facts) -> State:
    every_KK = np.eye(facts.num_domains, dtype=np.float32)
    mass_K = np.asarray(facts.domain_mass_K, np.float32)
    target_K = np.mean(facts.target_domain_TK, axis=0, dtype=np.float64)
    facts = facts._replace(
      sample_NE=every_KK,
      sample_mass_N=mass_K,
      target_NE=every_KK,
      target_mass_N=np.asarray(target_K, np.float32),
    )
    return State(tree.init(key, facts), jnp.asarray(mass_K))

  def step(state: State, signals: Signals):
    num_domains = state.domain_mass_K.shape[0]
    inner, info = tree.step(
      state.tree,
      signals._replace(
        embedding_BE=jax.nn.one_hot(signals.domain_B, num_domains),
        sample_NE=jnp.eye(num_domains),
        sample_mass_N=state.domain_mass_K,
      ),
    )
    return State(inner, state.domain_mass_K), info

  def judge(state: State, gain: shapes.Scalar) -> State:
    return State(tree.judge(state.tree, gain), state.domain_mass_K)

  def finalize(state: State) -> DomainWeights:
    return DomainWeights(state.tree.log_w_L)

  signals = {"mass_B", "domain_B", "value_B", "log_proposal_B"}
  return Method(init, step, finalize, frozenset(signals), "values", judge)


def start(facts: Facts) -> model.Theta:
  """One leaf per domain, tilted by similarity to the targets."""
  num_domains = facts.num_domains
  level = model.Level(
    angle_PE=jnp.eye(num_domains),
    prototype_MCP=jnp.eye(num_domains)[None],
    log_kappa=jnp.log(jnp.float32(_KAPPA)),
    tilt_MC=jnp.zeros((1, num_domains)),
  )
  return warm_start.with_similarity_tilts(
    (level,),
    facts.sample_NE,
    facts.sample_mass_N,
    facts.target_NE,
    facts.target_mass_N,
  )
