r"""How the gradients of domains agree with each other and with those of targets.

Methods that steer a mixture by gradients need no gradient, only inner products: of
a domain's mean loss with another's, with the loss of all targets together, or with
that of each. All are computed here from functions and arrays, at one moment of a
proxy's training; the signals compile that for the proxies of an engine.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from cmtree_jax import shapes, sharding
from cmtree_jax.data.draw.batch import Batch
from cmtree_jax.proxy import engine as engines
from cmtree_jax.proxy import loss as proxy_loss
from cmtree_jax.proxy.engine import Engine
from cmtree_jax.proxy.ledger import FORWARD, GRADIENT, Cost
from cmtree_jax.proxy.model import Proxy
from cmtree_jax.signals.base import (
  Observation,
  Signal,
  target_rows,
  token_weights,
)

Losses = Callable[[shapes.Tree, shapes.Tree], shapes.Array]


class Products(NamedTuple):
  """Of K domains, in float32; zeros for a domain without tokens."""

  loss_K: shapes.Array  # mean over the domain's tokens, nats
  gram_KK: shapes.Array  # <grad loss_i, grad loss_j>
  target_dot_K: Any  # <grad loss_i, grad target loss>; None without a target


def gradient_products(
  losses: Losses,
  params: shapes.Tree,
  batch: shapes.Tree,
  weight_KBT: shapes.Array,
  *,
  target: tuple[shapes.Tree, shapes.Array] | None = None,
) -> Products:
  r"""Mean losses of the domains and the inner products of their gradients.

  .. math:: L_k = \frac{\sum_{bt} w_{kbt}\, \ell_{kbt}(\phi)}{\sum_{bt} w_{kbt}},
            \quad G_{ij} = \langle \nabla L_i, \nabla L_j \rangle, \quad
            a_i = \langle \nabla L_i, \nabla L_\mathrm{target} \rangle

  The domains take turns, so activations are those of one; but all K gradients are
  kept, as rows of every parameter: memory is K + 2 times the parameters.

  Args:
    losses: (params, batch) -> losses of every token, [B, T].
    params: phi.
    batch: rows of every domain, leading axes [K, B].
    weight_KBT: 1 for a token, 0 for padding.
    target: (batches, weights), leading axes [C, B]; the target loss is the sum
      of the weighted losses.
  References:
    Fan et al., `DoGE <https://arxiv.org/abs/2310.15393>`_, 2023; Fan et al.,
    `Dynamic Gradient Alignment <https://arxiv.org/abs/2410.02498>`_, 2024.
  """

  slope = _slope(losses)
  loss_K, gradient_K = _gradients(slope, params, batch, weight_KBT)
  gram_KK = _products(gradient_K, gradient_K)
  if target is None:
    return Products(loss_K, gram_KK, None)

  def add(total, weighted):
    return jax.tree.map(jnp.add, total, slope(params, weighted)[1]), None

  zeros = jax.tree.map(jnp.zeros_like, params)
  gradient, _ = jax.lax.scan(add, zeros, target)
  row = jax.tree.map(lambda x: x[None], gradient)
  return Products(loss_K, gram_KK, _products(gradient_K, row)[:, 0])


class TargetProducts(NamedTuple):
  """Of T targets with K domains, in float32; zeros for a domain without tokens."""

  dot_TK: shapes.Array  # <grad loss_t, grad loss_k>
  norm_K: shapes.Array  # lengths of the domains' gradients
  norm_T: shapes.Array  # of the targets'
  loss_T: shapes.Array  # mean over the target's tokens, nats


def target_products(
  losses: Losses,
  params: shapes.Tree,
  domains: tuple[shapes.Tree, shapes.Array],
  targets: tuple[shapes.Tree, shapes.Array],
) -> TargetProducts:
  r"""Inner products of each target's gradient with each domain's, and the losses.

  .. math:: a_{tk} = \langle \nabla L_t, \nabla L_k \rangle

  with the mean losses of `gradient_products` for targets as for domains. Memory is
  K + T times the parameters.

  Args:
    losses: (params, batch) -> losses of every token, [B, T].
    params: phi.
    domains: (rows of every domain, leading axes [K, B]; 1 for a token, 0 for
      padding).
    targets: the same of every target.
  """
  slope = _slope(losses)
  _, gradient_K = _gradients(slope, params, *domains)
  loss_T, gradient_T = _gradients(slope, params, *targets)
  return TargetProducts(
    _products(gradient_T, gradient_K),
    _lengths(gradient_K),
    _lengths(gradient_T),
    loss_T,
  )


def head_gradients(
  hidden_and_logits: Callable[
    [shapes.Tree, shapes.Tree], tuple[shapes.Array, shapes.Array]
  ],
  params: shapes.Tree,
  batch: shapes.Tree,
  label_KBT: shapes.Array,
  weight_KBT: shapes.Array,
) -> shapes.Array:
  r"""Gradients of the output layer alone, of the domains' mean losses, [K, D, V].

  .. math:: g_k = \frac{1}{n_k} \sum_t
            h_t \big(\mathrm{softmax}(z_t) - e_{y_t}\big)^\top

  with the hidden state h, the logits z and the label y of every token: the
  gradient of a linear layer is its input times the derivative by its output, and
  that of a cross-entropy is known. So there is no backward pass. Where its matrix
  is also the input embedding, this is the part of the gradient that comes through
  the output.

  Args:
    hidden_and_logits: (params, batch) -> (h_BTD, z_BTV), without derivative.
    params: phi.
    batch: rows of every domain, leading axes [K, B].
    label_KBT: y.
    weight_KBT: 1 for a token, 0 for padding.
  References:
    Ge et al., `R&B <https://arxiv.org/abs/2505.00358>`_, 2025.
  """

  def gradient(domain):
    rows, label_BT, share_BT = domain
    hidden_BTD, logits_BTV = hidden_and_logits(params, rows)
    error_BTV = jax.nn.softmax(_wide(logits_BTV))
    error_BTV -= label_BT[..., None] == jnp.arange(logits_BTV.shape[-1])
    return jnp.einsum(
      "btd,btv->dv",
      share_BT[..., None] * _wide(hidden_BTD),
      error_BTV,
      precision="highest",
    )

  return jax.lax.map(gradient, (batch, label_KBT, _shares(weight_KBT)))


class Compiled(NamedTuple):
  """All computations for the proxies of one engine; arguments from the host.

  Rows come with weights: those of domains [K, B, T], those of targets [T, B, T].
  """

  # (params, domains, targets) -> [P, K, K], [P, K]
  products: Callable[..., tuple[shapes.Array, shapes.Array]]
  # (params, domains, targets) -> fields [P, ...]
  target_products: Callable[..., TargetProducts]
  # (params, domains) -> [P, K, K]
  head_gram: Callable[..., shapes.Array]
  # (params, domains, targets, what each target counts) -> [P, K]
  head_dot: Callable[..., shapes.Array]


def compiled(engine: Engine) -> Compiled:
  """The programs of an engine, made once for each model and mesh."""
  proxy: Any = engine.proxy  # flax gives modules a hash that types do not show
  return _compiled_for(proxy, engine.mesh)


# A comparison makes an engine for every search, most of one model on one mesh.
@functools.lru_cache(maxsize=4)
def _compiled_for(proxy: Proxy, mesh: Mesh) -> Compiled:
  def products(params, domains, targets):
    losses = proxy_loss.token_losses(proxy)
    found = gradient_products(losses, params, *domains, target=targets)
    return found.gram_KK, found.target_dot_K

  def of_targets(params, domains, targets):
    return target_products(
      proxy_loss.token_losses(proxy), params, domains, targets
    )

  def heads(params, rows):
    batch, weight = rows
    outputs = proxy_loss.hidden_and_logits(proxy)
    return head_gradients(outputs, params, batch, batch.label_BT, weight)

  def gram(params, domains):
    gradient_KDV = heads(params, domains)
    return _products(gradient_KDV, gradient_KDV)

  def dot(params, domains, targets, share_T):
    goal_DV = jnp.tensordot(
      share_T, heads(params, targets), axes=1, precision="highest"
    )
    return _products(heads(params, domains), goal_DV[None])[:, 0]

  # A few rows of each domain do not divide among devices: each computes them all.
  whole = engines.WHOLE
  return Compiled(
    engines.members(mesh, products, [None, whole, whole]),
    engines.members(mesh, of_targets, [None, whole, whole]),
    engines.members(mesh, gram, [None, whole]),
    engines.members(mesh, dot, [None, whole, whole, whole]),
  )


def _target_rows(seen: Observation) -> tuple[Batch, np.ndarray]:
  """Fresh rows of every target, and 1 for a token."""
  rows = target_rows(seen)
  return rows, token_weights(rows)


def _compute_products(seen: Observation) -> dict[str, np.ndarray]:
  targets, weight = weighted_targets(seen)
  gram_PKK, target_dot_PK = compiled(seen.engine).products(
    seen.params,
    (seen.batch, token_weights(seen.batch)),
    (targets, np.float32(weight)),
  )
  return {
    "gram_KK": sharding.gather(gram_PKK),
    "target_dot_K": sharding.gather(target_dot_PK),
  }


def weighted_targets(seen: Observation) -> tuple[Batch, np.ndarray]:
  """Rows of the targets [C, B, T], and what their tokens count in the mean loss."""
  view = seen.view
  if view.targets is None:  # any rows, of weight zero: the products are zero
    rows = jax.tree.map(lambda x: x[:1], seen.batch)
    return rows, np.zeros_like(token_weights(rows))
  rows, weight = _target_rows(seen)
  per_target = np.maximum(weight.sum(axis=(1, 2), keepdims=True), 1.0)
  share_T = target_shares(view.bits_T)
  return rows, weight / per_target * share_T[:, None, None]


def target_shares(bits_T: np.ndarray) -> np.ndarray:
  r"""What a nat per token of each target counts in the targets' loss; sums to one.

  The tables score the mean over targets of bits per byte; this is that mean in the
  unit of the papers that steer by a target's gradient, nats per token. Of one
  target it is its own loss.

  Args:
    bits_T: bits per byte of each target for one nat per token.
  """
  return bits_T / bits_T.sum()


def _products_cost(seen: Observation, flops_per_token: float) -> Cost:
  view = seen.view
  rows = view.fresh_rows + len(view.bits_T) * view.target_rows
  cost = view.cost(rows, GRADIENT, flops_per_token)
  # An inner product is two FLOPs a parameter, as a token's forward pass is.
  count = view.num_domains * (view.num_domains + 1)
  return Cost(cost.tokens, cost.flops + count * flops_per_token)


def _compute_target_products(seen: Observation) -> dict[str, np.ndarray]:
  found = compiled(seen.engine).target_products(
    seen.params, (seen.batch, token_weights(seen.batch)), _target_rows(seen)
  )
  return {
    "target_dot_TK": sharding.gather(found.dot_TK),
    "domain_norm_K": sharding.gather(found.norm_K),
    "target_norm_T": sharding.gather(found.norm_T),
    "target_nats_T": sharding.gather(found.loss_T),
  }


def _target_products_cost(seen: Observation, flops_per_token: float) -> Cost:
  view, targets = seen.view, len(seen.view.bits_T)
  rows = view.fresh_rows + targets * view.target_rows
  cost = view.cost(rows, GRADIENT, flops_per_token)
  # As in `_products_cost`.
  count = view.num_domains * targets + view.num_domains + targets
  return Cost(cost.tokens, cost.flops + count * flops_per_token)


def _compute_head_gram(seen: Observation) -> dict[str, np.ndarray]:
  weighted = seen.batch, token_weights(seen.batch)
  gram_PKK = compiled(seen.engine).head_gram(seen.params, weighted)
  return {"head_gram_KK": sharding.gather(gram_PKK)}


def _head_gram_cost(seen: Observation, flops_per_token: float) -> Cost:
  """A forward pass; each token's outer product, and the gradients' products."""
  view = seen.view
  cost = view.cost(view.fresh_rows, FORWARD, flops_per_token)
  # Two FLOPs for each parameter of the output layer.
  one = 2.0 * seen.engine.proxy.num_head
  return Cost(
    cost.tokens, cost.flops + (cost.tokens + view.num_domains**2) * one
  )


def _compute_head_dot(seen: Observation) -> dict[str, np.ndarray]:
  dot_PK = compiled(seen.engine).head_dot(
    seen.params,
    (seen.batch, token_weights(seen.batch)),
    _target_rows(seen),
    np.float32(target_shares(seen.view.bits_T)),
  )
  return {"head_dot_K": sharding.gather(dot_PK)}


def _head_dot_cost(seen: Observation, flops_per_token: float) -> Cost:
  """A forward pass; each token's outer product, and the gradients' products."""
  view, targets = seen.view, len(seen.view.bits_T)
  rows = view.fresh_rows + targets * view.target_rows
  cost = view.cost(rows, FORWARD, flops_per_token)
  one = 2.0 * seen.engine.proxy.num_head
  count = cost.tokens + view.num_domains + targets
  return Cost(cost.tokens, cost.flops + count * one)


PRODUCTS = Signal(_compute_products, _products_cost)
TARGET_PRODUCTS = Signal(_compute_target_products, _target_products_cost)
HEAD_GRAM = Signal(_compute_head_gram, _head_gram_cost)
HEAD_DOT = Signal(_compute_head_dot, _head_dot_cost)


def _slope(losses: Losses):
  """(params, (rows, weights)) -> (weighted sum of losses, its gradient)."""

  def weighted_sum(params, weighted):
    rows, weight_BT = weighted
    return jnp.sum(weight_BT * losses(params, rows))

  return jax.value_and_grad(weighted_sum)


def _gradients(slope, params, batch, weight_KBT):
  """(mean losses [K], their gradients) of parts that take turns."""
  shares = batch, _shares(weight_KBT)
  return jax.lax.map(lambda weighted: slope(params, weighted), shares)


def _shares(weight_KBT):
  """Weights that sum to one in every domain that has tokens."""
  total_K = jnp.sum(weight_KBT, axis=(1, 2))
  return weight_KBT / jnp.where(total_K > 0, total_K, 1.0)[:, None, None]


def _products(rows_K, rows_J):
  """Inner products [K, J] of trees with a leading axis."""

  def one(a, b):
    rest = tuple(range(1, a.ndim))
    # Accelerators else multiply float32 in fewer bits.
    return jnp.tensordot(
      _wide(a), _wide(b), axes=(rest, rest), precision="highest"
    )

  return jax.tree.reduce(jnp.add, jax.tree.map(one, rows_K, rows_J))


def _lengths(rows_K):
  """Lengths [K] of trees with a leading axis."""

  def one(x):
    return jnp.sum(_wide(x) ** 2, axis=tuple(range(1, x.ndim)))

  return jnp.sqrt(jax.tree.reduce(jnp.add, jax.tree.map(one, rows_K)))


def _wide(x):
  """At least float32."""
  return x.astype(jnp.promote_types(x.dtype, jnp.float32))
