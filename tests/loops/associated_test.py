"""Associated: pairs of which one repeats the other's key, read together or by chance."""

import contextlib

import jax
import numpy as np
import pytest

from cmtree_jax.data.draw import bundles, packing, sampler
from cmtree_jax.data.draw.batch import stack_rows
from cmtree_jax.evaluate import perplexity
from cmtree_jax.loops import final, fleet
from cmtree_jax.loops.checkpoint import Checkpointer, Interrupted, StopFlag
from cmtree_jax.methods import associated
from cmtree_jax.methods.base import Documents, DocumentWeights
from tests import toy
from tests.methods import world as worlds

KEY = toy.T // 2 - 1  # words of a document: with their end two fill a row
PAIRS, ROWS, SEEDS = 3200, 16, 3
PLAN = final.Plan(steps=PAIRS // ROWS, steps_per_call=20, calls_per_save=2)
ARMS = ("greedy", "shuffled")


def pairs(count, seed):
  """(texts, the pair of each): both texts of a pair say the same random word."""
  key_P1 = np.random.default_rng(seed).integers(1, toy.V, (count, 1))
  key_PT = np.repeat(key_P1, KEY, axis=1)
  order = np.random.default_rng(seed + 1).permutation(2 * count)
  return list(np.repeat(key_PT, 2, axis=0)[order]), (order // 2)


def corpus():
  """(sampler, documents as the method sees them); pairs are near one another."""
  texts, pair_N = pairs(PAIRS, 0)
  tokens = packing.store(texts, [3 * KEY] * len(texts), end_of_text=0)
  key_N = sampler.document_keys([f"d{i}" for i in range(len(texts))])
  rng = np.random.default_rng(7)
  embedding_NE = rng.normal(size=(PAIRS, 16))[pair_N]
  embedding_NE = embedding_NE + 0.01 * rng.normal(size=embedding_NE.shape)
  documents = Documents(key_N, tokens.pairs_N, embedding_NE.astype(np.float32))
  return sampler.make(tokens, key_N, row_tokens=toy.T, seed=0), documents


def paired_rows():
  """A frozen set of new pairs, each a row of one segment."""
  texts, pair_N = pairs(64, 10)
  texts = [texts[i] for i in np.argsort(pair_N)]
  tokens = packing.store(texts, [3 * KEY] * len(texts), end_of_text=0)
  pieces = packing.pieces(tokens, toy.T)
  order = np.arange(len(texts))
  rows = packing.lay(
    tokens, pieces, order, np.cumsum(tokens.pairs_N), rows=np.arange(64)
  )
  batches = stack_rows(rows, toy.ROWS)
  weight_CBT = np.ones(batches.tokens_BT.shape, np.float32)
  return perplexity.EvalSet(
    batches, weight_CBT, int(tokens.bytes_N.sum()), batches.tokens_BT.size
  )


@pytest.fixture(scope="module")
def drawn():
  """The rows of both arms, by what the method hands over."""
  plain, documents = corpus()
  found = {}
  for path in ARMS:
    method = associated.make(neighbors=1, path=path)
    facts = worlds.facts()._replace(pool=documents)
    weights = method.finalize(method.init(jax.random.key(0), facts))
    assert isinstance(weights, DocumentWeights) and weights.path is not None
    np.testing.assert_allclose(weights.log_w_N, 0, atol=1e-6)
    place_N = weights.path.place_N
    unit_N = bundles.units(
      place_N, documents.key_N, plain.tokens.pairs_N, row_tokens=toy.T
    )
    course = bundles.Course(PLAN.steps * ROWS, 1, most=4)
    found[path] = bundles.make(
      plain, place_N, unit_N, course, shuffled=weights.path.shuffled
    )
  return found


def trained(drawn, folder, *, arms=ARMS, seeds=SEEDS, stop_after=None):
  """Bits per byte of paired rows, by arm and seed."""
  stop, calls = StopFlag(), []

  def advance(work, text):
    del text
    calls.append(work)
    stop.raised = stop.raised or len(calls) == stop_after

  world = toy.corpus().world._replace(
    model=fleet.Model(toy.engine(width=32), toy.FLOPS), rows=ROWS
  )
  weight_N = np.ones(2 * PAIRS)
  models = [
    final.Model(
      arm,
      seed,
      drawn[arm]._replace(
        sampler=drawn[arm].sampler._replace(seed=1000 + seed)
      ),
      weight_N,
    )
    for arm in arms
    for seed in range(seeds)
  ]
  with contextlib.closing(Checkpointer(folder)) as checkpointer:
    session = fleet.Session(0, checkpointer, stop, advance)
    found = final.run(
      models, [paired_rows()], world, PLAN, session, places=len(ARMS) * SEEDS
    )
  return np.array([one.bpb for (one,) in found]).reshape(len(arms), seeds)


def test_reading_pairs_together_teaches_to_copy(drawn, tmp_path):
  """The same documents as often, in the same model: only what stands beside them."""
  together_S, by_chance_S = trained(drawn, tmp_path)
  gain_S = by_chance_S - together_S
  assert gain_S.mean() > 2.5 * np.std(gain_S, ddof=1)  # p = .025, one-sided
  assert together_S.max() < 0.8 * by_chance_S.min()
  # By chance nothing can be better than to guess each key and to repeat it.
  guessed = np.log2(toy.V - 1) / (3 * KEY)
  assert together_S.max() < guessed < by_chance_S.min()


def test_a_training_along_a_path_that_is_stopped_goes_on_bit_for_bit(
  drawn, tmp_path
):
  settings = dict(arms=("greedy",), seeds=1)
  alone = trained(drawn, tmp_path / "alone", **settings)
  with pytest.raises(Interrupted):
    trained(drawn, tmp_path / "stopped", stop_after=1, **settings)
  np.testing.assert_array_equal(
    trained(drawn, tmp_path / "stopped", **settings), alone
  )
