"""Products of domains' gradients: against `jax.grad` of each domain on its own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from cmtree_jax.data.draw.batch import Batch
from cmtree_jax.proxy import loss as proxy_loss
from cmtree_jax.proxy.model import Proxy, ProxyConfig
from cmtree_jax.signals import SIGNALS, observe
from cmtree_jax.signals import gradients as domain_gradients
from cmtree_jax.signals.base import token_weights
from tests import toy

K, B, T, V, C = 4, 2, 6, 11, 3
PROXY = Proxy(ProxyConfig(vocab_size=V, width=8, layers=1, heads=2))
LOSSES = proxy_loss.token_losses(PROXY)
OUTPUTS = proxy_loss.hidden_and_logits(PROXY)


def rows(seed, *shape):
  rng = np.random.default_rng(seed)
  tokens = rng.integers(0, V, (*shape, T + 1)).astype(np.int32)
  zeros = np.zeros((*shape, T), np.int32)
  return Batch(tokens[..., :-1], tokens[..., 1:], zeros, zeros)


@pytest.fixture(scope="module")
def setting():
  """(params, batch [K, B, T], weight_KBT): all full but the last two domains."""
  params = proxy_loss.init(PROXY, jax.random.key(0))
  weight_KBT = np.ones((K, B, T), np.float32)
  weight_KBT[2, 1, 2:] = 0  # padding at the end
  weight_KBT[3] = 0  # a domain without tokens
  return params, rows(0, K, B), weight_KBT


def target_of(batches, weight_CBT):
  return batches, np.asarray(weight_CBT, np.float32)


PRODUCTS = jax.jit(
  lambda params, batch, weight_KBT, target: domain_gradients.gradient_products(
    LOSSES, params, batch, weight_KBT, target=target
  )
)
TARGET_PRODUCTS = jax.jit(
  lambda params, domains, targets: domain_gradients.target_products(
    LOSSES, params, domains, targets
  )
)


@jax.jit
def HEAD_GRAM(params, batch, weight_KBT):
  gradient_KDV = domain_gradients.head_gradients(
    OUTPUTS, params, batch, batch.label_BT, weight_KBT
  )
  return jnp.einsum("idv,jdv->ij", gradient_KDV, gradient_KDV)


def take(batch, index):
  return jax.tree.map(lambda x: x[index], batch)


def mean_of_tokens(params, batch, weight_KBT, k):
  """Without padding anywhere: the mean of the real tokens' losses."""
  real = np.flatnonzero(np.ravel(weight_KBT[k]))
  return jnp.mean(jnp.ravel(LOSSES(params, take(batch, k)))[real])


def test_products_are_those_of_each_domain_s_own_gradient(setting):
  params, batch, weight_KBT = setting
  target = target_of(
    rows(1, C, B), np.random.default_rng(2).uniform(0, 0.2, (C, B, T))
  )
  found = PRODUCTS(params, batch, weight_KBT, target)
  slope = jax.value_and_grad(mean_of_tokens)
  each = [slope(params, batch, weight_KBT, k) for k in range(K - 1)]
  loss_K = np.array([loss for loss, _ in each] + [0.0])
  gradient_KP = np.array([ravel_pytree(g)[0] for _, g in each])
  gradient_KP = np.pad(gradient_KP, ((0, 1), (0, 0)))

  def target_loss(params):
    return sum(
      jnp.vdot(target[1][c], LOSSES(params, take(target[0], c)))
      for c in range(C)
    )

  target_P = ravel_pytree(jax.grad(target_loss)(params))[0]
  gram_KK = gradient_KP @ gradient_KP.T
  scale = gram_KK.max()
  np.testing.assert_allclose(found.loss_K, loss_K, rtol=1e-5)
  np.testing.assert_allclose(found.gram_KK, gram_KK, atol=1e-5 * scale)
  np.testing.assert_allclose(
    found.target_dot_K, gradient_KP @ target_P, atol=1e-5 * scale
  )
  assert np.abs(gram_KK[:3, :3]).min() > 1e-2 * scale


def test_padding_and_domains_without_tokens_count_for_nothing(setting):
  params, batch, weight_KBT = setting
  target = target_of(rows(1, C, B), np.ones((C, B, T)))
  before = PRODUCTS(params, batch, weight_KBT, target)
  heads = HEAD_GRAM(params, batch, weight_KBT)
  padding = weight_KBT == 0
  other = Batch(
    np.where(padding, (batch.tokens_BT + 3) % V, batch.tokens_BT),
    np.where(padding, (batch.label_BT + 5) % V, batch.label_BT),
    batch.segment_BT,
    batch.document_BT,
  )
  after = PRODUCTS(params, other, weight_KBT, target)
  for one, two in zip(before, after, strict=True):
    np.testing.assert_allclose(two, one, rtol=1e-5, atol=1e-6)
    assert (np.asarray(one)[3] == 0).all()
  np.testing.assert_allclose(
    HEAD_GRAM(params, other, weight_KBT), heads, rtol=1e-5, atol=1e-6
  )
  assert (np.asarray(heads)[3] == 0).all()


def test_a_domain_equal_to_the_target_has_its_squared_norm(setting):
  params, batch, weight_KBT = setting
  tokens = weight_KBT[2].sum()
  target = take(batch, slice(2, 3)), weight_KBT[2:3] / tokens
  found = PRODUCTS(params, batch, weight_KBT, target)
  np.testing.assert_allclose(
    found.target_dot_K, found.gram_KK[2], rtol=1e-5, atol=1e-6
  )
  assert found.target_dot_K[2] > 0.1


def test_without_a_target_there_is_no_product_with_it(setting):
  params, batch, weight_KBT = setting
  found = PRODUCTS(params, batch, weight_KBT, None)
  assert found.target_dot_K is None
  assert found.gram_KK.shape == (K, K)


def test_the_product_with_all_targets_is_that_of_each_by_what_it_counts(
  setting,
):
  params, batch, weight_KBT = setting
  targets, weight_CBT = rows(1, C, B), np.ones((C, B, T), np.float32)
  weight_CBT[1, 1, 3:] = 0  # a shorter target
  found = TARGET_PRODUCTS(params, (batch, weight_KBT), (targets, weight_CBT))
  dot_TK, norm_K, norm_T, loss_T = found
  share_T = np.array([0.5, 0.3, 0.2])
  counts = weight_CBT.sum(axis=(1, 2))
  weighted = weight_CBT * (share_T / counts)[:, None, None]
  together = PRODUCTS(params, batch, weight_KBT, target_of(targets, weighted))
  np.testing.assert_allclose(
    share_T @ dot_TK, together.target_dot_K, rtol=1e-4, atol=1e-5
  )
  assert np.abs(dot_TK[0] - dot_TK[1]).max() > 0.1 * np.abs(dot_TK).max()
  loss = [mean_of_tokens(params, targets, weight_CBT, t) for t in range(C)]
  np.testing.assert_allclose(loss_T, loss, rtol=1e-5)
  gram_KK = together.gram_KK
  np.testing.assert_allclose(norm_K, np.sqrt(np.diag(gram_KK)), rtol=1e-5)
  own = PRODUCTS(params, targets, weight_CBT, None)
  np.testing.assert_allclose(norm_T, np.sqrt(np.diag(own.gram_KK)), rtol=1e-5)


def test_hidden_states_and_embedding_give_the_logits(setting):
  params, batch, _ = setting
  hidden_BTD, logits_BTV = OUTPUTS(params, take(batch, 0))
  one = take(batch, 0)
  np.testing.assert_array_equal(
    logits_BTV,
    PROXY.apply({"params": params}, one.tokens_BT, one.segment_BT),
  )
  np.testing.assert_allclose(
    hidden_BTD @ params["embedding"].T, logits_BTV, rtol=1e-5, atol=1e-5
  )


def test_the_head_s_gram_is_that_of_an_offset_of_the_output_embedding(setting):
  params, batch, weight_KBT = setting

  def loss(offset_VD, k):
    hidden_BTD, _ = OUTPUTS(params, take(batch, k))
    logits_BTV = hidden_BTD @ (params["embedding"] + offset_VD).T
    log_p_BTV = jax.nn.log_softmax(logits_BTV)
    label_BT1 = batch.label_BT[k][..., None]
    loss_BT = -jnp.take_along_axis(log_p_BTV, label_BT1, axis=2)[..., 0]
    return jnp.sum(weight_KBT[k] * loss_BT) / max(weight_KBT[k].sum(), 1)

  zeros_VD = jnp.zeros_like(params["embedding"])
  gradient_KP = np.stack(
    [np.ravel(jax.grad(loss)(zeros_VD, k)) for k in range(K)]
  )
  expected_KK = gradient_KP @ gradient_KP.T
  found_KK = HEAD_GRAM(params, batch, weight_KBT)
  scale = expected_KK.max()
  np.testing.assert_allclose(found_KK, expected_KK, atol=1e-5 * scale)
  # The head's part alone: the whole gradient's is another.
  whole_KK = PRODUCTS(params, batch, weight_KBT, None).gram_KK
  assert np.abs(whole_KK - found_KK).max() > 0.1 * scale


def test_a_target_s_loss_is_in_nats_per_token():
  # Of one target whatever its bytes; of two they count as in bits per byte.
  np.testing.assert_allclose(domain_gradients.target_shares(np.array([0.4])), 1)
  np.testing.assert_allclose(
    domain_gradients.target_shares(np.array([0.3, 0.9])), [0.25, 0.75]
  )


def test_the_head_s_product_with_the_target_is_that_of_an_offset():
  view, engine = toy.corpus().view, toy.engine()
  params = engine.init(jax.random.split(jax.random.key(0), 1)).params
  seen = observe(view, engine, params)
  found = SIGNALS["head_dot_K"].compute(seen)["head_dot_K"]
  first = jax.tree.map(lambda x: x[0], params)
  outputs = proxy_loss.hidden_and_logits(engine.proxy)

  def loss(offset_VD, batch):
    hidden_BTD, logits_BTV = outputs(first, batch)
    log_p_BTV = jax.nn.log_softmax(logits_BTV + hidden_BTD @ offset_VD.T)
    loss_BT = -jnp.take_along_axis(log_p_BTV, batch.label_BT[..., None], 2)
    weight = token_weights(batch)
    return jnp.sum(weight * loss_BT[..., 0]) / weight.sum()

  slope = jax.grad(loss)
  zeros_VD = jnp.zeros_like(first["embedding"])
  assert view.targets is not None
  goal = slope(zeros_VD, take(view.targets.rows(1, view.target_rows), 0))
  for k in range(3):  # the last domain is empty
    own = slope(zeros_VD, take(seen.batch, k))
    np.testing.assert_allclose(found[0, k], jnp.vdot(own, goal), rtol=1e-4)
  assert found[0, 3] == 0


def test_the_signal_is_the_product_with_the_target_s_mean_nats_per_token():
  view, engine = toy.corpus().view, toy.engine()
  params = engine.init(jax.random.split(jax.random.key(0), 1)).params
  found = SIGNALS["target_dot_K"].compute(observe(view, engine, params))
  first = jax.tree.map(lambda x: x[0], params)
  losses = proxy_loss.token_losses(engine.proxy)

  def mean_loss(params, batch):
    weight = token_weights(batch)
    return jnp.sum(weight * losses(params, batch)) / weight.sum()

  assert view.targets is not None
  goal = take(view.targets.rows(1, view.target_rows), 0)
  own = take(observe(view, engine, params).batch, 0)
  slope = jax.grad(mean_loss)
  target_P, domain_P = (ravel_pytree(slope(first, x))[0] for x in (goal, own))
  np.testing.assert_allclose(
    found["target_dot_K"][0, 0], domain_P @ target_P, rtol=1e-4
  )
