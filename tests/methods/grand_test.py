"""GraNd keeps long gradients; the root of the tokens takes the length out."""

import jax
import numpy as np
import pytest

from cmtree_jax.methods import grand
from tests.methods import world

RNG = np.random.default_rng(0)


def pool(norm_ON, tokens_N=None):
  """Documents of equal length unless told otherwise."""
  documents = world.some_documents(np.shape(norm_ON)[1], 3)
  if tokens_N is None:
    tokens_N = np.full(np.shape(norm_ON)[1], 10)
  return documents._replace(
    tokens_N=np.asarray(tokens_N),
    gradient_norm_ON=np.array(norm_ON, np.float32),
  )


def kept(method, documents):
  """Numbers of the documents that are kept."""
  facts = world.facts(100.0)._replace(pool=documents, train=())
  return np.flatnonzero(method.init(jax.random.key(0), facts).log_w_N > -1)


def test_the_mean_over_proxies_ranks():
  norm_ON = RNG.uniform(1, 2, (3, 20))
  order = np.argsort(-np.array(norm_ON, np.float32).mean(axis=0))
  method = grand.make(share=0.25, seeds=3)
  assert method.look.seeds == 3
  assert not method.targeted
  np.testing.assert_array_equal(kept(method, pool(norm_ON)), sorted(order[:5]))
  easy = grand.make(share=0.25, keep="easy", seeds=3)
  np.testing.assert_array_equal(kept(easy, pool(norm_ON)), sorted(order[-5:]))


def test_tokens_that_agree_on_nothing_do_not_make_a_document_short():
  """A mean of n independent gradients is shorter by the root of n."""
  tokens_N = np.array([4, 400, 4, 400])
  each_N = np.array([1.0, 1.0, 1.1, 1.1])
  documents = pool([each_N / np.sqrt(tokens_N)], tokens_N)
  np.testing.assert_allclose(
    grand.scores(documents, longest=400), each_N, rtol=1e-6
  )
  plain = grand.scores(documents, longest=None)
  assert plain[[0, 2]].min() > plain[[1, 3]].max()
  # Of which only the first hundred were read:
  read = np.minimum(tokens_N, 100)
  cut = pool([each_N / np.sqrt(read)], tokens_N)
  np.testing.assert_allclose(grand.scores(cut, longest=100), each_N, rtol=1e-6)


def test_equal_scores_are_told_apart_by_the_keys():
  documents = pool(np.ones((1, 20)))
  found = kept(grand.make(share=0.25), documents)
  np.testing.assert_array_equal(found, np.sort(np.argsort(documents.key_N)[:5]))


@pytest.mark.parametrize(
  "wrong",
  [
    dict(share=0.0),
    dict(share=1.1),
    dict(keep="middle"),
    dict(seeds=0),
    dict(longest=0),
  ],
)
def test_options_out_of_range_are_refused(wrong):
  with pytest.raises(ValueError, match=next(iter(wrong))):
    grand.make(**wrong)
