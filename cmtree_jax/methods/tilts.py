"""Tilts: the tree's learner on domains that are given, whose mixture alone it learns.

It tells what the labelled sources, or frozen clusters, are worth when their mixture
is learned from the same values and by the same proximal steps as the tree's.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from cmtree_jax import shapes
from cmtree_jax.methods import valuing
from cmtree_jax.methods.base import (
  DomainWeights,
  Facts,
  Method,
  Planted,
  Signals,
  Small,
)
from cmtree_jax.tree import learner, mixture, model
from cmtree_jax.tree.evidence import Leaves
from cmtree_jax.tree.learner import Step
from cmtree_jax.tree.mixture import Sample
from cmtree_jax.tree.replay import Replay


class State(NamedTuple):
  """What the next round needs."""

  learner: learner.State  # its theta is tilt_K
  domain_mass_K: shapes.FloatK


SMALL = Small()
PLANTED = Planted(dict(trust=0.2, solver_steps=30, replay=Replay(size=80)))


def make(
  *,
  trust: float = Step.trust,
  kl_penalty: float = Step.kl_penalty,
  tilt_rate: float = Step.tilt_rate,
  solver_steps: int = Step.solver_steps,
  replay: Replay = Replay(),
) -> Method:
  r"""Learns the mixture of given domains from the values of documents.

  Round r solves, from the current tilts :math:`m_r` and by Adam,

  .. math:: m_{r+1} = \arg\max_m \;
            H\,\mathbb{E}_i\left[v_i \frac{u(w_{k(i)}(m)) - u(w_{i0})}{u'(w_{i0})}
            \right] - \beta\, \mathrm{KL}(w(m) \Vert w(m_r))
            - \lambda\, \mathrm{KL}(w(m) \Vert 1), \quad
            w_k(m) = \min(R, c\, e^{m_k})

  with k(i) the domain of document i; all else is as in `cmtree`. The tilts start
  from similarity to the targets, as CRISP's, but each target is capped by itself.

  Args:
    trust: nats that the first step moves.
    kl_penalty: :math:`\lambda` in units of the outer loss per nat.
    tilt_rate: Adam's learning rate.
    solver_steps: Adam steps per round.
    replay: which values it learns from.
  Returns:
    A Method of the loop `values` that weighs domains.
  Cost:
    As `cmtree`'s: per round, proxy and target, one hypergradient through
    `values.unroll` steps and `values.probe_rows` probed rows; per step that is
    taken, `values.lookahead` steps twice of every second proxy.
  References:
    Values: Gu et al., `PDS <https://arxiv.org/abs/2410.07064>`_, 2024; start:
    Grangier et al., `CRISP <https://arxiv.org/abs/2410.03735>`_, 2024.
  """
  step = Step(
    trust=trust,
    kl_penalty=kl_penalty,
    tilt_rate=tilt_rate,
    solver_steps=solver_steps,
  )
  plan = learner.Plan(_LEAVES, optax.adam(tilt_rate), step, replay)
  return Method(
    init=functools.partial(_init, plan=plan),
    step=functools.partial(_step, plan=plan),
    finalize=lambda state: DomainWeights(state.learner.log_w_L),
    signals=valuing.SIGNALS | {"domain_B"},
    loop="values",
    undo=lambda state: state._replace(learner=learner.undo(state.learner)),
  )


def _init(key: shapes.Key, facts: Facts, *, plan: learner.Plan) -> State:
  q_K = jnp.asarray(facts.domain_mass_K, jnp.float32)
  target_TK = jnp.asarray(facts.target_domain_TK, jnp.float32)
  # A thousandth of the natural mixture keeps domains that a target does not have.
  target_TK = (1 - 1e-3) * target_TK + 1e-3 * q_K
  log_q_K = jnp.log(q_K + 1e-9)
  log_w_TK = jax.vmap(
    functools.partial(
      mixture.leaf_log_w, log_q_L=log_q_K, max_weight=facts.max_weight
    )
  )(jnp.log(target_TK + 1e-9) - log_q_K)
  # As a tree's: each target is capped by itself, and the weights' mean is taken.
  tilt_K = jax.nn.logsumexp(log_w_TK, axis=0) - jnp.log(len(target_TK))
  return State(valuing.start(key, tilt_K, _corpus(q_K), plan, facts), q_K)


def _step(
  state: State, signals: Signals, *, plan: learner.Plan
) -> tuple[State, learner.Info]:
  domain_B = jnp.asarray(signals.domain_B, jnp.int32)
  corpus = _corpus(state.domain_mass_K)
  stepped, info = valuing.step(state.learner, signals, domain_B, corpus, plan)
  return State(stepped, state.domain_mass_K), info


def _corpus(domain_mass_K: shapes.FloatK) -> Sample:
  """One document per domain, of the domain's mass: exact, not a sample."""
  num_domains = domain_mass_K.shape[0]
  return Sample(jnp.arange(num_domains, dtype=jnp.int32), domain_mass_K)


def _place(tilt_K, domain_B, temperature=1.0, key=None):
  """A document is in its own domain, however noisy the step."""
  del temperature, key
  own_BK = jax.nn.one_hot(domain_B, tilt_K.shape[0])
  return model.Placed(_ELSEWHERE * (1 - own_BK))


# Log-probability of other domains: zero beside one in float32, and it has
# derivatives, also where a domain is empty; minus infinity has none.
_ELSEWHERE = -100.0

_LEAVES = Leaves(
  place=_place,
  tilt=lambda tilt_K: tilt_K,
  overlap=lambda tilt_K: jnp.zeros(()),
  score_norm=lambda tilt_K: jnp.zeros(()),
)
