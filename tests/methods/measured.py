"""Documents with made-up measurements, for tests of methods that read them.

They are typed as anything: `Documents` may lack what a test has just put there.
"""

from typing import Any

import jax
import numpy as np

from cmtree_jax.methods.base import Documents
from tests.methods import world


def documents(*, seed=0, length=None, **measured) -> Any:
  """As many as the measurements are of; ids are random, lengths too if None."""
  count = next(iter(measured.values())).shape[1]
  rng = np.random.default_rng(seed)
  made: Any = {name: np.asarray(x, np.float32) for name, x in measured.items()}
  return Documents(
    rng.integers(2**63, size=count, dtype=np.uint64),
    rng.integers(5, 50, count) if length is None else np.full(count, length),
    np.zeros((count, 1), np.float32),
    **made,
  )


def known(pool, *train, max_weight=100.0) -> Any:
  """What a method of the loop `look` is told."""
  return world.facts(max_weight)._replace(
    pool=pool, train=train, num_documents=len(pool.key_N)
  )


def found(method, facts):
  """What the method makes of it."""
  return method.init(jax.random.key(0), facts)


def w_of(method, facts):
  """The weights of the pool's documents."""
  return np.exp(np.asarray(found(method, facts).log_w_N, np.float64))


def kept(method, facts) -> list[int]:
  """Numbers of the documents that weigh more than nothing."""
  w_N = w_of(method, facts)
  return np.flatnonzero(w_N > 1e-4).tolist()


def shuffled(documents, order) -> Any:
  """The same in another order."""
  of_all = {"key_N", "tokens_N", "embedding_NE", "domain_N"}
  moved = {
    name: x[order] if name in of_all else x[:, order]
    for name, x in documents._asdict().items()
    if isinstance(x, np.ndarray)
  }
  return documents._replace(**moved)


def assert_order_is_nothing(method, facts) -> None:
  """The weights follow the documents, however they are ordered."""
  order = np.random.default_rng(1).permutation(len(facts.pool.key_N))
  moved = facts._replace(pool=shuffled(facts.pool, order))
  np.testing.assert_allclose(
    w_of(method, moved), w_of(method, facts)[order], rtol=1e-5
  )


def assert_budget(method, facts, share) -> None:
  """The share is reached by as few documents as can be, all of one weight."""
  w_N = w_of(method, facts)
  q_N = facts.pool.tokens_N / facts.pool.tokens_N.sum()
  kept_N = w_N > 1e-4
  held = q_N[kept_N].sum()
  assert share - 1e-9 <= held < share + q_N.max()
  np.testing.assert_allclose(w_N[kept_N], 1 / held, rtol=1e-4)
