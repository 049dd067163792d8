"""The compiled edge: what the loops call, each traced once per shape.

Losses are weighted per token here: the weight of a token is that of its document,
and a step's weights are normalized to sum to one, so that a batch of heavy
documents does not act as a larger learning rate.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from cmtree_jax import optim, shapes
from cmtree_jax.batch import Batch
from cmtree_jax.bilevel import problem, values
from cmtree_jax.bilevel.problem import Inner, InnerLoss
from cmtree_jax.bilevel.unrolled import inner_step, unrolled
from cmtree_jax.evaluate.perplexity import sum_over_chunks
from cmtree_jax.proxy import loss as proxy_loss
from cmtree_jax.proxy.model import Proxy, ProxyConfig


class Window(NamedTuple):
  """What the hypergradient through one window of training steps tells."""

  outer_loss: shapes.Scalar  # after the window
  value_SBT: shapes.FloatSBT  # of the window's own tokens
  adjoint: shapes.Tree


class Engine(NamedTuple):
  """The work on one proxy; batches and weights are host arrays.

  `window` and `cooled` train with a learning rate that falls to zero over their
  steps; the proxy itself does not move.
  """

  init: Callable[[shapes.Key], Inner]
  # (phi, batches [S, B, T], weight_SBT) -> (phi, mean loss of each step)
  train: Callable[[Inner, Batch, shapes.Array], tuple[Inner, shapes.Array]]
  # (phi, batches, weight_SBT, (outer batches [C, B, T], weight_CBT)) -> Window
  window: Callable[..., Window]
  # (phi, batches, weight_SBT) -> params
  cooled: Callable[..., shapes.Tree]
  # (params, adjoint, batches [C, B, T]) -> value_CBT
  probe: Callable[..., shapes.Array]
  # (params, (batches [C, B, T], weight_CBT)) -> weighted sum of losses
  weighted_nats: Callable[..., shapes.Scalar]


def make(
  config: ProxyConfig, optimizer: optax.GradientTransformation
) -> Engine:
  """The compiled functions of one model size and optimizer."""
  proxy = Proxy(config)
  losses = proxy_loss.token_losses(proxy)

  def weights(theta_SBT, numbered):
    weight_BT = theta_SBT[numbered[0]]
    return weight_BT / jnp.sum(weight_BT)

  inner = InnerLoss(
    lambda params, numbered: losses(params, numbered[1]), weights
  )
  outer = sum_over_chunks(losses)

  @jax.jit
  def init(key):
    return problem.init_inner(proxy_loss.init(proxy, key), optimizer)

  def run(phi, batches, weight_SBT, optimizer):
    def step(phi, numbered):
      phi, loss_BT = inner_step(
        inner, weight_SBT, phi, numbered, optimizer=optimizer
      )
      return phi, jnp.mean(loss_BT)

    return jax.lax.scan(step, phi, _number(batches))

  def cool(phi, batches):
    num_steps = batches.tokens_BT.shape[0]
    start = Inner(phi.params, optim.start_cooldown(phi.opt_state))
    return start, optim.cooldown(optimizer, num_steps)

  @jax.jit
  def train(phi, batches, weight_SBT):
    return run(phi, batches, weight_SBT, optimizer)

  @jax.jit
  def cooled(phi, batches, weight_SBT):
    start, cooling = cool(phi, batches)
    return run(start, batches, weight_SBT, cooling)[0].params

  @jax.jit
  def window(phi, batches, weight_SBT, outer_batch):
    start, cooling = cool(phi, batches)
    result = unrolled(
      outer,
      inner,
      weight_SBT,
      start,
      _number(batches),
      outer_batch,
      optimizer=cooling,
    )
    # A derivative per token of one step becomes one per unit of density over
    # the whole window, the unit of `values.probe`.
    value_SBT = -result.grad_theta * weight_SBT.size
    return Window(result.loss, value_SBT, result.adjoint)

  @jax.jit
  def probe(params, adjoint, batches):
    return jax.lax.map(
      lambda batch: values.probe(losses, params, adjoint, batch)[1], batches
    )

  return Engine(init, train, window, cooled, probe, jax.jit(outer))


def _number(batches):
  """Batches with the number of their step, which finds their weights."""
  return jnp.arange(batches.tokens_BT.shape[0]), batches
