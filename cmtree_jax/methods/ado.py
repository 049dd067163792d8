"""ADO: more of the domains whose loss still falls fast for their share."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from cmtree_jax import checks, shapes
from cmtree_jax.methods import steering
from cmtree_jax.methods.base import (
  Ask,
  Facts,
  Method,
  Planted,
  Signals,
  Small,
)
from cmtree_jax.methods.laws import learning_curves
from cmtree_jax.methods.laws.learning_curves import Law

CREDITS = ("root", "root_of_variance")


class State(NamedTuple):
  """What the next observation needs."""

  course: steering.Course
  loss_NK: shapes.Array  # losses observed so far, then ones
  law: Law  # one for each domain
  is_fitted: shapes.Array  # whether there is a law
  mean_preference_K: shapes.FloatK  # rho-bar
  sampled_K: shapes.FloatK  # h, the mixture trained on of late


class Info(NamedTuple):
  """What a person reads after an observation."""

  mixture_K: shapes.FloatK  # pi
  preference_K: shapes.FloatK  # rho
  irreducible_K: shapes.FloatK  # exp(e)
  alpha_K: shapes.FloatK


SMALL = Small(dict(every=2, thin=4, num_steps=100))
# It cannot know the target: the other text is as good to it.
PLANTED = Planted(
  dict(every=2, thin=8, num_steps=20, least_e=-2.0),
  more=(("learnable", "noise"),),
)


def make(
  *,
  every: int = 10,
  ignore: int = 100,
  refit: int = 100,
  window: int = 11,
  thin: int = 1,
  num_steps: int = 200,
  least_e: float = 0.5,
  credit: str = "root",
  floor: float = 0.01,
  output: str = "mean",
) -> Method:
  r"""Follows scaling laws of the domains, fitted while the proxy trains.

  .. math:: L_k(n) = e^{e_k} + e^{a_k} n^{-\alpha_k}, \qquad
            \rho_k \propto \mu_k h_k^{1/2} \;
            \max(\alpha_k, .05)\, \frac{L_k(n) - e^{e_k}}{n}

  with n the steps so far, :math:`\mu` the shares of the corpus and h the moving
  average (0.9 per step) of the mixtures trained on; no :math:`\rho_k` is below a
  floor. The proxy trains on :math:`\pi = .9 \bar\rho + .1 \rho`, where
  :math:`\bar\rho` is the mean over time, of :math:`\mu` before the first fit.

  A fit minimizes the sum of the Huber losses (1e-3) of the logarithms, with hinges
  that keep alpha in [.001, .8], a below 6.5 and e above .5, by L-BFGS from a grid
  of 512 starts; losses are smoothed by cubic Savitzky-Golay polynomials before. A
  fit that is not finite is rejected, and the last good one stays.

  All lengths but `every` count observations. In short runs `ignore` and `refit`
  shrink to a tenth of the run, and `window` to half of it.

  Args:
    every: training steps per observation (the paper fits to every tenth loss).
    ignore: first observations that no fit uses. (1,000 steps of 60,000.)
    refit: length from fit to fit; the first comes `window` after those ignored.
    window: length of the smoothing, odd. (101 losses of single batches in the
      paper, so 101 steps.)
    thin: takes every so-many-th start of each of the grid's three axes.
    num_steps: L-BFGS steps of a fit.
    least_e: where the hinge of e is: an irreducible loss of 1.65 nats per token.
      With very small tokens it must be lower.
    credit: "root" is :math:`h_k^{1/2}`, of the paper and of the authors' code at
      bc3d8d0, "root_of_variance" :math:`(h_k (1 - h_k))^{1/2}`, of another state of
      it, 731863d.
    floor: least :math:`\rho_k`, before the others give way to it.
    output: the recipe is the "mean" of pi since the first fit, or the "last" pi.
  Returns:
    A Method that steers a proxy; it knows nothing of the targets.
  Cost:
    One proxy run, evaluations, and fits that take seconds.
  Raises:
    ValueError: for unknown words, lengths that are not positive, an even window,
      or a floor that is not in [0, 1).
  References:
    Jiang et al., `Adaptive Data Optimization
    <https://arxiv.org/abs/2410.11820>`_, 2024, section 3. The paper counts examples
    where we count steps, which shifts a by alpha times the logarithm of the batch;
    it fits to the losses of training batches, we to those observed. Policies move
    at observations, averages over steps are carried over exactly.
  """
  checks.one_of("credit", credit, CREDITS)
  checks.one_of("output", output, steering.OUTPUT)
  checks.at_least(
    1, every=every, refit=refit, window=window, thin=thin, num_steps=num_steps
  )
  checks.at_least(0, ignore=ignore)
  if window % 2 == 0:
    raise ValueError(f"window {window} must be odd.")
  if not 0 <= floor < 1:
    raise ValueError(f"floor {floor} must be at least 0 and below 1.")

  def init(key: shapes.Key, facts: Facts) -> State:
    del key
    course = steering.start(facts, every)
    length = facts.steps // every
    law = Law(*(jnp.zeros_like(course.mixture_K) for _ in Law._fields))
    return State(
      course=course,
      loss_NK=jnp.ones((length, facts.num_domains)),
      law=law,
      is_fitted=jnp.array(False),
      mean_preference_K=course.mixture_K,
      sampled_K=course.mixture_K,
    )

  def refit_law(
    state: State, loss_NK: shapes.Array
  ) -> tuple[Law, shapes.Array]:
    """The laws, new ones if it is time and they are good; whether there are any."""
    length, time = len(loss_NK), state.course.time
    skipped, interval = min(ignore, length // 10), min(refit, length // 10)
    width = learning_curves.odd_window(window, length)
    since = time - skipped - width + 1

    def fitted(_):
      row_N = jnp.arange(length)
      return learning_curves.fit_laws(
        learning_curves.smooth(loss_NK, time + 1, width=width),
        1.0 + every * row_N,  # from one on: the law has a pole at zero
        (row_N >= skipped) & (row_N <= time),
        starts=learning_curves.grid(thin),
        num_steps=num_steps,
        least_e=least_e,
      )

    law = jax.lax.cond(
      (since >= 0) & (since % max(1, interval) == 0),
      fitted,
      lambda _: Law(*(jnp.full_like(x, jnp.nan) for x in state.law)),
      None,
    )
    is_good = jnp.all(jnp.isfinite(jnp.stack(law)))
    return jax.tree.map(
      lambda new, old: jnp.where(is_good, new, old), law, state.law
    ), state.is_fitted | is_good

  def step(state: State, signals: Signals) -> tuple[State, Info]:
    course = state.course
    loss_K = steering.evaluation(signals, course, "domains")
    loss_NK = state.loss_NK.at[course.time].set(loss_K)
    law, is_fitted = refit_law(state, loss_NK)
    # Before the first observation nothing was trained on.
    memory = jnp.where(course.time > 0, 0.9**every, 1.0)
    sampled_K = memory * state.sampled_K + (1 - memory) * course.mixture_K
    preference_K = jnp.where(
      is_fitted,
      preference(
        law,
        1.0 + every * course.time,
        course.domain_mass_K,
        sampled_K,
        floor=floor,
        credit=credit,
      ),
      course.domain_mass_K,
    )
    mean_K = state.mean_preference_K
    mixture_K = 0.9 * mean_K + 0.1 * preference_K
    return State(
      course=course.then(mixture_K, is_fitted),
      loss_NK=loss_NK,
      law=law,
      is_fitted=is_fitted,
      mean_preference_K=mean_K + (preference_K - mean_K) / (course.time + 1),
      sampled_K=sampled_K,
    ), Info(mixture_K, preference_K, jnp.exp(law.e), law.alpha)

  return Method(
    init,
    step,
    finalize=lambda state: state.course.recipe(output),
    signals=frozenset({"loss_K", "domain_B"}),
    loop="steer",
    ask=lambda state: Ask(state.course.mixture_K),
    every=every,
    targeted=False,
  )


def preference(
  law: Law,
  n: shapes.Array | float,
  mass_K: shapes.FloatK,
  sampled_K: shapes.FloatK,
  *,
  floor: float = 0.01,
  credit: str = "root",
) -> shapes.FloatK:
  """rho: how fast each domain's loss falls, credited to the domain's own part.

  Args:
    law: one for each domain.
    n: steps so far.
    mass_K: mu; a domain of mass zero gets nothing, not even the floor.
    sampled_K: h.
    floor: as in `make`.
    credit: as in `make`.
  Returns:
    rho, which sums to one.
  """
  speed_K = jnp.maximum(law.alpha, 0.05) * jnp.exp(law.a) * n**-law.alpha / n
  spread_K = 1 if credit == "root" else jnp.maximum(1 - sampled_K, 0)
  rho_K = speed_K * mass_K * jnp.sqrt(sampled_K * spread_K)
  present_K = mass_K > 0
  rho_K = jnp.where(present_K, rho_K, 0.0)
  total = jnp.sum(rho_K)
  rho_K = jnp.where(total > 0, rho_K / jnp.where(total > 0, total, 1), mass_K)
  least = jnp.minimum(floor, 1 / jnp.sum(present_K))
  rho_K = jnp.where(present_K, jnp.maximum(rho_K, least), 0.0)
  return rho_K / jnp.sum(rho_K)
