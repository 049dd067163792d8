r"""Partition and tilts learned together as the density ratio of target and corpus.

What CRISP does on clusters that are given, a tree does on leaves that it may move: it
makes the target's documents likely under the corpus weighed by it.
"""

import functools
import math

import jax
import jax.numpy as jnp
import optax

from cmtree_jax import shapes
from cmtree_jax.tree import mixture, model


def fit(
  key: shapes.Key,
  theta: model.Theta,
  corpus: tuple[shapes.FloatNE, shapes.FloatN],
  target: tuple[shapes.Array, shapes.Array],
  held_out: tuple[shapes.Array, shapes.Array],
  *,
  optimizer: optax.GradientTransformation,
  max_weight: float | shapes.Scalar,
  num_steps: int,
  batch: int,
) -> model.Theta:
  r"""The tree whose weights are the likeliest density ratio below `max_weight`.

  .. math:: \max_\theta \; \mathbb{E}_{x \sim \mathrm{target}}[\log w_\theta(x)]
            \quad \text{with} \quad \mathbb{E}_{x \sim q}[w_\theta(x)] = 1, \;
            w_\theta \le R

  Both conditions hold for every tree (`mixture.leaf_log_w`). The bound R decides
  how far the tree goes: without one it carves out the few documents next to the
  target's; with it the best that it can do is to put all of the target into
  leaves that hold 1/R of the corpus, and the effective sample size stays above
  1/R. Every step draws fresh documents, or it would carve out a sample. The
  target's own documents are few, and soon carved out too: the tree that is found
  is the one, of those after every tenth step and of the start, that makes
  documents which are held out likeliest, as KLIEP chooses its kernels. There no
  document counts for less than a weight of a fiftieth, or the unlikeliest decides.

  Args:
    key: of the draws.
    theta: where to start from.
    corpus: features and masses of a sample of the corpus.
    target: of the target's documents.
    held_out: of more of them, which no step sees.
    optimizer: decides what moves; it may leave the partition as it is.
    max_weight: R, of any document.
    num_steps: of the optimizer, at most.
    batch: documents of the corpus per step, and at most of the target.
  Returns:
    The tree; its leaves' tilts are their log-weights, none above log R.
  References:
    Sugiyama et al., `KLIEP <https://doi.org/10.1007/s10463-008-0197-x>`_, 2008,
    for the objective, there over kernels and without a bound.
  """
  as_arrays = functools.partial(jax.tree.map, jnp.asarray)
  return _ascend(
    key,
    theta,
    as_arrays(corpus),
    as_arrays(target),
    as_arrays(held_out),
    jnp.float32(max_weight),
    optimizer=optimizer,
    num_steps=num_steps,
    batch=batch,
  )


@functools.partial(jax.jit, static_argnames=("optimizer", "num_steps", "batch"))
def _ascend(
  key,
  theta,
  corpus,
  target,
  held_out,
  max_weight,
  *,
  optimizer,
  num_steps,
  batch,
):
  def weigh(theta, features, mass):
    log_q_L = mixture.leaf_mass(
      model.log_p_leaf(theta, features), mass / jnp.sum(mass)
    )
    tilt_L = mixture.leaf_tilt(theta)
    return mixture.leaf_log_w(tilt_L, log_q_L, max_weight=max_weight)

  def log_w(theta, log_w_L, features):
    return mixture.document_log_w(model.log_p_leaf(theta, features), log_w_L)

  def cost(theta, key):
    key_corpus, key_target = jax.random.split(key)
    corpus_BE = _draw(key_corpus, corpus, batch)
    log_w_L = weigh(theta, corpus_BE, jnp.full(len(corpus_BE), 1.0))
    return -jnp.mean(log_w(theta, log_w_L, _draw(key_target, target, batch)))

  def score(theta):
    features, mass = held_out
    w = jnp.exp(log_w(theta, weigh(theta, *corpus), features))
    return mass @ jnp.log((1 - _FLOOR) * w + _FLOOR) / jnp.sum(mass)

  def step(carry, number):
    theta, opt_state = carry
    grads = jax.grad(cost)(theta, jax.random.fold_in(key, number))
    update, opt_state = optimizer.update(grads, opt_state, theta)
    return (optax.apply_updates(theta, update), opt_state), None

  def some_steps(carry, numbers):
    now, best, best_score = carry
    now, _ = jax.lax.scan(step, now, numbers)
    now_score = score(now[0])
    better = now_score > best_score
    best = jax.tree.map(
      lambda new, old: jnp.where(better, new, old), now[0], best
    )
    return (now, best, jnp.maximum(now_score, best_score)), None

  start = (theta, optimizer.init(theta)), theta, score(theta)
  every = math.gcd(num_steps, _EVERY)
  numbers = jnp.arange(num_steps).reshape(-1, every)
  (_, theta, _), _ = jax.lax.scan(some_steps, start, numbers)
  more_L = weigh(theta, *corpus) - mixture.leaf_tilt(theta)
  last = theta[-1]
  tilt_MC = last.tilt_MC + more_L.reshape(last.tilt_MC.shape)
  return (*theta[:-1], last._replace(tilt_MC=tilt_MC))


_EVERY = 10  # steps between two looks at what is held out
_FLOOR = 0.02  # of a weight there


def _draw(key, documents, batch):
  """Features of at most `batch` documents drawn by mass, with replacement."""
  features, mass = documents
  size = min(batch, len(mass))
  edges = jnp.cumsum(mass) / jnp.sum(mass)
  # One draw in each of equal shares has less noise than independent ones.
  at = (jnp.arange(size) + jax.random.uniform(key, (size,))) / size
  document = jnp.searchsorted(edges, at)
  return features[jnp.minimum(document, len(mass) - 1)]
