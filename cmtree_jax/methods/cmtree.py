"""The cluster-mixture tree: partition and mixture learned together from values.

Each round brings values of probe documents: what each target's loss falls by, to first
order, per unit of a document's weight, measured by the hypergradient through training
steps of proxies of several ages. They join a replay buffer, and the tree takes a
proximal step on those of one half of the proxies, if the other half agrees: angles,
prototypes and tilts move at once.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from cmtree_jax import checks, shapes
from cmtree_jax.embed import kmeans
from cmtree_jax.methods import growing, residual, valuing
from cmtree_jax.methods.base import Facts, Method, Planted, Signals, Small
from cmtree_jax.tree import (
  density_ratio,
  learner,
  mixture,
  model,
  penalties,
  starts,
  views,
)
from cmtree_jax.tree.evidence import Leaves
from cmtree_jax.tree.learner import Step
from cmtree_jax.tree.mixture import Sample
from cmtree_jax.tree.replay import Replay
from cmtree_jax.tree.starts import Form, Start
from cmtree_jax.types import UserError


class TreeWeights(NamedTuple):
  """A tree with its leaves' weights: answers for any document."""

  theta: model.Theta
  log_w_L: shapes.FloatL  # as `mixture.normalized` has them
  max_weight: shapes.Scalar | None = None  # R, where leaves score

  def log_p_leaf(self, embedding_BE: shapes.FloatBE) -> shapes.FloatBL:
    """Where documents fall, without noise."""
    return model.log_p_leaf(self.theta, embedding_BE)

  def log_w(self, signals: Signals) -> shapes.FloatB:
    """The mean weight of each document's leaves, as these score it."""
    placed_B = model.place(self.theta, signals.embedding_BE)
    return mixture.log_w(placed_B, self.log_w_L, max_weight=self.max_weight)


SMALL = Small()
PLANTED = Planted(
  dict(
    branching=(2, 2),
    start=Start(angle_dim=3, kappa=4.0),
    step=Step(trust=0.2, solver_steps=30, gumbel=False),
    replay=Replay(size=80),
  )
)


def make(
  *,
  branching: tuple[int, ...] = (4, 4),
  mode: str = "joint",
  projection: str = "per_level",
  oblivious: bool = False,
  scores: bool = False,
  encoder: int = 0,
  offset: Any = "",
  grow: bool = False,
  max_leaves: int = 16,
  start: Start = Start(),
  step: Step = Step(),
  replay: Replay = Replay(),
) -> Method:
  r"""Learns a tree and its mixture from the values of documents.

  Round r solves, from the current :math:`\theta_r` and by Adam,

  .. math:: \theta_{r+1} = \arg\max_\theta \;
            H\,\mathbb{E}_i\left[v_i \frac{u(w_i(\theta)) - u(w_{i0})}{u'(w_{i0})}
            \right] - \beta\, \mathrm{KL}(w(\theta) \Vert w(\theta_r))
            - \lambda\, \mathrm{KL}(w(\theta) \Vert 1) - \mu\, \mathrm{overlap}
            - \nu\, \mathrm{mixing}
            - \frac{\rho}{L} \sum_L \lVert s_L \rVert

  with the expectation over the natural distribution, estimated from documents
  drawn with a known proposal. Values are in units of the outer loss, so steps
  vanish where marginal values meet; :math:`u(w) = 1 - e^{-w e / R^*}` are the
  diminishing returns of repeats at e epochs, and :math:`w_{i0}` the weight under
  which a value was measured. One half of the proxies says where to go and the
  other whether to go there: a step is taken if the gain that they see, in the mean,
  is above its standard error over them. :math:`\beta` is set by the first step so
  that it moves `step.trust` nats, and raised where a later one would move more; it
  doubles whenever a step was measured to do harm, and that step is taken back.

  A document weighs what its leaves do in the mean. Where leaves score, it weighs

  .. math:: w(h) = \min\Big(R,\, c \sum_L p_L(h)\, e^{m_L + s_L \cdot z(h)}\Big)

  with its last level's projection z and a vector s of each leaf; the cap holds for
  documents then. One leaf with a score is a log-linear scorer of documents, scores of
  zero are a tree of tilts alone, and a frozen partition with scores is a selection
  inside quotas. With an offset, the scorer's own weight of the document is one more
  factor in front of the sum, whether leaves score or not; zero tilts and scores,
  from which the search then starts, are the scorer's recipe, and the tree learns
  from values what that lacks.

  With an encoder all levels project :math:`h + W_2\,\mathrm{gelu}(W_1 h)` instead of the
  features h. It starts as h itself and moves with the partition.

  Args:
    branching: children per node, from the root down. One number is a flat
      partition; a single 1 is one leaf, which has to score.
    mode: "joint" moves angles, prototypes, sharpness, encoder, tilts and scores;
      "frozen" moves tilts and scores alone, on the partition of the start.
    projection: "per_level", or "shared": all levels have one angle, which is
      learned as one parameter (gradients are summed over levels). The overlap
      penalty is then a constant.
    oblivious: a level's prototypes are shared by its nodes (a product of
      partitions).
    scores: whether each leaf tells its documents apart by a linear score. They move
      with the tilts, and start at zero, or, with `start.kind="ratio"`, all at the
      score that one leaf would have; each serves all targets.
    encoder: its hidden units, 0 for none.
    offset: name of a method or variant that weighs single documents before any
      training, with the options of its own block: the tree is a residual on it, on
      the partition of `start`. The recipe is one of single documents. "": none.
    grow: whether leaves are split, fused and pruned by what their documents are
      worth (`tree.growth`): at most one event in a round, after its step, which is
      measured and taken back together with it. `branching` is what it starts from.
    max_leaves: that it may grow to.
    start: what the first partition is made of.
    step: how far a round moves, and by which solver.
    replay: which values it learns from.
  Returns:
    A Method of the loop `values`; with an offset it reads what the scorer reads, too.
  Cost:
    Per round, proxy and target, one hypergradient through `values.unroll` steps and
    `values.probe_rows` probed rows; per step that is taken, `values.lookahead` steps
    twice of every second proxy.
  Raises:
    ValueError: an unknown mode or projection, a level of fewer than two children,
      a single leaf that does not score, an offset that cannot be one, or a tree that
      cannot grow.
  References:
    Values: Gu et al., `PDS <https://arxiv.org/abs/2410.07064>`_, 2024; start:
    Grangier et al., `CRISP <https://arxiv.org/abs/2410.03735>`_, 2024, and
    Sugiyama et al., `KLIEP <https://doi.org/10.1007/s10463-008-0197-x>`_, 2008;
    repeats: Muennighoff et al., `Scaling Data-Constrained Language Models
    <https://arxiv.org/abs/2305.16264>`_, 2023, eq. 5.
  """
  checks.one_of("mode", mode, ("joint", "frozen"))
  checks.one_of("projection", projection, ("per_level", "shared"))
  checks.at_least(0, encoder=encoder)
  checks.at_least(2, max_leaves=max_leaves)
  one_leaf = scores and tuple(branching) == (1,)
  if not branching or (min(branching) < 2 and not one_leaf):
    raise ValueError(
      f"branching {branching} must give every level at least 2 children, or be one "
      "leaf, 1, with scores."
    )
  shared = projection == "shared"
  if shared and start.angles == "views":
    raise ValueError(
      'start.angles = "views" gives every level an angle of its own; leave '
      'projection at "per_level".'
    )
  form = Form(tuple(branching), oblivious, shared)
  if grow:
    _check_growth(
      form,
      max_leaves,
      {"mode": mode != "joint", "scores": scores, "offset": bool(offset)},
    )
  optimizer = _optimizer(step, joint=mode == "joint", tied=shared)
  plan = learner.Plan(_LEAVES, optimizer, step, replay)
  begin = functools.partial(
    _begin,
    form=form,
    scores=scores and not offset,
    encoder=encoder,
    start=start,
    plan=plan,
  )
  if grow:
    begin = growing.with_room(begin, max_leaves=max_leaves, kappa=start.kappa)
  if offset:
    return residual.method(
      residual.scorer_of(offset),
      begin,
      plan._replace(leaves=residual.leaves(_LEAVES)),
      scores=scores,
    )
  plain = Method(
    init=functools.partial(_init, begin=begin, plan=plan),
    step=functools.partial(_step, plan=plan),
    finalize=_weights,
    signals=valuing.SIGNALS | {"embedding_BE", "sample_NE", "sample_mass_N"},
    loop="values",
    undo=learner.undo,
    weighs="tree",
  )
  return growing.method(plain, plan, max_leaves=max_leaves) if grow else plain


def _check_growth(form: Form, max_leaves: int, others: dict[str, bool]) -> None:
  """Refuses what a tree that grows cannot have.

  Args:
    form: of its start.
    max_leaves: that it may grow to.
    others: further settings by name, and whether each is in the way.
  """
  others |= {"oblivious": form.oblivious, "projection": form.shared}
  for name, in_the_way in others.items():
    if in_the_way:
      raise ValueError(
        f"grow moves the partition of a plain tree; leave {name} at its default."
      )
  leaves = math.prod(form.branching)
  if not leaves < max_leaves <= _MOST_LEAVES:
    raise ValueError(
      f"max_leaves = {max_leaves} must be above the {leaves} leaves that branching "
      f"{form.branching} starts with and at most {_MOST_LEAVES:,}; such as "
      "branching=(2,) and max_leaves=16."
    )


_MOST_LEAVES = 4096  # all have room from the start


def _init(
  key: shapes.Key,
  facts: Facts,
  *,
  begin: Callable[[shapes.Key, Facts], model.Theta],
  plan: learner.Plan,
) -> learner.State:
  key_start, key_noise = jax.random.split(key)
  theta = begin(key_start, facts)
  corpus = Sample(
    jnp.asarray(facts.sample_NE), jnp.asarray(facts.sample_mass_N)
  )
  masks = views.masks(facts.blocks, facts.sample_NE.shape[1])
  return valuing.start(key_noise, theta, corpus, plan, facts, masks=masks)


def _begin(
  key: shapes.Key,
  facts: Facts,
  *,
  form: Form,
  scores: bool,
  encoder: int,
  start: Start,
  plan: learner.Plan,
) -> model.Theta:
  """From k-means or chance, then by the density ratio if it is asked for."""
  corpus = Sample(facts.sample_NE, facts.sample_mass_N)
  targets = _each(facts.target_NE, facts.target_mass_N, facts.target_of_N)
  masks = views.masks(facts.blocks, facts.sample_NE.shape[1])
  theta = starts.make(
    key,
    corpus,
    targets,
    form=form,
    start=start,
    kmeans=_kmeans,
    masks=masks,
  )
  if encoder:
    theta = model.with_encoder(theta, jax.random.fold_in(key, 2), encoder)
  max_weight = facts.max_weight
  if start.kind == "ratio":
    held_out = _each(
      facts.held_out_NE, facts.held_out_mass_N, facts.held_out_of_N
    )
    # Where leaves score, the budget caps documents afterwards; under its bound a
    # score that has all of a target among the heaviest would have no more to learn.
    max_weight = (
      start.max_weight if scores else min(start.max_weight, max_weight)
    )
    fit = functools.partial(
      density_ratio.fit,
      jax.random.fold_in(key, 1),
      texts=density_ratio.Texts(corpus, targets, held_out, masks),
      max_weight=max_weight,
      num_steps=start.steps,
      batch=plan.step.solver_sample,
      view_penalty=plan.step.view_penalty,
    )
    if scores:
      theta = _with_one_score(theta, fit, plan.step)
    theta = fit(theta, optimizer=plan.optimizer)
  elif scores:
    theta = model.with_scores(theta)
  return starts.merged(theta, corpus, max_weight=max_weight)


def _with_one_score(
  theta: model.Theta, fit: Callable[..., model.Theta], step: Step
) -> model.Theta:
  """All leaves with the score that one leaf would have, and no tilts beside it.

  From there leaves are told apart: many scores that start at zero, each with the few
  documents of its leaf, end behind one.
  """
  alone = model.with_scores(model.one_leaf(theta))
  (leaf,) = fit(alone, optimizer=_optimizer(step, joint=False, tied=False))
  assert leaf.score_MCP is not None
  untilted = tuple(
    level._replace(tilt_MC=jnp.zeros_like(level.tilt_MC)) for level in theta
  )
  return model.with_scores(untilted, leaf.score_MCP[0, 0])


def _each(features_NE, mass_N, of_N) -> tuple[Sample, ...]:
  """The documents of every target."""
  return tuple(
    Sample(features_NE[of_N == target], mass_N[of_N == target])
    for target in range(int(np.max(of_N)) + 1)
  )


def _step(
  state: learner.State, signals: Signals, *, plan: learner.Plan
) -> tuple[learner.State, learner.Info]:
  corpus = Sample(signals.sample_NE, signals.sample_mass_N)
  return valuing.step(state, signals, signals.embedding_BE, corpus, plan)


def _weights(state: learner.State) -> TreeWeights:
  if not model.scores(state.theta):
    return TreeWeights(state.theta, state.log_w_L)
  return TreeWeights(state.theta, state.log_w_L, state.training.max_weight)


def _kmeans(points, point_mass, count, *, seed):
  if len(points) < count:
    raise UserError(
      f"Cannot make {count} children of a node of {len(points)} documents; ask "
      "for fewer in config.cmtree.branching."
    )
  fitted = kmeans.fit(points, num_clusters=count, seed=seed, mass_N=point_mass)
  return fitted.center_LE


def _optimizer(
  step: Step, *, joint: bool, tied: bool
) -> optax.GradientTransformation:
  """Adam with a rate for each kind; a partition that is frozen has the rate zero."""

  def moved(rate):
    return optax.adam(rate) if joint else optax.set_to_zero()

  optimizer = optax.multi_transform(
    {
      "tilt": optax.adam(step.tilt_rate),
      "score": optax.adam(step.score_rate),
      "encoder": moved(step.encoder_rate),
      "partition": moved(step.partition_rate),
      "mask": optax.set_to_zero(),  # moved by events alone
    },
    _labels,
  )
  return optax.chain(_tied_angles(), optimizer) if tied else optimizer


def _labels(theta: model.Theta):
  """Which of the learning rates a parameter has."""
  kinds = {
    "tilt_MC": "tilt",
    "score_MCP": "score",
    "open_M": "mask",
    "encoder": "encoder",
  }

  def label(level):
    there = {name for name, x in level._asdict().items() if x is not None}
    return level._replace(**{x: kinds.get(x, "partition") for x in there})

  return tuple(map(label, theta))


def _tied_angles() -> optax.GradientTransformation:
  """Sums the angles' gradients over levels: equal angles then stay equal."""

  def tie(grads, params):
    del params
    total_PE = sum(level.angle_PE for level in grads)
    return tuple(level._replace(angle_PE=total_PE) for level in grads)

  return optax.stateless(tie)


def _place(theta, embedding_BE, temperature=1.0, key=None):
  """Noisy leaves at the temperature, or the read-out at temperature one.

  The two agree: the mean of Gumbel samples at low temperatures is the softmax at
  temperature one.
  """
  if key is None:
    return model.place(theta, embedding_BE)
  return model.place(theta, embedding_BE, temperature=temperature, key=key)


_LEAVES = Leaves(
  _place,
  mixture.leaf_tilt,
  penalties.angle_overlap,
  penalties.score_norm,
  views.level_shares,
)
