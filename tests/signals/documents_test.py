"""Nats of single documents of the frozen sets, in one order."""

import numpy as np

from cmtree_jax.data.draw.batch import Batch
from cmtree_jax.evaluate.perplexity import EvalSet
from cmtree_jax.signals import documents
from tests import toy

# Documents 2 and 5 of one target, 0 of another; -1 is padding. A document may be
# cut: what of it stands in another row counts too.
FIRST = np.array([[[2, 2, 5], [5, 5, 2]], [[5, -1, -1], [-1, -1, -1]]])
SECOND = np.array([[[0, 0, -1]]])


def frozen(document_CBT) -> EvalSet:
  tokens = np.arange(document_CBT.size).reshape(document_CBT.shape)
  weight_CBT = (document_CBT >= 0).astype(np.float32)
  return EvalSet(
    Batch(tokens, tokens, document_CBT, document_CBT),
    weight_CBT,
    num_bytes=1,
    num_tokens=int(weight_CBT.sum()),
  )


SETS = frozen(FIRST), frozen(SECOND)


def test_a_document_s_nats_are_the_sum_over_its_tokens():
  engine = toy.engine()._replace(
    losses=lambda params, batches: np.stack(
      [p * batches.tokens_BT for p in params]
    )
  )
  view = toy.corpus().view._replace(eval_sets=SETS)
  found = documents.document_nats(view, engine, [1.0, 10.0])
  expected = [0 + 1 + 5, 2 + 3 + 4 + 6, 0 + 1]
  np.testing.assert_array_equal(found, np.outer([1, 10], expected))


def test_documents_are_told_in_the_order_of_their_nats():
  tokens_M, target_M = documents.documents_of(SETS)
  np.testing.assert_array_equal(tokens_M, [3, 4, 2])
  np.testing.assert_array_equal(target_M, [0, 0, 1])
