"""A proximal step: as much of a gain as a trust region of weights allows."""

import jax
import jax.numpy as jnp
import optax

from cmtree_jax import shapes


def solve(
  objective, score, theta, key, *, optimizer, num_steps, step_size, trust
):
  """A proximal step by Adam: the best of its iterates by held-out score.

  The objective's KL divergence is weighed by beta, which rises as long as an
  iterate is outside the trust region and falls as long as it is inside, but not
  below 1 / step_size. A step size of zero is unknown, and beta then free.

  Args:
    objective: (theta, key) -> (cost, KL divergence in nats) that Adam sees.
    score: theta -> the same on what is held out; chooses among the iterates.
    theta: where to start from; it is no iterate, and returned only where none is
      within the trust region.
    key: a new one is folded from it at every Adam step.
    optimizer: of theta.
    num_steps: of the optimizer.
    step_size: of the rounds before; 0 if there is none.
    trust: nats that a step may move.
  """
  unknown = step_size == 0
  floor = jnp.where(unknown, -jnp.inf, -jnp.log(step_size))

  def body(carry, number):
    theta, opt_state, log_beta, best, best_score = carry

    def total(theta):
      cost, kl = objective(theta, jax.random.fold_in(key, number))
      return cost + jnp.exp(log_beta) * kl

    update, opt_state = optimizer.update(
      jax.grad(total)(theta), opt_state, theta
    )
    theta = optax.apply_updates(theta, update)
    cost, kl = score(theta)
    log_beta = jnp.maximum(
      log_beta + _DUAL_RATE * jnp.clip(kl / trust - 1, -1, 1), floor
    )
    value = jnp.where(kl <= 1.2 * trust, cost + jnp.exp(floor) * kl, jnp.inf)
    better = value < best_score
    best = jax.tree.map(lambda a, b: jnp.where(better, a, b), theta, best)
    carry = theta, opt_state, log_beta, best, jnp.minimum(value, best_score)
    return carry, None

  log_beta = jnp.where(unknown, 0.0, floor)
  start = theta, optimizer.init(theta), log_beta, theta, jnp.inf
  carry, _ = jax.lax.scan(body, start, jnp.arange(num_steps))
  _, _, _, best, _ = carry
  return best


_DUAL_RATE = 0.1  # of log beta per Adam step: e-fold in ten steps


def step_size(
  gain: shapes.Scalar, kl: shapes.Scalar, *, trust: float
) -> shapes.Scalar:
  r"""The step size that would move as far as is trusted; 0 if nothing was gained.

  .. math:: \eta = \frac{2 \sqrt{\mathrm{KL} \cdot \mathrm{trust}}}{g}

  On the way of a step a gain grows in proportion and the divergence with its
  square, so that :math:`g - \mathrm{KL} / \eta` is greatest there where
  :math:`g = 2\, \mathrm{KL} / \eta`. Beta itself swings around :math:`1 / \eta`
  while the solver works: where it ends is off by a factor of two to four.

  Args:
    gain: g, of a step without a size, as what it was fitted to has it.
    kl: nats that it moved.
    trust: nats that a step may move.

  >>> step_size(jnp.float32(0.5), jnp.float32(0.2), trust=0.2).round(3).item()
  0.8
  """
  some = gain > 0
  return jnp.where(
    some, 2 * jnp.sqrt(kl * trust) / jnp.where(some, gain, 1.0), 0.0
  )
