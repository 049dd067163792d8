"""Meta-learned scheduler: a network learns in short runs how to steer long ones."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from cmtree_jax import checks, shapes
from cmtree_jax.methods import policy as policies
from cmtree_jax.methods import steering
from cmtree_jax.methods.base import (
  TARGET_FIRST,
  Ask,
  Facts,
  Method,
  Planted,
  Signals,
  Small,
)
from cmtree_jax.methods.policy import Policy, Run, Seen, Windows
from cmtree_jax.types import UserError


class Learner(NamedTuple):
  """What is needed while the policy is learned."""

  moments: optax.OptState
  windows: Windows  # of the short runs since the policy was changed
  length: shapes.Array  # int, observations of a short run
  end: shapes.Array  # int, observations of all short runs together
  told_UX: shapes.Array  # before every change: as `policies.over_natural` tells


class State(NamedTuple):
  """What the next observation needs."""

  course: steering.Course
  policy: Policy
  run: Run  # the training that is observed now
  ask: Ask
  still_KS: shapes.Array
  epochs: shapes.Scalar
  learner: Learner | None  # None: the policy is frozen from the start


class Info(NamedTuple):
  """What a step saw and did."""

  seen: Seen
  mixture_K: shapes.FloatK


SMALL = Small(dict(every=5, runs=4, population=2))
PLANTED = Planted(dict(every=2, runs=6, population=1), more=TARGET_FIRST)


def make(
  *,
  policy: str = "",
  learn: float = 0.75,
  runs: int = 32,
  population: int = 4,
  rate: float = 0.03,
  meta_steps: int = 20,
  trust: float = 0.2,
  projected: int = 8,
  every: int = 10,
  output: str = "mean",
) -> Method:
  r"""Learns in short runs a network that mixes domains by how a training goes.

  .. math:: p(x) \propto q\, e^{\pi_\psi(x)}, \qquad
            \nabla_\psi \sum_w L_w = \sum_w \sum_k
            \frac{\partial L_w}{\partial p_{wk}}\, \nabla_\psi\, p_k(x_w)

  The network :math:`\pi_\psi` encodes each domain by itself, takes the mean of the
  codes weighted by size, and gives every domain a logit of its own code, the mean and
  what is known of the training (DeepSets): so the order of domains does not matter, nor
  their number. Of a domain it sees: its loss relative to the mean of all, the fall of it
  since the last observation, its share and the repeats of its documents so far, its
  size, how near it lies to the targets, and a fixed projection of its mean features. Of
  the training: how much is done, the targets' loss relative to the first, and its fall.
  These are ratios and logarithms, in units of what the first short runs have shown.

  :math:`L_w` is the targets' loss after the `every` steps of a window, and its
  derivative by the shares comes of the hypergradient through these steps, which train
  all the same. After every `population` short runs, all from other parameters and on
  other rows, `meta_steps` steps of Adam follow that derivative at fixed values; at the
  first of them it is exact. Windows of all ages count alike, each in units of what it
  has told. Then psi is frozen and steers one longer run, of which the recipe is the mean
  mixture. What was learned is kept as `policy.npz`, and steers another search, on this
  corpus or another, or the training that counts (`online.on`), if `policy` names its
  folder.

  The proxy that has not trained yet tells nothing, and gets the natural mixture. A new
  network is the natural mixture, too.

  What does not matter: a domain that is split in two equal halves keeps its logit but
  for the size that the network sees; if all domains are split, nothing changes. What
  does: a window is short-sighted, for the loss after it is all that it is asked. What
  helps only later than `every` steps is not found.

  How sure this is: that values of documents can be learned so is shown elsewhere
  (DataRater). Network, features and defaults are ours. On the default corpus, with 16
  clusters, 0.1m proxies and 32 rows of the target, windows of ten steps agree well on
  which domains are worth more: over runs of equal age the squared mean of their gains
  is 2 to 7 times their variance for film reviews and 4 to 50 times for code. Most of it
  is the same at all ages, and the mixtures of the longer run hardly moved. The search
  of 1500 steps, twelve short runs among them, took nine times the FLOPs of DGA's 300.

  Args:
    policy: folder of a job that has learned one; it is frozen, and nothing is learned.
    learn: share of the observations that short runs get; the longer run has the rest.
    runs: short runs, all as long.
    population: short runs from one change of the policy to the next; divides `runs`.
    rate: Adam's learning rate.
    meta_steps: steps of Adam in each change.
    trust: share of the tokens that a change may move, about; see
      `methods.policy.objective`.
    projected: numbers that tell the network where a domain lies; they say the same only
      where documents are embedded alike. 0 leaves them out: nearness to the targets is
      then all that it knows of texts.
    every: training steps per observation.
    output: the recipe is the "mean" of the mixtures of the longer run, or the "last".
  Returns:
    A Method that steers a proxy.
  Cost:
    One proxy run, of which `learn` is short runs, with an evaluation of all domains and
    targets every `every` steps. Steps of short runs cost a hypergradient each, one of
    all targets together.
  Raises:
    ValueError: for a number that is out of its range or an unknown output.
  References:
    Zaheer et al., `Deep Sets <https://arxiv.org/abs/1703.06114>`_, 2017, for the
    network; Calian et al., `DataRater <https://arxiv.org/abs/2505.17895>`_, 2025, for
    meta-gradients over a population of models.
  """
  checks.one_of("output", output, steering.OUTPUT)
  checks.at_least(1, every=every, runs=runs, population=population)
  checks.at_least(1, meta_steps=meta_steps)
  checks.at_least(0, projected=projected)
  checks.above_zero(rate=rate, trust=trust)
  checks.finite(rate=rate)
  checks.share(learn=learn, trust=trust)
  if learn == 1:
    raise ValueError("learn = 1 leaves no run to steer; it must be below 1.")
  if runs % population:
    raise ValueError(
      f"population = {population} must divide runs = {runs}; try {runs}."
    )
  # A slope of a thousandth of what windows tell is noise, or rounding: Adam must not
  # blow it up to a whole step.
  optimizer = optax.adam(rate, eps=1e-3)

  def init(key: shapes.Key, facts: Facts) -> State:
    course = steering.start(facts, every)
    still_KS = policies.still(facts, projected)
    fresh = policies.start(key, len(policies.LEAST_MOVING) + still_KS.shape[1])
    learner = None
    if policy:
      assert facts.policy is not None
      fresh = policies.from_arrays(facts.policy, fresh)
    else:
      observations = facts.steps // every
      length = int(observations * learn) // runs
      if length < 2:
        raise UserError(_too_short(facts, learn, runs, every))
      learner = Learner(
        moments=optimizer.init(fresh.psi),
        windows=policies.no_windows(
          population * length, still_KS.shape[0], len(fresh.scale_F)
        ),
        length=jnp.int32(length),
        end=jnp.int32(length * runs),
        told_UX=jnp.zeros((runs // population, 2)),
      )
    q_K = course.domain_mass_K
    ones_T = jnp.ones(facts.num_targets)
    return State(
      course=course,
      policy=fresh,
      run=Run(jnp.ones_like(q_K), ones_T, ones_T, jnp.zeros_like(q_K)),
      ask=steering.asking(q_K),
      still_KS=jnp.asarray(still_KS, q_K.dtype),
      epochs=jnp.asarray(facts.epochs, q_K.dtype),
      learner=learner,
    )

  def changed(state: State, learner: Learner) -> tuple[Policy, Learner]:
    """After the short runs of a population."""
    windows, course = learner.windows, state.course
    start = policies.with_units(state.policy, windows, course.domain_mass_K)
    slope = jax.grad(policies.objective)

    def follow(carry, _):
      psi, moments = carry
      rise = slope(psi, start, windows, course, trust)
      fall = jax.tree.map(jnp.negative, rise)
      update, moments = optimizer.update(fall, moments, psi)
      return (optax.apply_updates(psi, update), moments), None

    carry = start.psi, learner.moments
    (psi, moments), _ = jax.lax.scan(follow, carry, length=meta_steps)
    told_X = jnp.stack(policies.over_natural(windows, course.domain_mass_K))
    at = course.time // len(windows.counts_W) - 1
    return start._replace(psi=psi), learner._replace(
      moments=moments, told_UX=learner.told_UX.at[at].set(told_X)
    )

  def learned(state: State, gain_K) -> tuple[Policy, Learner]:
    """With what the last window was worth; psi changes at the end of a population."""
    learner, time = state.learner, state.course.time
    assert learner is not None
    size = len(learner.windows.counts_W)
    gain_WK = learner.windows.gain_WK.at[(time - 1) % size].set(gain_K)
    learner = learner._replace(
      windows=learner.windows._replace(gain_WK=gain_WK)
    )
    is_end = (time > 0) & (time <= learner.end) & (time % size == 0)
    return jax.lax.cond(
      is_end,
      changed,
      lambda state, learner: (state.policy, learner),
      state,
      learner,
    )

  def step(state: State, signals: Signals) -> tuple[State, Info]:
    course, policy, learner = state.course, state.policy, state.learner
    if learner is not None:
      policy, learner = learned(state, signals.share_gain_K)
    position, length, is_short = _clock(course, learner)
    now = (
      steering.evaluation(signals, course, "domains"),
      steering.evaluation(signals, course, "targets"),
    )
    run = _before(state.run, position, now)
    done = position / length
    seen = policies.see(course, run, done, now, state.still_KS, state.epochs)
    begins = position == 0
    natural_K = course.domain_mass_K
    mixture_K = policies.mixture(policy, seen, course)
    course = course.then(jnp.where(begins, natural_K, mixture_K), ~is_short)
    asked_K = course.mixture_K
    if learner is not None:
      learner = _with_window(
        learner, state.course.time, seen, asked_K, is_short & ~begins
      )
    return State(
      course=course,
      policy=policy,
      run=Run(*now, run.first_T, run.share_K + asked_K),
      ask=steering.asking(
        asked_K,
        fresh=begins & (state.course.time > 0),
        valued=is_short & ~begins,
      ),
      still_KS=state.still_KS,
      epochs=state.epochs,
      learner=learner,
    ), Info(seen, asked_K)

  reads = {"domain_B", "loss_K", "target_loss_T"}
  if not policy:
    reads.add("share_gain_K")
  return Method(
    init,
    step,
    finalize=lambda state: state.course.recipe(output),
    signals=frozenset(reads),
    loop="steer",
    ask=lambda state: state.ask,
    every=every,
    history=_history,
    policy=policy,
    keeps=lambda state: policies.to_arrays(state.policy),
  )


def _too_short(facts: Facts, learn: float, runs: int, every: int) -> str:
  """Why a search cannot hold so many short runs."""
  wanted = int(np.ceil(2 * runs / max(learn, 1e-9))) * every
  return (
    f"config.steer.steps = {facts.steps} makes {facts.steps // every} observations, "
    f"and a share of {learn:g} of them is less than two for each of {runs} short "
    f"runs; set it to {wanted} or more, or lower meta_scheduler.runs or "
    "meta_scheduler.every."
  )


def _clock(
  course: steering.Course, learner: Learner | None
) -> tuple[shapes.Array, shapes.Array, shapes.Array]:
  """(observations of the run before this one, all of it, whether it is short)."""
  time = course.time
  if learner is None:
    return time, course.length, jnp.asarray(False)
  is_short = time < learner.end
  position = jnp.where(is_short, time % learner.length, time - learner.end)
  length = jnp.where(is_short, learner.length, course.length - learner.end)
  return position, length, is_short


def _before(run: Run, position: shapes.Array, now: Any) -> Run:
  """The training up to now; before its second observation nothing has fallen."""
  loss_K, loss_T = now
  is_new = position <= 1
  return Run(
    jnp.where(is_new, loss_K, run.loss_K),
    jnp.where(is_new, loss_T, run.loss_T),
    jnp.where(is_new, loss_T, run.first_T),
    jnp.where(position == 0, 0.0, run.share_K),
  )


def _with_window(
  learner: Learner,
  time: shapes.Array,
  seen: Seen,
  mixture_K: shapes.FloatK,
  counts: shapes.Array,
) -> Learner:
  """With what the next steps are trained on."""
  windows = learner.windows
  at = time % len(windows.counts_W)
  return learner._replace(
    windows=Windows(
      jax.tree.map(
        lambda all_of, one: all_of.at[at].set(one), windows.seen, seen
      ),
      windows.mixture_WK.at[at].set(mixture_K),
      windows.gain_WK.at[at].set(0.0),
      windows.counts_W.at[at].set(counts),
    )
  )


def _history(state: State) -> tuple[dict[str, Any], ...]:
  """What every population was worth beyond natural mixtures, before it was learned of."""
  if state.learner is None:
    return ()
  return tuple(
    {"population": number, "over_natural": mean, "error": error}
    for number, (mean, error) in enumerate(state.learner.told_UX.tolist())
  )
