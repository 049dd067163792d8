"""Bits per byte: a closed form, chunking, and sets that stay what they are."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cmtree_jax.data.draw import packing, sampler
from cmtree_jax.evaluate import perplexity
from cmtree_jax.proxy import loss as proxy_loss

T, V = 8, 50
SIZE = 40
IDS = [f"document-{number}" for number in range(SIZE)]
LENGTH_N = np.random.default_rng(0).integers(0, 25, SIZE)


def make_store(order):
  """Documents that name themselves; of three bytes per token and one."""
  documents = [np.full(LENGTH_N[i], i + 1) for i in order]
  return packing.store(
    documents, [3 * LENGTH_N[i] + 1 for i in order], end_of_text=0
  )


def make_set(order=None, *, max_tokens=300, rows=4):
  order = np.arange(SIZE) if order is None else order
  return perplexity.eval_set(
    make_store(order),
    sampler.document_keys([IDS[i] for i in order]),
    max_tokens=max_tokens,
    rows=rows,
    row_tokens=T,
  )


def chosen(one, order=None):
  """Ids of the documents of a set."""
  order = np.arange(SIZE) if order is None else order
  document = one.batches.document_BT
  return {IDS[order[i]] for i in np.unique(document[document >= 0])}


def nats_of(one, losses, params=0.0):
  total = jax.jit(proxy_loss.sum_over_chunks(losses))
  return float(total(params, (one.batches, one.weight_CBT)))


def some_losses(params, batch):
  """A loss that depends on parameters, inputs and labels."""
  return jnp.tanh(params * batch.tokens_BT) + batch.label_BT / V


def test_a_uniform_model_in_closed_form():
  one = make_set()
  nats = nats_of(
    one, lambda _, batch: jnp.full(batch.tokens_BT.shape, math.log(V))
  )
  numbers = [IDS.index(i) for i in chosen(one)]
  tokens = sum(LENGTH_N[numbers] + 1)
  num_bytes = sum(3 * LENGTH_N[numbers] + 1)
  found = perplexity.bits_per_byte(nats, one.num_bytes)
  np.testing.assert_allclose(
    found, tokens * math.log2(V) / num_bytes, rtol=1e-5
  )
  assert one.num_tokens == tokens
  assert one.num_bytes == num_bytes


def test_one_bit_for_each_of_eight_bits_is_one_eighth():
  assert perplexity.bits_per_byte(math.log(2), 8) == pytest.approx(1 / 8)


@pytest.mark.parametrize("rows", [1, 3, 7, 100])
def test_chunking_does_not_matter(rows):
  one, other = make_set(), make_set(rows=rows)
  assert other.batches.tokens_BT.shape[1:] == (rows, T)
  assert (other.num_bytes, other.num_tokens) == (one.num_bytes, one.num_tokens)
  np.testing.assert_allclose(
    nats_of(other, some_losses, 0.3), nats_of(one, some_losses, 0.3), rtol=1e-6
  )


def test_padding_weighs_nothing():
  one = make_set(rows=100)
  padding = one.batches.document_BT < 0
  assert padding.sum() == 100 * T - one.num_tokens
  np.testing.assert_array_equal(one.weight_CBT, ~padding)


@pytest.mark.parametrize("max_tokens", [1, 100, 300, 10_000])
def test_a_set_is_whole_documents_within_the_limit(max_tokens):
  one = make_set(max_tokens=max_tokens)
  document = one.batches.document_BT[one.batches.document_BT >= 0]
  number, count = np.unique(document, return_counts=True)
  np.testing.assert_array_equal(count, LENGTH_N[number] + 1)
  assert one.num_tokens == count.sum()
  if max_tokens == 1:
    assert len(number) == 1  # at least one, however long
  else:
    assert one.num_tokens <= max_tokens
    assert one.num_tokens > max_tokens - 26 or len(number) == SIZE


def test_a_larger_set_holds_the_smaller():
  small, large = (chosen(make_set(max_tokens=n)) for n in (100, 300))
  assert small < large


def test_the_order_of_documents_does_not_matter():
  order = np.random.default_rng(1).permutation(SIZE)
  assert chosen(make_set(order), order) == chosen(make_set())
  # Nor do documents that come later in the order of keys.
  kept = np.array([i for i in order if IDS[i] in chosen(make_set())])
  assert chosen(make_set(kept), kept) == chosen(make_set())
