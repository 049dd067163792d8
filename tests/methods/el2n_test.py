"""EL2N: the authors' scores, and which documents they keep."""

import pathlib

import jax.numpy as jnp
import numpy as np
import pytest

from cmtree_jax.methods import el2n
from cmtree_jax.proxy import engine
from tests.methods import measured

CASE = np.load(pathlib.Path(__file__).parent / "cases/data_diet_scores.npz")
N = 30
RNG = np.random.default_rng(0)
POOL = measured.documents(
  error_ON=RNG.uniform(0.2, 1.4, (3, N)),
  margin_ON=RNG.uniform(-1, 1, (3, N)),
)
FACTS = measured.known(POOL)


def test_the_authors_code_gives_the_same_errors():
  """mansheej/data_diet at aee462e, of a linear model."""
  logits_BTV = (CASE["X"] @ CASE["W"] + CASE["b"])[None]
  seen = engine._statistics(
    jnp.asarray(logits_BTV, jnp.float32), jnp.asarray(CASE["labels"][None])
  )
  np.testing.assert_allclose(seen.error_BT[0], CASE["l2_error"], rtol=1e-5)
  np.testing.assert_allclose(seen.margin_BT[0], CASE["max_margin"], rtol=1e-5)
  # The gradient of a linear layer is as long, but for the length of its input.
  length_N = np.sqrt((CASE["X"] ** 2).sum(axis=1) + 1)
  np.testing.assert_allclose(
    seen.error_BT[0] * length_N, CASE["grad_norm"], rtol=1e-5
  )


@pytest.mark.parametrize("measure", el2n.MEASURES)
def test_the_mean_over_proxies_decides(measure):
  method = el2n.make(share=0.3, seeds=3, measure=measure)
  order = np.argsort(-getattr(POOL, f"{measure}_ON").mean(axis=0))
  kept = measured.kept(method, FACTS)
  assert sorted(kept) == sorted(order[: len(kept)].tolist())
  assert method.look.seeds == 3 and method.look.observations == 3
  measured.assert_budget(method, FACTS, 0.3)


def test_easy_and_hard_are_opposite_ends():
  hard, easy = (
    np.argsort(measured.found(el2n.make(keep=keep), FACTS).score_N)
    for keep in el2n.KEEP
  )
  np.testing.assert_array_equal(hard, easy[::-1])


def test_a_larger_share_holds_a_smaller_one():
  some, more = (
    set(measured.kept(el2n.make(share=share), FACTS)) for share in (0.2, 0.6)
  )
  assert some < more


def test_the_order_of_documents_changes_nothing():
  equal = POOL._replace(error_ON=np.ones((3, N), np.float32))
  for pool in (POOL, equal):
    measured.assert_order_is_nothing(el2n.make(), measured.known(pool))


def test_it_needs_no_targets():
  assert not FACTS.train and not el2n.make().targeted


@pytest.mark.parametrize(
  "options",
  [
    {"share": 0.0},
    {"share": 1.1},
    {"keep": "mid"},
    {"seeds": 0},
    {"measure": "l2"},
  ],
)
def test_options_out_of_range_are_refused(options):
  with pytest.raises(ValueError, match=r"must be|Unknown"):
    el2n.make(**options)
