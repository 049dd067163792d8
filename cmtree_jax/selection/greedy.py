"""Sets that cover all documents, chosen one document after the other on the device.

Both choose until a budget of costs is reached, such as tokens. Of equal documents
the first is chosen, so sort them by their keys; gains of `facility_location` that
differ by rounding alone count as different.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cmtree_jax.selection import neighbors
from cmtree_jax.shapes import Array, FloatNE, IntN

_BATCH = 64  # documents whose gains are looked at together


def k_center(
  x_NE: FloatNE, start: IntN, *, cost_N: Array, budget: float
) -> np.ndarray:
  r"""Documents, each the farthest from all that were chosen before it.

  .. math:: j_b = \arg\max_i D_i, \qquad
            D_i = \min_{s \text{ chosen}} |x_i - x_s|_2

  Cost: as many passes over all features as documents are chosen; 4 E + 8 bytes a
  document on the device.

  Args:
    x_NE: features; distances are Euclidean, in float32.
    start: numbers of documents that are chosen already; at least one.
    cost_N: of each document, such as its tokens; ones to count documents.
    budget: documents are added until these cost so much, or none are left.
  Returns:
    Numbers of the documents that were added, in their order.
  Raises:
    ValueError: nothing to start from.
  References:
    Sener and Savarese, `Active Learning for Convolutional Neural Networks: A Core-Set
    Approach <https://arxiv.org/abs/1708.00489>`_, 2018, Algorithm 1.
  """
  start = np.asarray(start)
  if not len(start):
    raise ValueError(
      "k-center wants at least 1 document to start from, came none."
    )
  order_N, count = _k_center(
    jnp.asarray(x_NE, jnp.float32),
    jnp.asarray(start, jnp.int32),
    jnp.asarray(cost_N, jnp.float32),
    jnp.float32(budget),
  )
  return np.asarray(order_N)[: int(count)]


@jax.jit
def _k_center(
  x_NE: Array, start: Array, cost_N: Array, budget: Array
) -> tuple[Array, Array]:
  """(order of N, how many of them were added)."""
  size = len(x_NE)

  def nearer(distance_N, chosen):
    """Squared distances to the nearest chosen one; minus infinity to be chosen."""
    to_chosen_N = jnp.sum((x_NE - x_NE[chosen]) ** 2, axis=1)
    return jnp.minimum(distance_N, to_chosen_N).at[chosen].set(-jnp.inf)

  def add(state):
    distance_N, order_N, count, spent = state
    farthest = jnp.argmax(distance_N)
    return (
      nearer(distance_N, farthest),
      order_N.at[count].set(farthest.astype(jnp.int32)),
      count + 1,
      spent + cost_N[farthest],
    )

  distance_N = jax.lax.fori_loop(
    0,
    len(start),
    lambda s, distance_N: nearer(distance_N, start[s]),
    jnp.full(size, jnp.inf),
  )
  state = (distance_N, jnp.zeros(size, jnp.int32), 0, jnp.float32(0))
  state = jax.lax.while_loop(
    lambda s: (s[3] < budget) & (jnp.max(s[0]) > -jnp.inf), add, state
  )
  return state[1], state[2]


class Chosen(NamedTuple):
  """Documents in the order in which they were chosen."""

  order: np.ndarray  # numbers of documents
  gain: np.ndarray  # what each added to the covering, float32


def of_embedding(embedding_NE: FloatNE) -> Callable[[Array], Array]:
  """The cosines of all documents with some: numbers [B] -> [N, B]."""
  unit_NE = jnp.asarray(neighbors.unit(embedding_NE))
  return lambda rows_B: _columns(unit_NE, rows_B)


def facility_location(
  similarity: Callable[[Array], Array],
  *,
  cost_N: Array,
  budget: float,
) -> Chosen:
  r"""Documents, each the one by which all are represented better than by any other.

  .. math:: F(S) = \sum_i \max\big(0, \max_{j \in S} s_{ij}\big), \qquad
            j_b = \arg\max_j F(S \cup \{j\}) - F(S)

  A gain can only fall as others are chosen. So an old one is a bound, and only the
  documents with the highest bounds are looked at again (Minoux's accelerated greedy),
  in batches. The order is that of the plain algorithm.

  Cost: N^2 similarities for the first gains, then a batch of columns now and then; 16
  bytes a document beside what `similarity` holds.

  Args:
    similarity: numbers of documents [B] -> how well each of these stands for every
      document, [N, B].
    cost_N: of each document, such as its tokens; ones to count documents.
    budget: documents are added until these cost so much, or none adds anything.
  References:
    Wei et al., `Submodularity in Data Subset Selection and Active Learning
    <https://proceedings.mlr.press/v37/wei15.html>`_, 2015.
  """
  size = len(cost_N)
  batch = min(_BATCH, size)
  cost_N = np.asarray(cost_N, np.float64)
  cover_N = jnp.zeros(size)
  bound_N = np.empty(size, np.float32)
  for start in range(0, size, batch):
    rows_B = np.arange(start, start + batch) % size
    bound_N[rows_B] = _gains(similarity(rows_B), cover_N)
  order, gain, spent = [], [], 0.0
  while spent < budget and bound_N.max() > 0:
    best = np.argsort(-bound_N, kind="stable")[: batch + 1]
    rows_B = np.sort(best[:batch])
    # The best outside of the batch, and how many of the batch stand before it.
    outside, before = 0.0, batch
    if len(best) > batch:
      outside = bound_N[best[batch]]
      before = int(np.searchsorted(rows_B, best[batch]))
    found = _accept(
      similarity(rows_B),
      cover_N,
      (jnp.float32(outside), jnp.int32(before)),
      jnp.asarray(cost_N[rows_B], jnp.float32),
      jnp.float32(budget - spent),
    )
    cover_N = found.cover_N
    bound_N[rows_B] = found.bound_B
    count = int(found.count)
    added = rows_B[np.asarray(found.order_B)[:count]]
    order.extend(added.tolist())
    gain.extend(np.asarray(found.gain_B)[:count].tolist())
    spent += float(cost_N[added].sum())
  return Chosen(np.array(order, np.int64), np.array(gain, np.float32))


class _Accepted(NamedTuple):
  cover_N: Array  # how well each document is represented
  bound_B: Array  # what each of the batch would add now; -inf: it was chosen
  order_B: Array  # places in the batch
  gain_B: Array
  count: Array  # of those that were chosen
  spent: Array


@jax.jit
def _accept(
  column_NB: Array,
  cover_N: Array,
  outside: tuple[Array, Array],
  cost_B: Array,
  budget: Array,
) -> _Accepted:
  """Chooses from a batch as long as nothing outside of it can come first.

  Of equal gains the first document's comes first, so `outside` has the greatest bound
  there and how many of the batch have smaller numbers than the first that has it.
  """
  size = column_NB.shape[1]
  bound, before = outside
  start = _Accepted(
    cover_N,
    _gains(column_NB, cover_N),
    jnp.zeros(size, jnp.int32),
    jnp.zeros(size),
    jnp.int32(0),
    jnp.float32(0),
  )

  def goes_on(state: _Accepted):
    best = jnp.max(state.bound_B)
    first = jnp.argmax(state.bound_B) < before
    leads = (best > bound) | ((best == bound) & first)
    return (best > 0) & leads & (state.spent < budget)

  def add(state: _Accepted):
    best = jnp.argmax(state.bound_B)
    cover_N = jnp.maximum(state.cover_N, column_NB[:, best])
    chosen_B = jnp.isneginf(state.bound_B).at[best].set(True)
    bound_B = jnp.where(chosen_B, -jnp.inf, _gains(column_NB, cover_N))
    return _Accepted(
      cover_N,
      bound_B,
      state.order_B.at[state.count].set(best.astype(jnp.int32)),
      state.gain_B.at[state.count].set(state.bound_B[best]),
      state.count + 1,
      state.spent + cost_B[best],
    )

  return jax.lax.while_loop(goes_on, add, start)


@jax.jit
def _gains(column_NB: Array, cover_N: Array) -> Array:
  return jnp.sum(jnp.maximum(column_NB - cover_N[:, None], 0.0), axis=0)


@jax.jit
def _columns(unit_NE: Array, rows_B: Array) -> Array:
  return jnp.einsum("ne,be->nb", unit_NE, unit_NE[rows_B], precision="highest")
