r"""Hypergradients through unrolled inner steps: `jax.grad` of a scan over training.

`unrolled` is exact; `difference` and `first_order` replace the Hessian-vector
product of every step, `truncated` forgets what lies before a short window.
"""

import functools

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from cmtree_jax import shapes
from cmtree_jax.bilevel import memory
from cmtree_jax.bilevel.cost import GRADIENT, HESSIAN, TANGENT, UnrollCost
from cmtree_jax.bilevel.problem import (
  Hypergradient,
  OuterLoss,
  Problem,
  differentiate,
)
from cmtree_jax.bilevel.training import inner_step
from cmtree_jax.bilevel.weighted_gradient import (
  Curvature,
  sum_over,
  zero_like,
)


def unrolled(
  problem: Problem,
  *,
  optimizer: optax.GradientTransformation,
  policy: memory.Policy = "tape",
  along_path: bool = False,
  mesh: Mesh | None = None,
) -> Hypergradient:
  r"""The exact derivative of the outer loss after S inner steps.

  .. math:: \nabla_\theta L(\phi_S), \qquad
            \phi_{t+1} = \mathrm{Opt}\Big(\phi_t,
              \nabla_\phi \sum_b w_b(\theta)\, \ell_b(\phi_t)\Big)

  It costs 11/3 of the plain inner steps in FLOPs and 2.9 to 3.9 times their time.

  Args:
    problem: losses, theta, phi and the batches of S inner steps.
    optimizer: any differentiable one (`problem.check_optimizer`). Sign-based
      ones such as Lion have derivative zero almost everywhere, and so, exactly,
      has what is returned.
    policy: what is stored of every step; see `memory`. The result is the same.
    along_path: the outer loss is the sum over the phi after every step instead
      of that after the last.
    mesh: its axis `data` divides documents; see `problem.differentiate`.
  Returns:
    A Hypergradient; its `adjoint` is the derivative along a gradient that is
    added to every inner step, from which `values.probe` reads the values of
    documents that were in no batch.
  References:
    Kemaev et al., `Scalable Meta-Learning via Mixed-Mode Differentiation
    <https://arxiv.org/abs/2505.00793>`_, 2025; Maclaurin et al., 2015, eq. 4;
    with `along_path` and SGD, the co-states of Gu et al., `Data Selection via
    Optimal Control <https://arxiv.org/abs/2410.07064>`_, 2024, eq. 6.

  Two documents pull phi to 0 and to 2 with weights theta; the target asks for 2:

  >>> from cmtree_jax.bilevel.problem import Inner, InnerLoss
  >>> away = lambda phi, x: (phi - x) ** 2 / 2
  >>> sgd = optax.sgd(0.5)
  >>> problem = Problem(
  ...   outer_loss=away,
  ...   inner_loss=InnerLoss(away, lambda theta, x_SB: theta + 0 * x_SB),
  ...   theta=jnp.array([0.5, 0.5]),
  ...   phi=Inner(jnp.array(1.0), sgd.init(1.0)),
  ...   inner_batches=jnp.array([[0.0, 2.0]]),
  ...   outer_batch=2.0,
  ... )
  >>> print(unrolled(problem, optimizer=sgd).grad_theta)
  [ 0.5 -0.5]
  """
  trajectory = functools.partial(
    _trajectory,
    problem,
    optimizer=optimizer,
    policy=policy,
    along_path=along_path,
  )
  return differentiate(trajectory, problem, mesh=mesh)


def unrolled_cost(
  num_steps: int,
  *,
  policy: memory.Policy = "tape",
  along_path: bool = False,
) -> UnrollCost:
  """A gradient and a product with the Hessian at every step.

  >>> unrolled_cost(16)
  UnrollCost(inner_passes=11, outer_gradients=1)
  """
  inner = GRADIENT + HESSIAN + _retraining(policy)
  return UnrollCost(inner, num_steps if along_path else 1)


def difference(
  problem: Problem,
  *,
  optimizer: optax.GradientTransformation,
  policy: memory.Policy = "tape",
  along_path: bool = False,
  mesh: Mesh | None = None,
) -> Hypergradient:
  r"""`unrolled` with Hessian-vector products by a one-sided difference.

  .. math:: \nabla^2 \ell(\phi)\, u \approx
            \frac{\nabla \ell(\phi + h u) - \nabla \ell(\phi)}{h}, \qquad
            h = 10^{-4}\, \|\phi\| / \|u\|

  The gradient at phi is on the tape already, so a step costs one more gradient:
  6/3 of the plain steps in FLOPs, twice their time. It needs no forward-mode
  rule, so fused attention kernels may stay. Relative error in float32: 3e-3 to
  1e-2 with AdamW, 2e-2 to 3e-2 with momentum; not for bfloat16.
  Arguments as of `unrolled`.
  """
  trajectory = functools.partial(
    _trajectory,
    problem,
    optimizer=optimizer,
    policy=policy,
    curvature="difference",
    along_path=along_path,
  )
  return differentiate(trajectory, problem, mesh=mesh)


def difference_cost(
  num_steps: int,
  *,
  policy: memory.Policy = "tape",
  along_path: bool = False,
) -> UnrollCost:
  """Two gradients at every step."""
  inner = 2 * GRADIENT + _retraining(policy)
  return UnrollCost(inner, num_steps if along_path else 1)


def first_order(
  problem: Problem,
  *,
  optimizer: optax.GradientTransformation,
  policy: memory.Policy = "tape",
  along_path: bool = False,
  mesh: Mesh | None = None,
) -> Hypergradient:
  r"""`unrolled` without curvature: a step moves later ones by its update alone.

  Every Hessian is taken for zero; the optimizer's states are differentiated
  exactly. 6/3 of the plain steps in FLOPs, as a difference has, in less time and
  without its gradient. The cosine per document, .4 to .9, falls with S, and the
  size is off. Arguments as of `unrolled`.
  """
  trajectory = functools.partial(
    _trajectory,
    problem,
    optimizer=optimizer,
    policy=policy,
    curvature="none",
    along_path=along_path,
  )
  return differentiate(trajectory, problem, mesh=mesh)


def first_order_cost(
  num_steps: int,
  *,
  policy: memory.Policy = "tape",
  along_path: bool = False,
) -> UnrollCost:
  """A gradient and the tangent of a forward pass at every step."""
  inner = GRADIENT + TANGENT + _retraining(policy)
  return UnrollCost(inner, num_steps if along_path else 1)


def truncated(
  problem: Problem,
  *,
  optimizer: optax.GradientTransformation,
  window: int = 4,
  policy: memory.Policy = "tape",
  mesh: Mesh | None = None,
) -> Hypergradient:
  r"""The sum of exact hypergradients of windows, each to the loss at its own end.

  .. math:: \sum_{j=1}^{S/m} \nabla_{w_{(j-1)m+1 \dots jm}} L(\phi_{jm})

  With m = S it is `unrolled`. The tape is m steps long; every window costs a
  gradient of the outer loss. Arguments as of `unrolled`.

  Args:
    window: m, steps; S must be a multiple.
  References:
    Calian et al., `DataRater <https://arxiv.org/abs/2505.17895>`_, 2025 (m = 2).
  """
  num_steps = jax.tree.leaves(problem.inner_batches)[0].shape[0]
  _check_window(num_steps, window)

  def trajectory(weight_S, phi, inner_batches, outer_batch, axis):
    def one(carry, xs):
      phi, total = carry
      loss, grad_weight, phi, adjoint, inner_loss = _trajectory(
        problem,
        xs[0],
        phi,
        xs[1],
        outer_batch,
        axis,
        optimizer=optimizer,
        policy=policy,
      )
      total = jax.tree.map(jnp.add, total, adjoint)
      return (phi, total), (loss, grad_weight, inner_loss)

    xs = _divide((weight_S, inner_batches), num_steps // window)
    zeros = jax.tree.map(jnp.zeros_like, phi.params)
    (phi, adjoint), (loss, *of_steps) = jax.lax.scan(one, (phi, zeros), xs)
    grad_weight_S, inner_loss_S = (x.reshape(weight_S.shape) for x in of_steps)
    return loss[-1], grad_weight_S, phi, adjoint, inner_loss_S

  return differentiate(trajectory, problem, mesh=mesh)


def truncated_cost(
  num_steps: int, *, window: int = 4, policy: memory.Policy = "tape"
) -> UnrollCost:
  """That of `unrolled`, with a gradient of the outer loss for every window.

  >>> truncated_cost(16, window=2).outer_gradients
  8
  """
  _check_window(num_steps, window)
  inner = GRADIENT + HESSIAN + _retraining(policy)
  return UnrollCost(inner, num_steps // window)


def _check_window(num_steps: int, window: int) -> None:
  """Refuses windows that do not fill the steps, with a ValueError."""
  if num_steps % window:
    raise ValueError(
      f"The {num_steps} inner steps must be a multiple of window = {window}."
    )


def _retraining(policy: memory.Policy) -> int:
  """Passes to find the states of a segment again, by training through it."""
  return GRADIENT if policy == "sqrt" else 0


def _trajectory(
  problem,
  weight_S,
  phi,
  inner_batches,
  outer_batch,
  axis,
  *,
  optimizer,
  policy,
  curvature: Curvature = "exact",
  along_path=False,
):
  """A `problem.Trajectory` by reverse mode through the scan over the steps."""
  save = memory.SAVE[policy]

  def objective(weight_S, offset):
    @save.step
    def step(phi, xs):
      weight, batch = xs
      phi, inner_loss = inner_step(
        problem.inner_loss.losses,
        weight,
        phi,
        batch,
        optimizer=optimizer,
        offset=offset,
        curvature=curvature,
        axis=axis,
      )
      if not along_path:
        return phi, (inner_loss, None)
      outer = _total(problem.outer_loss, axis, phi.params, outer_batch)
      return phi, (inner_loss, outer)

    @save.segment
    def segment(phi, xs):
      return jax.lax.scan(step, phi, xs)

    num_steps = weight_S.shape[0]
    segments = memory.segment_count(num_steps) if save.in_segments else 1
    phi_next, (inner_loss_S, path) = jax.lax.scan(
      segment, phi, _divide((weight_S, inner_batches), segments)
    )
    found = phi_next, inner_loss_S.reshape(weight_S.shape)
    if along_path:
      return jnp.sum(path), found
    return _total(problem.outer_loss, axis, phi_next.params, outer_batch), found

  offset = jax.tree.map(jnp.zeros_like, phi.params)
  (loss, (phi_next, inner_loss_S)), (grad_weight_S, adjoint) = (
    jax.value_and_grad(objective, argnums=(0, 1), has_aux=True)(
      weight_S, offset
    )
  )
  return loss, grad_weight_S, phi_next, adjoint, inner_loss_S


def outer_gradient(
  outer_loss: OuterLoss,
  params: shapes.Tree,
  outer_batch: shapes.Tree,
  axis: str | None,
) -> tuple[shapes.Scalar, shapes.Tree]:
  """The outer loss of all devices' documents and its gradient, in one sum."""
  found = jax.value_and_grad(outer_loss)(params, outer_batch)
  return sum_over(found, axis)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _total(outer_loss, axis, params, outer_batch):
  return sum_over(outer_loss(params, outer_batch), axis)


def _total_forward(outer_loss, axis, params, outer_batch):
  loss, gradient = outer_gradient(outer_loss, params, outer_batch, axis)
  return loss, (gradient, outer_batch)


def _total_backward(outer_loss, axis, residual, cotangent):
  del outer_loss, axis
  gradient, outer_batch = residual
  params_bar = jax.tree.map(lambda g: cotangent.astype(g.dtype) * g, gradient)
  return params_bar, zero_like(outer_batch)


_total.defvjp(_total_forward, _total_backward)


def _divide(tree, parts):
  """Leaves [S, ...] as [parts, S / parts, ...]."""
  return jax.tree.map(
    lambda x: x.reshape(parts, x.shape[0] // parts, *x.shape[1:]), tree
  )
