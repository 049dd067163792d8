"""LESS against the authors' code, and what a cosine does not see."""

import pathlib

import jax
import numpy as np
import pytest

from cmtree_jax.methods import less
from tests.methods import world

CASES = pathlib.Path(__file__).parent / "cases"


@pytest.fixture(scope="module")
def case():
  """princeton-nlp/LESS at 8abf962, matching.py and write_selected_data.py."""
  return np.load(CASES / "less_influence.npz")


def subtasks(case):
  """Gradients of each subtask's examples, [O, M, P]; they are blocks."""
  return np.split(case["val_grads"], int(case["n_subtasks"]), axis=1)


def best_of(case, mean):
  """The score of the best subtask for each document, as the authors take it."""
  found = less.scores(
    case["train_grads"], subtasks(case), case["ckpt_weights"], mean=mean
  )
  return np.max(list(found), axis=0)


def test_the_mean_of_cosines_is_the_authors_code(case):
  found_N = best_of(case, "cosines")
  np.testing.assert_allclose(found_N, case["score_reference"], atol=1e-6)
  top = np.argsort(-found_N, kind="stable")[: len(case["top20pct_in_order"])]
  np.testing.assert_array_equal(top, case["top20pct_in_order"])


def test_the_cosine_of_the_mean_is_the_papers_equation(case):
  np.testing.assert_allclose(
    best_of(case, "gradients"),
    case["score_if_val_grads_averaged_before_cosine"],
    atol=1e-6,
  )


def test_one_checkpoint_and_one_example_give_the_cosine():
  rng = np.random.default_rng(0)
  x_NP, z_P = rng.normal(size=(5, 7)), rng.normal(size=7)
  expected = x_NP @ z_P / np.linalg.norm(x_NP, axis=1) / np.linalg.norm(z_P)
  for mean in less.MEANS:
    (found,) = less.scores(
      x_NP[None], [z_P[None, None]], np.array([0.3]), mean=mean
    )
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_a_document_s_length_and_its_neighbours_do_not_matter():
  rng = np.random.default_rng(0)
  pool, goal = rng.normal(size=(2, 2100, 4)), rng.normal(size=(2, 3, 4))
  rate_O = np.array([2.0, 1.0])
  (found,) = less.scores(pool, [goal], rate_O, mean="cosines")
  scale = rng.uniform(0.1, 9, (2, 2100, 1))
  order = rng.permutation(2100)
  (again,) = less.scores(
    (pool * scale)[:, order], [goal], rate_O, mean="cosines"
  )
  np.testing.assert_allclose(again, found[order], rtol=1e-6)
  # A document without a gradient is like none.
  (none,) = less.scores(np.zeros((2, 1, 4)), [goal], rate_O, mean="cosines")
  assert none == 0


def test_each_target_keeps_its_own():
  method = less.make(share=0.19, checkpoints=1, size=8)
  facts = world.measured_facts(method, world.facts(100.0))
  sketch_NP = np.zeros((len(facts.pool.key_N), 8), np.float32)
  sketch_NP[:, 0] = 1
  sketch_NP[:15, 1], sketch_NP[20:35, 2] = (
    3,
    3,
  )  # like one target, like the other
  goals = np.eye(8, dtype=np.float32)[1:3]
  facts = facts._replace(
    pool=facts.pool._replace(
      sketch_ONP=sketch_NP[None],
      tokens_N=np.full(len(sketch_NP), 10),
    ),
    train=tuple(
      one._replace(sketch_ONP=np.tile(goal, (1, len(one.key_N), 1)))
      for one, goal in zip(facts.train, goals, strict=True)
    ),
  )
  kept = np.flatnonzero(method.init(jax.random.key(0), facts).log_w_N > -1)
  assert set(kept) < {*range(15), *range(20, 35)}
  assert min(np.sum(kept < 15), np.sum(kept >= 20)) == 12  # a fifth of sixty


def test_the_pool_is_sketched_in_the_form_that_is_asked_for():
  look = less.make(form="sign", size=64, checkpoints=3, longest=9).look
  assert look.sketch == (64, "sign")
  assert look.checkpoints == 3 and look.longest == 9


@pytest.mark.parametrize(
  "wrong",
  [
    dict(share=0.0),
    dict(form="lion"),
    dict(mean="median"),
    dict(checkpoints=0),
    dict(size=0),
    dict(longest=0),
  ],
)
def test_options_out_of_range_are_refused(wrong):
  with pytest.raises(ValueError, match=next(iter(wrong))):
    less.make(**wrong)
