"""MetaCLIP: the authors' probabilities, what balance does, and long documents."""

import itertools
import json
import pathlib

import jax
import numpy as np
import pytest

from cmtree_jax.embed.grams import Grams
from cmtree_jax.methods import metaclip
from cmtree_jax.methods.base import Documents
from cmtree_jax.types import UserError
from tests.listed import Listed
from tests.methods import world

CASES = pathlib.Path(__file__).parent / "cases"
CASE = json.loads((CASES / "metaclip_probs.json").read_text())
COUNT_E = np.array(CASE["entry_counts"])


@pytest.mark.parametrize("limit", CASE["count_to_prob"])
def test_the_authors_code_gives_the_same_probabilities(limit):
  """facebookresearch/MetaCLIP at f47f784."""
  np.testing.assert_allclose(
    metaclip.probabilities(COUNT_E, float(limit)),
    CASE["count_to_prob"][limit],
    rtol=1e-12,
  )


@pytest.mark.parametrize("tail", CASE["p_to_t"])
def test_the_authors_code_carries_the_tail_to_the_same_count(tail):
  limit = metaclip.limit_of(float(tail), COUNT_E)
  assert limit == CASE["p_to_t"][tail]


@pytest.mark.parametrize("limit", ["20", "100", "600"])
def test_and_back_as_near_as_whole_entries_allow(limit):
  """What the authors' code says is below a count makes the nearest count again."""
  found = metaclip.limit_of(CASE["t_to_p"][limit], COUNT_E)
  assert found == COUNT_E[int(limit) > COUNT_E].max()


def grams_of(rows, buckets=4) -> Grams:
  """Matches from (entry, count) pairs of each row."""
  every = [pair for row in rows for pair in row]
  start_N1 = np.cumsum([0, *map(len, rows)])
  entry, count = np.array(every or np.zeros((0, 2)), np.int32).T
  return Grams(start_N1, entry, count.astype(np.float32), buckets)


ROWS = [[(0, 9), (1, 1)], [], [(0, 1)], [(0, 1), (2, 2), (3, 1)], [(0, 4)]]


def test_a_document_is_kept_if_one_of_its_entries_keeps_it():
  p_E = np.array([0.2, 0.5, 0.1, 1.0])
  kept_N = metaclip.kept(grams_of(ROWS), p_E)
  np.testing.assert_allclose(kept_N, [1 - 0.8 * 0.5, 0, 0.2, 1, 0.2])
  assert f"{kept_N[1]:.3f}" == "0.000"  # which a person reads without a minus
  # As often as by draws for each entry, the authors' way.
  rng = np.random.default_rng(0)
  drawn = rng.random((20_000, 2)) < p_E[:2]
  assert drawn.any(axis=1).mean() == pytest.approx(0.6, abs=0.015)


def test_matches_are_counted_once_for_each_row():
  assert metaclip.occurrences(grams_of(ROWS)).tolist() == [4, 1, 1, 1]


def test_salient_entries_are_frequent_here_and_rare_elsewhere():
  few = metaclip.salient_ones(grams_of(ROWS), 1)
  # Entry 0 is in four of five documents, though nine times in the first.
  assert few.start_N1.tolist() == [0, 1, 1, 2, 3, 4]
  assert few.bucket.tolist() == [0, 0, 2, 0]
  two = metaclip.salient_ones(grams_of(ROWS), 2)
  assert two.bucket.tolist() == [0, 1, 0, 2, 3, 0]
  every = metaclip.salient_ones(grams_of(ROWS), 9)
  for one, other in zip(every, grams_of(ROWS), strict=True):
    np.testing.assert_array_equal(one, other)


def test_chunks_of_rows_change_nothing(monkeypatch):
  rng = np.random.default_rng(0)
  rows = [
    [(int(e), int(rng.integers(1, 9))) for e in np.flatnonzero(x)]
    for x in rng.random((50, 4)) < 0.4
  ]
  whole = metaclip.salient_ones(grams_of(rows), 2)
  p_E = rng.random(4)
  kept_N = metaclip.kept(whole, p_E)
  count_E = metaclip.occurrences(whole)
  monkeypatch.setattr(metaclip.scoring, "CHUNK", 7)
  again = metaclip.salient_ones(grams_of(rows), 2)
  for one, other in zip(again, whole, strict=True):
    np.testing.assert_array_equal(one, other)
  np.testing.assert_array_equal(metaclip.kept(again, p_E), kept_N)
  np.testing.assert_array_equal(metaclip.occurrences(again), count_E)


# A head topic of eighty documents, a tail topic of four, and twenty of neither.
TOPICS = {"cats": "a cat sat", "newts": "a newt swam", "none": "1 2 3"}
KIND_N = np.repeat(list(TOPICS), [80, 4, 20])


def pool_of(texts) -> Documents:
  return world.documents_of(texts, 0)._replace(tokens_N=np.full(len(texts), 10))


POOL = pool_of([f"{TOPICS[kind]} {i}" for i, kind in enumerate(KIND_N)])


def found(pool=POOL, names=("cat", "newt"), max_weight=1e6, seed=0, **options):
  method = metaclip.make(**options)
  facts = world.facts(max_weight)._replace(pool=pool, entries=names)
  state = method.init(jax.random.key(seed), facts)
  return np.exp(np.asarray(state.log_w_N, np.float64)), state, method


def by_kind(w_N):
  return {kind: w_N[kind == KIND_N] for kind in TOPICS}


def test_head_and_tail_are_balanced():
  """Every topic gives as many documents: four, those of the rarest entry."""
  w_N, state, method = found()
  w = by_kind(w_N)
  assert w["cats"].sum() == pytest.approx(w["newts"].sum(), rel=1e-5)
  assert w["none"].max() < 1e-5
  np.testing.assert_allclose(by_kind(state.score_N)["cats"], 4 / 80)
  np.testing.assert_array_equal(by_kind(state.score_N)["newts"], 1.0)
  (row,) = method.history(state)
  assert (row["limit"], row["entries"]) == (4, 2)
  assert row["kept"] == pytest.approx(8 / len(KIND_N))
  why = method.reasons(state)
  assert why is not None
  assert why.text(0, {}) == "its entries keep it with probability 0.050"


def test_a_larger_tail_keeps_more_and_all_of_it_everything_that_matches():
  kept = [found(tail=tail)[1].score_N for tail in (0.01, 0.06, 1.0)]
  for less_N, more_N in itertools.pairwise(kept):
    assert (less_N <= more_N).all()
  np.testing.assert_array_equal(kept[-1], KIND_N != "none")


def test_draws_are_by_document_and_as_often_as_they_should_be():
  drawn = [by_kind(found(kind="draw", seed=s)[0] > 1) for s in range(40)]
  assert all(one["newts"].all() and not one["none"].any() for one in drawn)
  share = np.mean([one["cats"].mean() for one in drawn])
  # Four deviations of 3200 draws of 0.05.
  assert share == pytest.approx(0.05, abs=4 * np.sqrt(0.05 * 0.95 / 3200))
  order = np.random.default_rng(1).permutation(len(KIND_N))
  assert POOL.text is not None
  moved = POOL._replace(
    key_N=POOL.key_N[order],
    text=Listed(POOL.text[int(i)] for i in order),
  )
  for kind in metaclip.KINDS:
    np.testing.assert_allclose(
      found(moved, kind=kind)[0], found(kind=kind)[0][order], rtol=1e-6
    )


def test_long_documents_match_everything_unless_few_entries_count():
  """A hundred documents on one topic, 25 on another, each with a rare word too."""
  topic_N = np.repeat(["head", "tail"], [100, 25])
  texts = [
    " ".join([topic] * 200 + [f"rare{i // 2}"])
    for i, topic in enumerate(topic_N)
  ]
  names = ("head", "tail", *(f"rare{i}" for i in range(63)))
  kept = {
    reads: found(pool_of(texts), names, reads=reads, salient=1, tail=0.2)[1]
    for reads in metaclip.READS
  }
  score = {reads: state.score_N for reads, state in kept.items()}
  # One rare word keeps a document, whatever it is about.
  np.testing.assert_array_equal(score["whole"], 1.0)
  # What it is about: 25 of each topic are kept.
  np.testing.assert_allclose(
    score["salient"], np.where(topic_N == "head", 0.25, 1.0)
  )
  # The rare word keeps one chunk of four.
  assert score["chunks"].min() > 0.25
  assert score["chunks"].max() < 0.5
  means = [score["chunks"][topic_N == x].mean() for x in ("head", "tail")]
  assert means[0] < means[1]


def test_without_a_list_the_targets_terms_are_taken():
  targets = (
    pool_of(["the newt swam", "a newt sat"]),
    pool_of(["one cat here", "two cats, a cat"]),
  )
  assert metaclip.terms_of(targets, most=9) == ("newt", "cat")
  method = metaclip.make()
  facts = world.facts(1e6)._replace(pool=POOL, train=targets)
  state = method.init(jax.random.key(0), facts)
  np.testing.assert_allclose(np.exp(state.log_w_N), found()[0], rtol=1e-5)
  assert method.targeted and not metaclip.make(entries="words.txt").targeted


@pytest.mark.parametrize(
  ("facts", "told"),
  [
    ({"entries": ("dragon", "x")}, "None of the 2 entries .* 'dragon'"),
    ({"entries": (), "train": ()}, "no target to take entries from"),
    ({"train": (pool_of(["one", "two"]),)}, "No word occurs in two texts"),
  ],
)
def test_entries_that_nothing_matches_are_refused(facts, told):
  method = metaclip.make()
  given = world.facts(1e6)._replace(pool=POOL, **facts)
  with pytest.raises(UserError, match=told):
    method.init(jax.random.key(0), given)


@pytest.mark.parametrize(
  "options",
  [
    {"kind": "hard"},
    {"reads": "titles"},
    {"terms": 0},
    {"salient": 0},
    {"tail": 0.0},
    {"tail": 1.5},
  ],
)
def test_options_out_of_range_are_refused(options):
  with pytest.raises(ValueError, match=r"must be|Unknown"):
    metaclip.make(**options)
