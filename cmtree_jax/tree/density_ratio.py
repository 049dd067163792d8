r"""Partition and tilts learned together as density ratios of targets and corpus.

What CRISP does on clusters that are given, a tree does on leaves that it may move: it
makes every target's documents likely under the corpus weighed for that target.
"""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from cmtree_jax import shapes
from cmtree_jax.tree import mixture, model, views
from cmtree_jax.tree.mixture import Sample


class Texts(NamedTuple):
  """What is known before the first round, all of it by features."""

  corpus: Sample
  targets: tuple[Sample, ...]  # documents of each
  held_out: tuple[Sample, ...]  # more of each, which no step sees
  masks: views.Masks  # of the features' views; none where there is one


def fit(
  key: shapes.Key,
  theta: model.Theta,
  texts: Texts,
  *,
  optimizer: optax.GradientTransformation,
  max_weight: float | shapes.Scalar,
  num_steps: int,
  batch: int,
  view_penalty: float = 0.0,
) -> model.Theta:
  r"""The partition with the likeliest density ratios of all targets below a bound.

  .. math:: \max_\theta \; \frac{1}{T} \sum_t
            \mathbb{E}_{x \sim t}[\log w_t(x)]
            \quad \text{with} \quad \mathbb{E}_{x \sim q}[w_t(x)] = 1, \;
            w_t \le R

  All targets share the partition, and the scores where leaves score, and each has
  tilts of its own. With tilts for
  all of them together, the mass that the bound takes from a small target goes to
  the others: a leaf around some texts of it sits at the bound and satisfies the
  likelihood, and the target is left with a few per cent of the tokens. Each with
  its own, what the bound takes stays with the target: it goes to what is next
  like it.

  Both conditions hold for every tree (`mixture.leaf_log_w`). The bound R decides
  how far the tree goes: without one it carves out the few documents next to the
  targets'; with it the best that it can do is to put all of a target into
  leaves that hold 1/R of the corpus, and the effective sample size stays above
  1/R. Every step draws fresh documents, or it would carve out a sample. The
  targets' own documents are few, and soon carved out too: the tree that is found
  is the one, of those after every tenth step and of the start, that makes
  documents which are held out likeliest, as KLIEP chooses its kernels. There no
  document counts for less than a weight of a fiftieth, or the unlikeliest decides.

  Args:
    key: of the draws.
    theta: where to start from, with tilts for every target (`starts.make`).
    texts: of corpus and targets.
    optimizer: decides what moves; it may leave the partition as it is.
    max_weight: R, of any document.
    num_steps: of the optimizer, at most.
    batch: documents of the corpus per step, and at most of all targets.
    view_penalty: nats that levels are charged for seeing several views at once.
  Returns:
    The tree, with tilts for every target.
  References:
    Sugiyama et al., `KLIEP <https://doi.org/10.1007/s10463-008-0197-x>`_, 2008,
    for the objective, there over kernels and without a bound.
  """
  return _ascend(
    key,
    theta,
    jax.tree.map(jnp.asarray, texts),
    jnp.float32(max_weight),
    optimizer=optimizer,
    num_steps=num_steps,
    batch=batch,
    view_penalty=view_penalty,
  )


@functools.partial(
  jax.jit, static_argnames=("optimizer", "num_steps", "batch", "view_penalty")
)
def _ascend(
  key, theta, texts, max_weight, *, optimizer, num_steps, batch, view_penalty
):
  scatter_EE = views.scatter(texts.corpus) if texts.masks else None

  def cost(theta, key):
    total = _cost(theta, texts, max_weight, batch, key)
    if view_penalty and texts.masks:
      share_of = views.level_shares(theta, scatter_EE, texts.masks)
      total += view_penalty * views.mixing(share_of)
    return total

  def step(carry, number):
    theta, opt_state = carry
    grads = jax.grad(cost)(theta, jax.random.fold_in(key, number))
    update, opt_state = optimizer.update(grads, opt_state, theta)
    return (optax.apply_updates(theta, update), opt_state), None

  def some_steps(carry, numbers):
    now, best, best_score = carry
    now, _ = jax.lax.scan(step, now, numbers)
    now_score = _score(now[0], texts, max_weight)
    better = now_score > best_score
    best = jax.tree.map(
      lambda new, old: jnp.where(better, new, old), now[0], best
    )
    return (now, best, jnp.maximum(now_score, best_score)), None

  first = _score(theta, texts, max_weight)
  carry = (theta, optimizer.init(theta)), theta, first
  every = math.gcd(num_steps, _EVERY)
  numbers = jnp.arange(num_steps).reshape(-1, every)
  (_, theta, _), _ = jax.lax.scan(some_steps, carry, numbers)
  return theta


_EVERY = 10  # steps between two looks at what is held out
_FLOOR = 0.02  # of a weight there


def _cost(theta, texts, max_weight, batch, key):
  """Minus the mean log-weight of target documents, all of them drawn anew."""
  key_corpus, key_targets = jax.random.split(key)
  corpus_BE = _draw(key_corpus, texts.corpus, batch)
  drawn = Sample(corpus_BE, jnp.full(len(corpus_BE), 1.0))
  log_w_TL = _weigh(theta, drawn, max_weight)
  each = max(1, batch // len(texts.targets))
  found = [
    jnp.mean(
      _log_w(
        theta,
        log_w_L,
        _draw(jax.random.fold_in(key_targets, t), target, each),
        max_weight,
      )
    )
    for t, (target, log_w_L) in enumerate(
      zip(texts.targets, log_w_TL, strict=True)
    )
  ]
  return -sum(found) / len(found)


def _score(theta, texts, max_weight):
  """The mean log-weight, with a floor under it, of what is held out."""
  log_w_TL = _weigh(theta, texts.corpus, max_weight)
  found = []
  for (features, mass_N), log_w_L in zip(texts.held_out, log_w_TL, strict=True):
    w_N = jnp.exp(_log_w(theta, log_w_L, features, max_weight))
    floored_N = jnp.log((1 - _FLOOR) * w_N + _FLOOR)
    found.append(mass_N @ floored_N / jnp.sum(mass_N))
  return sum(found) / len(found)


def _weigh(theta, sample, max_weight):
  """log_w_TL."""
  placed_N = model.place(theta, sample.features)
  mass_N = sample.mass_N / jnp.sum(sample.mass_N)
  return mixture.each_normalized(theta, placed_N, mass_N, max_weight=max_weight)


def _log_w(theta, log_w_L, features, max_weight):
  placed_B = model.place(theta, features)
  return mixture.log_w(placed_B, log_w_L, max_weight=max_weight)


def _draw(key, documents, batch):
  """Features of at most `batch` documents drawn by mass, with replacement."""
  features, mass_N = documents
  return features[mixture.draw(key, mass_N, min(batch, len(mass_N)))]
