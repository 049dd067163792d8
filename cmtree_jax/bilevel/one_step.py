r"""The one-step direction: inner products of gradients, along ordinary training."""

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from cmtree_jax.bilevel import values
from cmtree_jax.bilevel.cost import GRADIENT, TANGENT, UnrollCost
from cmtree_jax.bilevel.problem import Hypergradient, Problem, differentiate
from cmtree_jax.bilevel.training import inner_step
from cmtree_jax.bilevel.unrolled import outer_gradient


def one_step(
  problem: Problem,
  *,
  optimizer: optax.GradientTransformation,
  step_size: float = 1.0,
  mesh: Mesh | None = None,
) -> Hypergradient:
  r"""How the loss after every single step would change, were that step one of SGD.

  .. math:: \bar w_{t,b} = -\eta\, \langle \nabla \ell_b(\phi_t),
                           \nabla L(\phi_{t+1}) \rangle

  The direction that DoGE, DGA and R&B follow. With one step of SGD at the rate
  eta it is exact; else it knows neither the optimizer nor later steps. A step
  costs a gradient, a forward pass with its tangent and a gradient of the outer
  loss. Arguments as of `unrolled`.

  Args:
    step_size: eta; it sets the scale, not the direction.
  References:
    Fan et al., `DoGE <https://arxiv.org/abs/2310.15393>`_, 2023, eq. 5.
  """

  def trajectory(weight_S, phi, inner_batches, outer_batch, axis):
    def step(carry, xs):
      phi, total = carry
      weight, batch = xs
      phi_next, inner_loss = inner_step(
        problem.inner_loss.losses,
        weight,
        phi,
        batch,
        optimizer=optimizer,
        axis=axis,
      )
      loss, slope = outer_gradient(
        problem.outer_loss, phi_next.params, outer_batch, axis
      )
      _, value = values.probe(
        problem.inner_loss.losses, phi.params, slope, batch
      )
      total = jax.tree.map(lambda x, g: x - step_size * g, total, slope)
      return (phi_next, total), (
        loss,
        step_size * value,
        inner_loss,
      )

    zeros = jax.tree.map(jnp.zeros_like, phi.params)
    (phi, adjoint), (loss, grad_weight_S, inner_loss_S) = jax.lax.scan(
      step, (phi, zeros), (weight_S, inner_batches)
    )
    grad_weight_S = grad_weight_S.astype(weight_S.dtype)
    return loss[-1], grad_weight_S, phi, adjoint, inner_loss_S

  return differentiate(trajectory, problem, mesh=mesh)


def one_step_cost(num_steps: int, *, step_size: float = 1.0) -> UnrollCost:
  """A gradient, a tangent and an outer gradient in each step.

  Gradient and tangent share no forward pass: each scans the layers by itself.
  """
  del step_size
  return UnrollCost(GRADIENT + TANGENT, num_steps)
