"""The classifier: what was planted, halves that a fit has not seen, regularity."""

import jax
import numpy as np
import pytest

from cmtree_jax.methods import classifier
from cmtree_jax.selection import regression
from cmtree_jax.types import UserError
from tests.methods import oracles, world

WORDS = {
  "film": "the film was slow but its actors were good".split(),
  "code": "def f ( x ) : return x + 1".split(),
  "news": "shares fell on monday after the report".split(),
}
COUNTS = {"film": 20, "code": 15, "news": 45}
KIND_N = np.repeat(list(COUNTS), list(COUNTS.values()))


def text(rng, kind) -> str:
  return " ".join(rng.choice(WORDS[kind], rng.integers(8, 20)))


def documents(kinds, seed):
  rng = np.random.default_rng(seed)
  made = world.documents_of([text(rng, kind) for kind in kinds], seed)
  # The embedding knows the kind as well, in another way.
  place = {"film": 0, "code": 1, "news": 2}
  one_hot = np.eye(world.E)[[place[kind] for kind in kinds]]
  near_NE = one_hot + 0.1 * made.embedding_NE
  unit_NE = near_NE / np.linalg.norm(near_NE, axis=1, keepdims=True)
  return made._replace(embedding_NE=unit_NE.astype(np.float32))


POOL = documents(KIND_N, 0)
GOALS = ("film", "code")
FACTS = world.facts(max_weight=100.0)._replace(
  pool=POOL,
  train=tuple(documents([kind] * 12, 5) for kind in GOALS),
  validation=tuple(documents([kind] * 6, 6) for kind in GOALS),
)


def found(facts=FACTS, **options):
  method = classifier.make(**options)
  state = method.init(jax.random.key(0), facts)
  w_N = np.exp(np.asarray(state.log_w_N, np.float64))
  return w_N, method.history(state)


@pytest.mark.parametrize("features", classifier.FEATURES)
def test_both_targets_find_their_documents(features):
  w_N, told = found(features=features, share=0.08)
  kept_N = w_N > 1
  assert kept_N.any()
  assert set(KIND_N[kept_N]) == {"film", "code"}
  for row in told:
    share = row["tokens"] / POOL.tokens_N.sum()
    assert 0.08 <= share < 0.08 + POOL.tokens_N.max() / POOL.tokens_N.sum()
    assert row["held_out_loss"] < 0.5  # log 2 for one that knows nothing
    assert row["strength"] in classifier.STRENGTHS


@pytest.mark.parametrize("features", classifier.FEATURES)
def test_soft_weights_give_each_target_its_share(features):
  w_N, _ = found(features=features, kind="soft")
  q_N = POOL.tokens_N / POOL.tokens_N.sum()
  flow = {kind: (q_N * w_N)[kind == KIND_N].sum() for kind in COUNTS}
  assert flow["film"] == pytest.approx(0.5, abs=0.1)
  assert flow["code"] == pytest.approx(0.5, abs=0.1)


def test_only_counts_that_are_read_are_made():
  assert classifier.make().features == {"grams"}
  assert classifier.make(features="embedding").features == frozenset()
  without = FACTS._replace(pool=POOL._replace(grams=None))
  with pytest.raises(AssertionError):
    found(without)
  found(without, features="embedding")


def fit(documents=8192, pool=POOL):
  rows = classifier.ROWS["grams"]
  made = classifier.fit(
    pool, FACTS.train[0], FACTS.validation[0], rows=rows, documents=documents
  )
  return made, made.score(pool, rows)


def test_a_document_is_scored_by_the_fit_that_has_not_seen_it(monkeypatch):
  monkeypatch.setattr(classifier, "STRENGTHS", (10.0,))
  made, score_N = fit()
  counted = POOL.grams
  assert counted is not None
  rows = classifier.ROWS["grams"](POOL, np.arange(len(KIND_N)))
  low_N = POOL.key_N <= made.middle
  assert abs(low_N.sum() - (~low_N).sum()) <= 1
  for number, half_N in enumerate((low_N, ~low_N)):
    f_N = made.models[number].decision_function(rows)
    np.testing.assert_array_equal(score_N[half_N], f_N[half_N])
    # With other words in this half, only the other half's fit is another.
    entry = np.repeat(half_N, np.diff(counted.start_N1))
    bucket = np.where(entry, 7, counted.bucket).astype(np.int32)
    strange = POOL._replace(grams=counted._replace(bucket=bucket))
    again, _ = fit(pool=strange)
    same = [
      np.array_equal(one.coef_, two.coef_)
      for one, two in zip(made.models, again.models, strict=True)
    ]
    assert same == [number == 0, number == 1]


def test_chunks_change_nothing(monkeypatch):
  _, whole_N = fit()
  monkeypatch.setattr(classifier.scoring, "CHUNK", 7)
  np.testing.assert_array_equal(fit()[1], whole_N)


def test_the_order_of_documents_changes_nothing():
  order = np.random.default_rng(1).permutation(len(KIND_N))
  moved = documents(KIND_N, 0)
  moved = moved._replace(
    key_N=moved.key_N[order],
    tokens_N=moved.tokens_N[order],
    grams=moved_rows(moved.grams, order),
  )
  np.testing.assert_allclose(fit(pool=moved)[1], fit()[1][order], atol=1e-3)


def moved_rows(grams, order):
  matrix = grams.rows(order)
  return grams._replace(
    start_N1=matrix.indptr, bucket=matrix.indices, count=matrix.data
  )


def test_a_sample_of_the_pool_is_enough():
  made, score_N = fit(documents=20)
  film_N = KIND_N == "film"
  assert score_N[film_N].min() > score_N[KIND_N == "code"].max()
  assert made.models[0].coef_.any()


def test_held_out_documents_choose_the_strength():
  """A weak penalty, unless what is held out is found in the pool too."""
  others = documents(KIND_N[KIND_N != "film"], 0)
  assert fit(pool=others)[0].strength == max(classifier.STRENGTHS)
  made, _ = fit()
  assert made.strength == min(classifier.STRENGTHS)
  assert made.loss == pytest.approx(held_out_loss(made), rel=1e-6)


@pytest.mark.parametrize("words", [1, 2])
def test_the_ranking_is_that_of_fasttext(words):
  """Which DCLM trains; both with models that have not seen what they score."""
  pool = oracles.documents("pool", words=words)
  target = oracles.documents("target", words=words)
  held_out = target._replace(key_N=np.zeros(0, np.uint64))
  rows = classifier.ROWS["grams"]
  made = classifier.fit(pool, target, held_out, rows=rows, documents=8192)
  score_N = made.score(pool, rows)
  expected_N = oracles.CASE[f"fasttext_{words}_N"]
  assert regression.spearman(score_N, expected_N) > 0.94
  shared = oracles.first(score_N) & oracles.first(expected_N)
  assert len(shared) >= 16  # of 20


def test_without_held_out_documents_the_middle_strength_is_taken():
  none = FACTS.validation[0]._replace(
    key_N=np.zeros(0, np.uint64), grams=world.documents_of([], 0).grams
  )
  made = classifier.fit(
    POOL,
    FACTS.train[0],
    none,
    rows=classifier.ROWS["grams"],
    documents=8192,
  )
  assert made.strength == sorted(classifier.STRENGTHS)[1]
  assert np.isfinite(made.loss)


def held_out_loss(made) -> float:
  """The mean over both fits and both classes."""
  rows = classifier.ROWS["grams"]
  every = np.arange(len(KIND_N))
  low_N = POOL.key_N <= made.middle
  positive = rows(FACTS.validation[0], np.arange(6))
  losses = []
  for model, half_N in zip(made.models, (low_N, ~low_N), strict=True):
    for x, sign in ((positive, 1), (rows(POOL, every[half_N]), -1)):
      p = 1 / (1 + np.exp(-sign * model.decision_function(x)))
      losses.append(-np.log(p).mean())
  return float(np.mean(losses))


@pytest.mark.parametrize(
  "options",
  [
    {"kind": "best"},
    {"features": "words"},
    {"share": 0.0},
    {"share": 2.0},
    {"documents": 1},
  ],
)
def test_options_out_of_range_are_refused(options):
  with pytest.raises(ValueError, match=r"must be|Unknown"):
    classifier.make(**options)


def test_a_pool_of_one_document_is_refused():
  first = np.arange(1)
  pool = documents(KIND_N[first], 0)
  with pytest.raises(UserError, match="at least 2, came 1"):
    found(FACTS._replace(pool=pool))
