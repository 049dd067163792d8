r"""Implicit hypergradients: phi taken for the minimum of the inner objective.

.. math:: \bar w_{t,b} = -\tfrac{1}{S} \langle \nabla \ell_b(\phi_S), x \rangle,
          \qquad H x = \nabla L(\phi_S), \qquad
          H = \tfrac{1}{S} \sum_t \nabla^2 \sum_b w_{t,b}\, \ell_b(\phi_S)

Nothing of the trajectory is stored. A proxy in pre-training is far from a minimum
and its Hessian is not positive, so these are here for the comparison with
unrolling, and for inner problems that do converge.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from cmtree_jax import shapes
from cmtree_jax.bilevel import values
from cmtree_jax.bilevel.cost import GRADIENT, HESSIAN, TANGENT, UnrollCost
from cmtree_jax.bilevel.problem import Hypergradient, Problem, differentiate
from cmtree_jax.bilevel.training import inner_step
from cmtree_jax.bilevel.unrolled import outer_gradient
from cmtree_jax.bilevel.weighted_gradient import hessian_product


def neumann(
  problem: Problem,
  *,
  optimizer: optax.GradientTransformation,
  terms: int = 16,
  step_size: float = 0.1,
  mesh: Mesh | None = None,
) -> Hypergradient:
  r"""The implicit hypergradient by a truncated Neumann series.

  .. math:: x = \eta \sum_{j<J} (I - \eta H)^j\, \nabla L

  At a minimum it is the unrolled gradient through J full steps of gradient descent
  at the rate eta. Arguments as of `unrolled`.

  Args:
    terms: J; each but the first costs a Hessian product over all inner batches.
    step_size: eta, below 2 over the largest curvature.
  References:
    Lorraine et al., `Optimizing Millions of Hyperparameters by Implicit
    Differentiation <https://arxiv.org/abs/1911.02590>`_, 2020, eq. 8.
  """

  def solve(product, slope):
    def add_term(_, carry):
      term, total = carry
      curved = product(term)
      term = jax.tree.map(lambda a, b: a - step_size * b, term, curved)
      return term, jax.tree.map(jnp.add, total, term)

    _, total = jax.lax.fori_loop(0, terms - 1, add_term, (slope, slope))
    return jax.tree.map(lambda x: step_size * x, total)

  return _implicit(solve, problem, optimizer=optimizer, mesh=mesh)


def neumann_cost(
  num_steps: int, *, terms: int = 16, step_size: float = 0.1
) -> UnrollCost:
  """A product with the Hessian for each term but the first."""
  del num_steps, step_size
  return UnrollCost(GRADIENT + (terms - 1) * HESSIAN + TANGENT, 1)


def cg(
  problem: Problem,
  *,
  optimizer: optax.GradientTransformation,
  iterations: int = 16,
  damping: float = 0.1,
  mesh: Mesh | None = None,
) -> Hypergradient:
  r"""The implicit hypergradient by conjugate gradients on a damped Hessian.

  .. math:: (H + \lambda I)\, x = \nabla L

  Arguments as of `unrolled`.

  Args:
    iterations: at most; each costs a Hessian product over all inner batches.
    damping: lambda, above minus the lowest curvature.
  References:
    Rajeswaran et al., `Meta-Learning with Implicit Gradients
    <https://arxiv.org/abs/1909.04630>`_, 2019, eq. 7.
  """

  def solve(product, slope):
    damped = lambda x: jax.tree.map(  # noqa: E731
      lambda a, b: a + damping * b, product(x), x
    )
    return jax.scipy.sparse.linalg.cg(damped, slope, maxiter=iterations)[0]

  return _implicit(solve, problem, optimizer=optimizer, mesh=mesh)


def cg_cost(
  num_steps: int, *, iterations: int = 16, damping: float = 0.1
) -> UnrollCost:
  """A product with the Hessian for each iteration."""
  del num_steps, damping
  return UnrollCost(GRADIENT + iterations * HESSIAN + TANGENT, 1)


def _implicit(
  solve: Callable[..., shapes.Tree], problem: Problem, *, optimizer, mesh
) -> Hypergradient:
  losses = problem.inner_loss.losses

  def trajectory(weight_S, phi, inner_batches, outer_batch, axis):
    def train(phi, xs):
      return inner_step(
        losses, xs[0], phi, xs[1], optimizer=optimizer, axis=axis
      )

    steps = weight_S, inner_batches
    phi, inner_loss_S = jax.lax.scan(train, phi, steps)
    loss, slope = outer_gradient(
      problem.outer_loss, phi.params, outer_batch, axis
    )
    scale = 1 / weight_S.shape[0]

    def product(direction):
      def add(total, xs):
        curved = hessian_product(
          losses, phi.params, xs[0], xs[1], direction, axis=axis
        )
        return jax.tree.map(lambda a, b: a + scale * b, total, curved), None

      zeros = jax.tree.map(jnp.zeros_like, direction)
      return jax.lax.scan(add, zeros, steps)[0]

    adjoint = jax.tree.map(jnp.negative, solve(product, slope))
    grad_weight_S = jax.lax.map(
      lambda batch: (
        -scale * values.probe(losses, phi.params, adjoint, batch)[1]
      ),
      inner_batches,
    )
    grad_weight_S = grad_weight_S.astype(weight_S.dtype)
    return loss, grad_weight_S, phi, adjoint, inner_loss_S

  return differentiate(trajectory, problem, mesh=mesh)
