r"""HERMES: codes of documents, from coarse to fine, by quantizing what is left over.

A document's first code is the nearest of K vectors to its embedding; its second the
nearest of K others to what the first leaves over, and so on. The first codes alone are
a coarse partition, and each further one divides every part of it.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cmtree_jax.embed import kmeans
from cmtree_jax.shapes import Array, FloatN, FloatNE, Key
from cmtree_jax.types import UserError


class Codes(NamedTuple):
  """What documents are written with, float32."""

  shift_E: np.ndarray  # b, added to every embedding of length one
  book_SKE: np.ndarray  # a codebook for each stage


def fit(
  embedding_NE: FloatNE,
  *,
  codes: int,
  seed: int,
  mass_N: FloatN | None = None,
  stages: int = 3,
  epochs: int = 10,
) -> Codes:
  r"""Learns the codebooks, and the transform before them.

  .. math:: h = \frac{e + b}{\|e + b\|}, \qquad r_1 = h, \qquad
            c_s = \arg\max_j \cos(r_s, q_{sj}), \qquad r_{s+1} = r_s - q_{s c_s}

  b learns by AdamW from

  .. math:: \mathrm{mean}_{ij} \big( \cos(e_i, e_j) - \cos(h_i, h_j) \big)^2
            + \mathrm{mean}_i \| \hat h_i - h_i \|^2
            + \tfrac14 \sum_s \mathrm{mean}_i \| q_{s c_s} - r_s \|^2

  with random pairs and the reconstruction :math:`\hat h`, the sum of the codes' vectors
  at length one; gradients do not pass through these. The vectors are moving averages
  of the residuals that they are nearest to. They start from k-means, stage after
  stage; one that hardly any document uses becomes a residual at random.

  Departures: the paper's transform is h = W e + b at length one, with W brought back
  to a rotation after every step, and a penalty for leaving the rotations. A rotation
  changes no cosine and no residual's length, so neither a loss nor a code depends on
  it, and W is left out. The decay of the moving averages is that of the library which
  the paper uses. Rows are drawn by their masses. How sure this is: we have read the
  paper in a transcript of its text and tables.

  Args:
    embedding_NE: rows of any length above zero.
    codes: K, the vectors of each stage; the paper's are 256.
    seed: of k-means, rows and pairs.
    mass_N: what each row counts for; equal by default.
    stages: codes of a document; all are learned, however many are read.
    epochs: how often the rows are seen.
  References:
    Qiao et al., `HERMES: A Multi-Granularity Labeling Substrate for Pre-training Data
    Mixtures <https://arxiv.org/abs/2607.02266>`_, 2026, sections 2.2 and 2.3 and
    appendix D.
  """
  row_NE = _unit(np.asarray(embedding_NE, np.float32))
  size = len(row_NE)
  if not 1 <= codes <= size:
    raise UserError(
      f"Cannot learn {codes} codes from {size} documents; ask for 1 to {size}."
    )
  p_N = np.ones(size) if mass_N is None else np.asarray(mass_N, float)
  p_N = p_N / p_N.sum()
  state = _start(row_NE, p_N, codes, stages, seed)
  rng, key = np.random.default_rng(seed), jax.random.key(seed)
  for number in range(epochs * -(-size // _BATCH)):
    chosen = rng.choice(size, min(_BATCH, size), p=p_N)
    step_key = jax.random.fold_in(key, number)
    state = _step(state, row_NE[chosen], step_key)
  return Codes(np.asarray(state.shift_E), np.asarray(_books(state)))


def encode(embedding_NE: FloatNE, codes: Codes) -> np.ndarray:
  """The codes of documents, int32 [N, S], coarse to fine.

  Args:
    embedding_NE: rows of any length above zero.
    codes: those to write with; fewer stages give the same first codes.
  """
  rest_NE = _unit(_unit(np.asarray(embedding_NE, np.float64)) + codes.shift_E)
  found = []
  for book_KE in np.asarray(codes.book_SKE, np.float64):
    code_N = kmeans.assign(rest_NE, _unit(book_KE))
    found.append(code_N)
    rest_NE = rest_NE - book_KE[code_N]
  return np.stack(found, axis=1)


class _State(NamedTuple):
  """What a step needs of the one before."""

  shift_E: Array
  adam: Any
  count_SK: Array  # moving averages: how many rows a vector is nearest to,
  sum_SKE: Array  # and their sum


# Appendix D: AdamW, minibatch, pairs, dead codes and commitment; the decay is the
# default of vector-quantize-pytorch.
_RATE, _DECAY_OF_WEIGHTS = 3e-4, 1e-4
_BATCH, _PAIRS, _DEAD, _COMMITMENT = 1024, 2048, 2.0, 0.25
_DECAY = 0.8


def _optimizer():
  import optax

  return optax.adamw(_RATE, weight_decay=_DECAY_OF_WEIGHTS)


def _start(row_NE, p_N, codes: int, stages: int, seed: int) -> _State:
  """Codebooks by k-means of what is left over, stage after stage."""
  rest_NE, books, counts = row_NE.astype(np.float64), [], []
  for _ in range(stages):
    found = kmeans.fit(rest_NE, num_clusters=codes, seed=seed, mass_N=p_N)
    code_N = kmeans.assign(rest_NE, found.center_LE)
    count_K = np.bincount(code_N, p_N, minlength=codes)
    sum_KE = np.zeros((codes, rest_NE.shape[1]))
    np.add.at(sum_KE, code_N, p_N[:, None] * rest_NE)
    book_KE = sum_KE / np.maximum(count_K, 1e-12)[:, None]
    rest_NE = rest_NE - book_KE[code_N]
    books.append(sum_KE)
    counts.append(count_K)
  # As many as a minibatch has.
  scale = min(_BATCH, len(row_NE))
  shift_E = jnp.zeros(row_NE.shape[1], jnp.float32)
  return _State(
    shift_E,
    _optimizer().init(shift_E),
    jnp.float32(scale * np.array(counts)),
    jnp.float32(scale * np.array(books)),
  )


def _books(state: _State) -> Array:
  return state.sum_SKE / jnp.maximum(state.count_SK, 1e-6)[..., None]


def _quantized(shift_E: Array, row_BE: Array, book_SKE: Array):
  """(h, codes [S, B], residuals before each stage [S, B, E])."""
  h_BE = _unit(row_BE + shift_E)
  rest_BE, codes, rests = h_BE, [], []
  for book_KE in book_SKE:
    code_B = jnp.argmax(rest_BE @ _unit(book_KE).T, axis=1)
    codes.append(code_B)
    rests.append(rest_BE)
    rest_BE = rest_BE - book_KE[code_B]
  return h_BE, jnp.stack(codes), jnp.stack(rests)


def _loss(shift_E, row_BE, pair_M2, book_SKE):
  """What b learns from."""
  h_BE, code_SB, rest_SBE = _quantized(shift_E, row_BE, book_SKE)
  one_M, two_M = pair_M2.T
  before_M = jnp.sum(row_BE[one_M] * row_BE[two_M], axis=1)
  after_M = jnp.sum(h_BE[one_M] * h_BE[two_M], axis=1)
  q_SBE = jnp.take_along_axis(book_SKE, code_SB[..., None], axis=1)
  structure = jnp.mean((before_M - after_M) ** 2)
  found_BE = _unit(jnp.sum(q_SBE, axis=0))
  reconstruction = jnp.mean(jnp.sum((found_BE - h_BE) ** 2, axis=1))
  commitment = jnp.sum(
    jnp.mean(jnp.sum((q_SBE - rest_SBE) ** 2, axis=2), axis=1)
  )
  total = structure + reconstruction + _COMMITMENT * commitment
  return total, (code_SB, rest_SBE)


@functools.partial(jax.jit, donate_argnums=0)
def _step(state: _State, row_BE: Array, key: Key) -> _State:
  """One minibatch."""
  import optax

  key_pairs, key_dead = jax.random.split(key)
  size, count = len(row_BE), state.count_SK.shape[1]
  pair_M2 = jax.random.randint(key_pairs, (_PAIRS, 2), 0, size)
  book_SKE = _books(state)
  gradient_E, (code_SB, rest_SBE) = jax.grad(_loss, has_aux=True)(
    state.shift_E, row_BE, pair_M2, book_SKE
  )
  update_E, adam = _optimizer().update(gradient_E, state.adam, state.shift_E)
  one_SBK = jax.nn.one_hot(code_SB, count)
  count_SK = _DECAY * state.count_SK + (1 - _DECAY) * one_SBK.sum(axis=1)
  sum_SKE = _DECAY * state.sum_SKE + (1 - _DECAY) * jnp.einsum(
    "sbk,sbe->ske", one_SBK, rest_SBE
  )
  # What is used less often than this starts anew from a residual.
  least = min(_DEAD, size / count / 4)
  dead_SK1 = (count_SK < least)[..., None]
  chosen_SK = jax.random.randint(key_dead, count_SK.shape, 0, size)
  fresh_SKE = jnp.take_along_axis(rest_SBE, chosen_SK[..., None], axis=1)
  return _State(
    jnp.asarray(optax.apply_updates(state.shift_E, update_E)),
    adam,
    jnp.where(dead_SK1[..., 0], least, count_SK),
    jnp.where(dead_SK1, least * fresh_SKE, sum_SKE),
  )


def _unit(rows):
  """Rows at length one, of either library."""
  xp = jnp if isinstance(rows, jax.Array) else np
  length = xp.sqrt(xp.sum(rows * rows, axis=-1, keepdims=True))
  return rows / xp.maximum(length, 1e-12)
