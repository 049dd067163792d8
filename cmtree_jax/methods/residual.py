r"""A tree on top of a scorer of documents: what values add to what texts alone tell.

Shared by `cmtree` with all scorers that it may stand on.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from cmtree_jax import shapes
from cmtree_jax.methods import scoring, valuing
from cmtree_jax.methods.base import Facts, Method, Signals
from cmtree_jax.tree import learner, mixture, model, views
from cmtree_jax.tree.evidence import Leaves
from cmtree_jax.tree.mixture import Sample


class State(NamedTuple):
  """What the next round needs."""

  learner: learner.State
  offset_N: (
    shapes.FloatN
  )  # f_0: the scorer's log-weights of the pool's documents


class Weights(NamedTuple):
  """One weight per document of the pool, the scorer's times the tree's; capped."""

  theta: model.Theta
  log_w_L: shapes.FloatL  # as `mixture.normalized` has them
  max_weight: shapes.Scalar  # R
  offset_N: shapes.FloatN

  def log_w(self, signals: Signals) -> shapes.FloatB:
    """Log-weights of documents of the pool."""
    features = _joined(signals.embedding_BE, self.offset_N[signals.index_B])
    placed_B = place(self.theta, features)
    return mixture.log_w(placed_B, self.log_w_L, max_weight=self.max_weight)


def method(
  scorer: Method,
  begin: Callable[[shapes.Key, Facts], model.Theta],
  plan: learner.Plan,
  *,
  scores: bool,
) -> Method:
  r"""Learns a tree whose documents also have a scorer's log-weight.

  .. math:: w(h) = \min\Big(R,\, c\, w_0(h)
            \sum_L p_L(h)\, e^{m_L + s_L \cdot z(h)}\Big)

  Tilts and scores start at zero, which is the scorer's recipe.

  Args:
    scorer: of documents; see `scorer_of`.
    begin: the tree whose partition this one starts from.
    plan: how the learner learns; it reads theta by `leaves`.
    scores: whether leaves score.
  """

  def init(key: shapes.Key, facts: Facts) -> State:
    key_tree, key_scorer = jax.random.split(key)
    found: Any = scorer.finalize(scorer.init(key_scorer, facts))
    offset_N = jnp.asarray(found.log_w_N, jnp.float32)
    corpus = Sample(
      _joined(jnp.asarray(facts.sample_NE), offset_N[facts.sample_index_N]),
      jnp.asarray(facts.sample_mass_N),
    )
    theta = _untilted(begin(key_tree, facts))
    theta = model.with_scores(theta) if scores else theta
    key_noise = jax.random.fold_in(key_tree, 1)
    begun = valuing.start(
      key_noise,
      theta,
      corpus,
      plan,
      facts,
      masks=views.masks(facts.blocks, facts.sample_NE.shape[1]),
    )
    return State(begun, offset_N)

  return Method(
    init=init,
    step=functools.partial(_step, plan=plan),
    finalize=lambda state: Weights(
      state.learner.theta,
      state.learner.log_w_L,
      state.learner.training.max_weight,
      state.offset_N,
    ),
    signals=valuing.SIGNALS
    | {"embedding_BE", "index_B"}
    | {"sample_NE", "sample_mass_N", "sample_index_N"},
    loop="values",
    undo=lambda state: state._replace(learner=learner.undo(state.learner)),
    weighs="documents",
    features=scorer.features,
    extends=scorer.extends,
    entries=scorer.entries,
    labels=scorer.labels,
  )


def leaves(of_tree: Leaves) -> Leaves:
  """How a tree is read, from features whose last column is f_0."""

  def shares(theta, scatter_FF, masks):
    return views.level_shares(theta, scatter_FF[:-1, :-1], masks)

  return of_tree._replace(place=place, shares=shares)


def place(theta, features, temperature=1.0, key=None) -> model.Placed:
  """As `model.place`, from features whose last column is f_0."""
  placed_B = model.place(
    theta, features[:, :-1], temperature=temperature, key=key
  )
  lean_BL = features[:, -1:] + jnp.zeros_like(placed_B.log_p_BL)
  if placed_B.lean_BL is not None:
    lean_BL = lean_BL + placed_B.lean_BL
  return placed_B._replace(lean_BL=lean_BL)


def scorer_of(offset: Any) -> Method:
  """The method that scores documents: itself, or by its name and as it is made.

  Raises:
    ValueError: an unknown name, or a method that does not weigh documents, or that
      trains models for it.
  """
  return scoring.named(
    "offset",
    offset,
    _serves,
    "weighs single documents before any training (loop none)",
  )


def _serves(scorer: Method) -> bool:
  return scorer.scores and scorer.loop == "none"


def _step(
  state: State, signals: Signals, *, plan: learner.Plan
) -> tuple[State, learner.Info]:
  features, sample_features = (
    _joined(embedding, state.offset_N[index])
    for embedding, index in (
      (signals.embedding_BE, signals.index_B),
      (signals.sample_NE, signals.sample_index_N),
    )
  )
  corpus = Sample(sample_features, signals.sample_mass_N)
  stepped, info = valuing.step(state.learner, signals, features, corpus, plan)
  return State(stepped, state.offset_N), info


def _joined(embedding_BE, offset_B):
  return jnp.concatenate([embedding_BE, offset_B[:, None]], axis=1)


def _untilted(theta: model.Theta) -> model.Theta:
  """The same partition with tilts of zero."""
  return tuple(
    level._replace(tilt_MC=jnp.zeros_like(level.tilt_MC)) for level in theta
  )
