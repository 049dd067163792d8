"""A proximal step: as much of a gain as a trust region of weights allows."""

import jax
import jax.numpy as jnp
import optax


def solve(
  objective, score, theta, key, *, optimizer, num_steps, step_size, trust
):
  """A proximal step by Adam: (best iterate by held-out score, step size).

  The objective's KL divergence is weighed by beta, which rises as long as an
  iterate is outside the trust region and falls as long as it is inside, but not
  below 1 / step_size. A step size of zero is unknown: beta is then free, and where
  it ends gives the step size.

  Args:
    objective: (theta, key) -> (cost, KL divergence in nats) that Adam sees.
    score: theta -> the same on what is held out; chooses among the iterates.
    theta: where to start from.
    key: a new one is folded from it at every Adam step.
    optimizer: of theta.
    num_steps: of the optimizer.
    step_size: of the rounds before; 0 in the first.
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
  start = theta, optimizer.init(theta), log_beta, theta, score(theta)[0]
  carry, _ = jax.lax.scan(body, start, jnp.arange(num_steps))
  _, _, log_beta, best, _ = carry
  return best, jnp.where(unknown, jnp.exp(-log_beta), step_size)


_DUAL_RATE = 0.1  # of log beta per Adam step: e-fold in ten steps
