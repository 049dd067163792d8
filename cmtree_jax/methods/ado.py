"""ADO: train more on the domains whose loss still falls fast for their share."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from cmtree_jax import shapes
from cmtree_jax.methods import steering
from cmtree_jax.methods.base import (
  Ask,
  DomainWeights,
  Facts,
  Method,
  Signals,
)
from cmtree_jax.mixtures import fitting

ORDER = 3  # of the smoothing polynomials
CREDITS = ("root", "root_of_variance")


class Law(NamedTuple):
  """A domain's scaling law exp(e) + exp(a) / n^alpha; arrays of any shape."""

  a: shapes.Array
  e: shapes.Array
  alpha: shapes.Array


class State(NamedTuple):
  """What the next observation needs."""

  course: steering.Course
  ask: Ask
  loss_NK: shapes.Array  # of the observations so far, then ones
  law: Law  # of each domain
  is_fitted: shapes.Array  # whether there is a law
  mean_preference_K: shapes.FloatK  # rho-bar
  sampled_K: shapes.FloatK  # h, what was trained on of late


class Info(NamedTuple):
  """What a person reads after an observation."""

  mixture_K: shapes.FloatK  # pi
  preference_K: shapes.FloatK  # rho
  irreducible_K: shapes.FloatK  # exp(e)
  alpha_K: shapes.FloatK


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

  Lengths but `every` count observations. In short runs `ignore` and `refit` shrink
  to a tenth of the run, and `window` to half of it.

  Args:
    every: training steps per observation (the paper fits to every tenth loss).
    ignore: first observations that are not fitted to. (1,000 steps of 60,000.)
    refit: from fit to fit; the first comes `window` after those ignored.
    window: of the smoothing; odd. (101 losses of single batches in the paper, so
      101 steps.)
    thin: takes every so-many-th start of each of the grid's three axes.
    num_steps: of L-BFGS.
    least_e: where the hinge of e is: an irreducible loss of 1.65 nats per token.
      With very small tokens it must be lower.
    credit: "root" is the paper's :math:`h_k^{1/2}`, "root_of_variance" the code's
      :math:`(h_k (1 - h_k))^{1/2}`.
    floor: least :math:`\rho_k`, before the others give way to it.
    output: the recipe is the "mean" of pi since the first fit, or the "last" pi.
  Returns:
    A Method that steers a proxy; it knows nothing of the targets.
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
  steering.check_choice("credit", credit, CREDITS)
  steering.check_choice("output", output, steering.OUTPUT)
  steering.check_at_least(
    1, every=every, refit=refit, window=window, thin=thin, num_steps=num_steps
  )
  steering.check_at_least(0, ignore=ignore)
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
      ask=steering.asking(course.mixture_K),
      loss_NK=jnp.ones((length, facts.num_domains)),
      law=law,
      is_fitted=jnp.array(False),
      mean_preference_K=course.mixture_K,
      sampled_K=course.mixture_K,
    )

  def step(state: State, signals: Signals) -> tuple[State, Info]:
    course = state.course
    loss_K = steering.evaluation(signals, course, "domains")
    loss_NK = state.loss_NK.at[course.time].set(loss_K)
    skipped = min(ignore, len(loss_NK) // 10)
    width = _width(window, len(loss_NK))
    since = course.time - skipped - width + 1
    interval = max(1, min(refit, len(loss_NK) // 10))

    def fitted(_):
      return fit_laws(
        smooth(loss_NK, course.time + 1, width=width),
        1.0 + every * jnp.arange(len(loss_NK)),
        (jnp.arange(len(loss_NK)) >= skipped)
        & (jnp.arange(len(loss_NK)) <= course.time),
        starts=grid(thin),
        num_steps=num_steps,
        least_e=least_e,
      )

    new_law = jax.lax.cond(
      (since >= 0) & (since % interval == 0),
      fitted,
      lambda _: Law(*(jnp.full_like(x, jnp.nan) for x in state.law)),
      None,
    )
    is_good = jnp.all(jnp.isfinite(jnp.stack(new_law)))
    law = jax.tree.map(
      lambda new, old: jnp.where(is_good, new, old), new_law, state.law
    )
    is_fitted = state.is_fitted | is_good

    memory = 0.9**every
    sampled_K = jnp.where(
      course.time > 0,
      memory * state.sampled_K + (1 - memory) * course.mixture_K,
      state.sampled_K,
    )
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
      ask=steering.asking(mixture_K),
      loss_NK=loss_NK,
      law=law,
      is_fitted=is_fitted,
      mean_preference_K=mean_K + (preference_K - mean_K) / (course.time + 1),
      sampled_K=sampled_K,
    ), Info(mixture_K, preference_K, jnp.exp(law.e), law.alpha)

  def finalize(state: State) -> DomainWeights:
    return state.course.recipe(output)

  return Method(
    init,
    step,
    finalize,
    frozenset({"loss_K", "domain_B"}),
    "domains",
    ask=lambda state: state.ask,
    every=every,
    targeted=False,
  )


def predict(law: Law, n: shapes.Array) -> shapes.Array:
  """The law's loss after n steps."""
  return jnp.exp(law.e) + jnp.exp(law.a) * n**-law.alpha


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
    law: of each domain.
    n: steps so far.
    mass_K: mu; a domain of mass zero gets nothing, nor the floor.
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


def grid(thin: int = 1) -> Law:
  """The starts of a fit; 512 of them."""
  axes = np.meshgrid(
    np.arange(-2.0, 6.0)[::thin],
    np.arange(-2.0, 2.0, 0.5)[::thin],
    np.arange(8)[::thin] / 10,
    indexing="ij",
  )
  return Law(*(jnp.asarray(axis.ravel(), float) for axis in axes))


def fit_laws(
  loss_NK: shapes.Array,
  n_N: shapes.Array,
  is_used_N: shapes.Array,
  *,
  starts: Law,
  num_steps: int = 200,
  least_e: float = 0.5,
) -> Law:
  """The laws of the domains' losses.

  Args:
    loss_NK: smoothed losses.
    n_N: steps at which they were observed.
    is_used_N: which of them count.
    starts: that L-BFGS goes down from, see `grid`.
    num_steps: as in `make`.
    least_e: as in `make`.
  Returns:
    Law of each domain; NaN where no start has a finite end.
  """

  def fit_law(loss_N):
    log_loss_N = jnp.log(jnp.where(is_used_N, loss_N, 1.0))

    def cost(law):
      log_n_N = jnp.log(n_N)
      log_law_N = jnp.logaddexp(law.a - law.alpha * log_n_N, law.e)
      huber_N = optax.losses.huber_loss(log_law_N, log_loss_N, delta=1e-3)
      return (
        jnp.sum(jnp.where(is_used_N, huber_N, 0.0))
        + jnp.maximum(law.alpha - 0.8, 0)
        + jnp.maximum(1e-3 - law.alpha, 0)
        + jnp.maximum(law.a - 6.5, 0)
        + jnp.maximum(least_e - law.e, 0)
      )

    found = fitting.fit(cost, starts, num_steps=num_steps)
    is_good = jnp.isfinite(found.loss)
    return jax.tree.map(lambda x: jnp.where(is_good, x, jnp.nan), found.params)

  return jax.vmap(fit_law, in_axes=1)(loss_NK)


def smooth(
  loss_NK: shapes.Array, count: shapes.Array | int, *, width: int
) -> shapes.Array:
  """Savitzky-Golay: each of the first `count` rows from a cubic around it.

  The first and last half windows are read off the first and last cubic. What
  stands in the rows from `count` on means nothing.

  Args:
    loss_NK: rows in time.
    count: at least `width`.
    width: odd; one leaves the rows as they are.
  Returns:
    As large as loss_NK.
  """
  if width == 1:
    return loss_NK
  powers = np.vander(np.linspace(-1, 1, width), ORDER + 1)
  project_WW = jnp.asarray(powers @ np.linalg.pinv(powers), float)
  row_N = jnp.arange(len(loss_NK))
  first_N = jnp.clip(row_N - width // 2, 0, count - width)
  window_NWK = loss_NK[first_N[:, None] + jnp.arange(width)]
  place_N = jnp.minimum(row_N - first_N, width - 1)
  return jnp.einsum("nw,nwk->nk", project_WW[place_N], window_NWK)


def _width(window: int, length: int) -> int:
  """A window of a short run: odd, at most half of it, one where that is no use."""
  half = length // 2
  width = min(window, half - (half % 2 == 0))
  return width if width > ORDER + 1 else 1
