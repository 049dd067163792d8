"""The compiled edge: what the loops call, each traced once per shape.

Everything has a leading axis of members, P: proxies of a population, or the one
model of a final training. Losses are weighted per token here: the weight of a token
is that of its document, and a step's weights are normalized to sum to one, so that
a batch of heavy documents does not act as a larger learning rate.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from cmtree_jax import shapes, sharding
from cmtree_jax.bilevel import HYPERGRADS, population, problem, training, values
from cmtree_jax.bilevel.problem import Inner, InnerLoss
from cmtree_jax.evaluate.perplexity import sum_over_chunks
from cmtree_jax.proxy import loss as proxy_loss
from cmtree_jax.proxy import model, optim
from cmtree_jax.proxy.model import Proxy, ProxyConfig
from cmtree_jax.signals import gradients as domain_gradients


class Window(NamedTuple):
  """What the hypergradient through one window of training steps tells."""

  outer_loss: shapes.Array  # [P], after the window
  value: shapes.Array  # [P, S, B, T], of the window's own tokens
  adjoint: shapes.Tree


class Engine(NamedTuple):
  """The work on all members at once; batches and weights are host arrays.

  `window` and `cooled` train with a learning rate that falls to zero over their
  steps; the members themselves do not move. `train` and `reset` take phi over:
  the one that was passed must not be used again.
  """

  # keys [P] -> phi
  init: Callable[[shapes.Key], Inner]
  # (phi, keys [P], which [P]) -> phi, those members born anew
  reset: Callable[..., Inner]
  # (phi, batches [P, S, B, T], weights alike, which [P]) -> (phi, loss [P, S]);
  # the other members stay as they are
  train: Callable[..., tuple[Inner, shapes.Array]]
  # (phi, batches, weights, (outer batches [P, C, B, T], weights alike)) -> Window
  window: Callable[..., Window]
  # (phi, batches, weights) -> params
  cooled: Callable[..., shapes.Tree]
  # (params, adjoint, batches [P, C, B, T]) -> values alike
  probe: Callable[..., shapes.Array]
  # (params, (batches [C, B, T], weights alike)) -> weighted sum of losses [P]
  weighted_nats: Callable[..., shapes.Array]
  # (params, batches [C, B, T]) -> losses [P, C, B, T]
  losses: Callable[..., shapes.Array]
  # (params, (batches [K, B, T], 1 for a token), (target batches [C, B, T], weights))
  # -> products of gradients [P, K, K] and with the target's [P, K]
  gradient_products: Callable[..., tuple[shapes.Array, shapes.Array]]
  # (params, (batches [K, B, T], 1 for a token)) -> [P, K, K], of the last layer
  head_gram: Callable[..., shapes.Array]


_STEPS = PartitionSpec(
  sharding.POPULATION, None, sharding.DATA
)  # [P, S, B, ..]
_MEMBERS = PartitionSpec(sharding.POPULATION)


def make(
  config: ProxyConfig,
  optimizer: optax.GradientTransformation,
  *,
  mesh: Mesh | None = None,
  estimator: str = "unrolled",
  options: dict[str, Any] | None = None,
) -> Engine:
  """The compiled functions of one model size and optimizer.

  Args:
    config: of the model.
    optimizer: of its training.
    mesh: of `sharding.make_mesh`; P is a multiple of its population axis and B
      of its data axis. None: the first device.
    estimator: name in `HYPERGRADS`.
    options: of the estimator.
  """
  if mesh is None:
    mesh = sharding.make_mesh(data=1)
  proxy = Proxy(config)
  losses = proxy_loss.token_losses(proxy)
  place = _Placement(mesh, proxy, optimizer)

  def each(function):
    return population.each(function, mesh)

  def born(key):
    return problem.init_inner(proxy_loss.init(proxy, key), optimizer)

  def train_one(phi, batches, weight_SBT, wanted):
    def go(phi):
      phi, loss_SBT = training.train(
        losses,
        _normalize(weight_SBT),
        phi,
        batches,
        optimizer=optimizer,
        mesh=mesh,
      )
      return phi, jnp.mean(loss_SBT, axis=(1, 2))

    def stay(phi):
      return phi, jnp.zeros(weight_SBT.shape[0])

    return jax.lax.cond(wanted, go, stay, phi)

  def cool(phi, batches):
    num_steps = batches.tokens_BT.shape[0]
    start = Inner(phi.params, optim.start_cooldown(phi.opt_state))
    return start, optim.cooldown(optimizer, num_steps)

  def cooled_one(phi, batches, weight_SBT):
    start, cooling = cool(phi, batches)
    weight_SBT = _normalize(weight_SBT)
    return training.train(
      losses, weight_SBT, start, batches, optimizer=cooling, mesh=mesh
    )[0].params

  def window_one(phi, batches, weight_SBT, outer_batch):
    start, cooling = cool(phi, batches)
    rows = weight_SBT.shape[1]
    outer_rows = jax.tree.map(  # [C, B, T] -> [C B, T]
      lambda x: x.reshape(-1, x.shape[-1]), outer_batch
    )
    result = HYPERGRADS[estimator].run(
      problem.Problem(
        lambda params, part: sum_over_chunks(losses)(
          params, _chunk(part, rows)
        ),
        InnerLoss(losses, lambda weight_SBT, _: _normalize(weight_SBT)),
        weight_SBT,
        start,
        batches,
        outer_rows,
      ),
      optimizer=cooling,
      mesh=mesh,
      **(options or {}),
    )
    # A derivative per token of one step becomes one per unit of density over
    # the whole window, the unit of `values.probe`.
    value_SBT = -result.grad_theta * weight_SBT.size
    return Window(result.loss, value_SBT, result.adjoint)

  def on_documents(function, *, num_whole, out):
    """On each device's documents [C, B, T]; the first arguments are whole."""
    whole, chunks = PartitionSpec(), PartitionSpec(None, sharding.DATA)
    return sharding.shard_map(
      function,
      mesh,
      axis=sharding.DATA,
      in_specs=(*(whole,) * num_whole, chunks),
      out_specs=out,
    )

  def probe_one(params, adjoint, batches):
    return on_documents(
      lambda params, adjoint, batches: jax.lax.map(
        lambda batch: values.probe(losses, params, adjoint, batch)[1], batches
      ),
      num_whole=2,
      out=PartitionSpec(None, sharding.DATA),
    )(params, adjoint, batches)

  def nats_one(params, weighted):
    return on_documents(
      lambda params, weighted: jax.lax.psum(
        sum_over_chunks(losses)(params, weighted), sharding.DATA
      ),
      num_whole=1,
      out=PartitionSpec(),
    )(params, weighted)

  def losses_one(params, batches):
    return on_documents(
      lambda params, batches: jax.lax.map(
        lambda batch: losses(params, batch), batches
      ),
      num_whole=1,
      out=PartitionSpec(None, sharding.DATA),
    )(params, batches)

  # A few rows of each domain do not divide among devices: each computes them all.
  def products_one(params, domains, targets):
    found = domain_gradients.gradient_products(
      losses, params, *domains, target=targets
    )
    return found.gram_KK, found.target_dot_K

  def head_gram_one(params, domains):
    return domain_gradients.head_gram(
      proxy_loss.hidden_and_logits(proxy),
      params,
      domains[0],
      domains[0].label_BT,
      domains[1],
    )

  jit_products = jax.jit(
    lambda params, domains, targets: each(
      lambda params: products_one(params, domains, targets)
    )(params)
  )
  jit_head_gram = jax.jit(
    lambda params, domains: each(lambda params: head_gram_one(params, domains))(
      params
    )
  )
  jit_init = jax.jit(each(born), out_shardings=place.phi)
  jit_reset = jax.jit(
    each(
      lambda phi, key, wanted: jax.tree.map(
        lambda old, new: jnp.where(wanted, new, old), phi, born(key)
      )
    ),
    donate_argnums=0,
    out_shardings=place.phi,
  )
  jit_train = jax.jit(
    each(train_one), donate_argnums=0, out_shardings=(place.phi, None)
  )
  jit_window = jax.jit(each(window_one))
  jit_cooled = jax.jit(each(cooled_one), out_shardings=place.phi.params)
  jit_probe = jax.jit(each(probe_one))
  jit_nats = jax.jit(
    lambda params, weighted: each(lambda params: nats_one(params, weighted))(
      params
    )
  )
  jit_losses = jax.jit(
    lambda params, batches: each(lambda params: losses_one(params, batches))(
      params
    )
  )
  return Engine(
    init=lambda keys: jit_init(place.put(keys, _MEMBERS)),
    reset=lambda phi, keys, which: jit_reset(
      phi, place.put(keys, _MEMBERS), place.put(which, _MEMBERS)
    ),
    train=lambda phi, batches, weight, which: jit_train(
      phi,
      *place.put((batches, weight), _STEPS),
      place.put(which, _MEMBERS),
    ),
    window=lambda phi, batches, weight, outer: jit_window(
      phi, *place.put((batches, weight, outer), _STEPS)
    ),
    cooled=lambda phi, batches, weight: jit_cooled(
      phi, *place.put((batches, weight), _STEPS)
    ),
    probe=lambda params, adjoint, batches: jit_probe(
      params, adjoint, place.put(batches, _STEPS)
    ),
    weighted_nats=lambda params, weighted: jit_nats(
      params, place.put(weighted, PartitionSpec(None, sharding.DATA))
    ),
    losses=lambda params, batches: jit_losses(
      params, place.put(batches, PartitionSpec(None, sharding.DATA))
    ),
    gradient_products=lambda params, *weighted: jit_products(
      params, *place.put(weighted, PartitionSpec())
    ),
    head_gram=lambda params, domains: jit_head_gram(
      params, place.put(domains, PartitionSpec())
    ),
  )


class _Placement:
  """Where arrays live on the mesh."""

  def __init__(self, mesh, proxy, optimizer):
    self._mesh = mesh
    shape = jax.eval_shape(
      lambda: problem.init_inner(
        proxy_loss.init(proxy, jax.random.key(0)), optimizer
      )
    )
    self.phi: Inner = jax.tree.map(
      lambda spec: NamedSharding(
        mesh, PartitionSpec(sharding.POPULATION, *spec)
      ),
      model.param_specs(shape),
      is_leaf=lambda x: isinstance(x, PartitionSpec),
    )

  def put(self, tree, spec):
    return sharding.put(tree, self._mesh, spec)


def _normalize(weight_SBT):
  """Each step's weights to sum to one; one sum over devices for all steps."""
  return weight_SBT / jnp.sum(weight_SBT, axis=(1, 2), keepdims=True)


def _chunk(tree, rows: int):
  """Rows [R, T] as [C, b, T], b the largest divisor of R and `rows` alike."""
  return jax.tree.map(
    lambda x: x.reshape(-1, math.gcd(x.shape[0], rows), x.shape[1]), tree
  )
