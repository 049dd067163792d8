"""Log-odds of targets: by hand, of texts that no fit has seen, and kept in a file."""

import io
from typing import Any

import numpy as np
import pytest
from sklearn.feature_extraction.text import HashingVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import normalize

from cmtree_jax import embed
from cmtree_jax.embed import log_odds
from cmtree_jax.embed import texts as of_texts
from cmtree_jax.types import UserError

RNG = np.random.default_rng(0)


def written(count, *words):
  """Texts of some common words, of rare ones of their own, and of the given ones."""
  return [
    " ".join(
      RNG.choice([*words, *"abcdefgh", *(f"own{i}x{j}" for j in "123456")], 12)
    )
    for i in RNG.integers(10**9, size=count)
  ]


POOL = written(160, "rain") + written(40, "goal")
GOALS = {
  "one": written(60, "goal", "match"),
  "none": (),
  "two": written(9, "sun"),
}


@pytest.fixture(scope="module")
def made():
  return log_odds.fit(POOL, GOALS, sample=1000, seed=0)


def numbers(made, texts):
  """The log-odds before they are whitened, which would cut off large ones."""
  kept = made.to_arrays()
  return log_odds._log_odds(
    texts, kept.pop("coefficient_TKF"), kept.pop("bias_TK")
  )


def test_they_are_those_of_a_classifier_that_has_not_seen_the_fold(made):
  vectorizer: Any = HashingVectorizer(
    token_pattern=r"\w+|[^\w\s]+",
    ngram_range=(1, 2),
    n_features=log_odds._WORDS.buckets,
    alternate_sign=False,
  )
  vectorizer.set_params(norm=None)  # its types do not know None

  def rows(texts):
    counts = vectorizer.transform(texts)
    counts.data = 1 + np.log(counts.data)
    return normalize(counts)

  new = written(5, "goal", "rain")
  fold_N = of_texts.folds(new, log_odds.FOLDS)
  assert made(new).shape == (
    5,
    3,
  )  # a number for each target with texts, and one
  for text, fold, found in zip(new, fold_N, numbers(made, new), strict=True):
    for target, goal in enumerate((GOALS["one"], GOALS["two"])):
      positive, negative = (
        [x for x in some if of_texts.folds([x], log_odds.FOLDS)[0] != fold]
        for some in (goal, POOL)
      )
      x = rows([*positive, *negative])
      n, m = len(positive), len(negative)
      model = LogisticRegression(C=log_odds.STRENGTH, tol=1e-6, max_iter=10_000)
      model.fit(x, [1] * n + [0] * m, [1.0] * n + [n / m] * m)
      expected = model.decision_function(rows([text]))[0]
      # This one charges for the bias, too.
      assert found[target] == pytest.approx(expected, abs=0.5)


def test_texts_that_were_fitted_to_are_scored_as_new_ones(made):
  """A classifier of so many words takes any text that it has seen for its class."""
  seen, new = (
    numbers(made, x)[:, 0]
    for x in (GOALS["one"], written(200, "goal", "match"))
  )
  assert abs(seen.mean() - new.mean()) < 0.35 * new.std()
  alike = numbers(made, written(200, "rain"))[:, 0]
  assert new.mean() > alike.mean() + 1.5 * alike.std()


def test_rows_are_the_whitened_log_odds(made):
  kept = made.to_arrays()
  found_NT = (numbers(made, POOL) - kept["mean_F"]) / kept["scale_F"]
  y_NT = np.clip(found_NT @ kept["whiten_FG"], -3, 3)
  row_NG = made(POOL)
  np.testing.assert_allclose(row_NG[:, :2] / row_NG[:, 2:] / 2**0.5, y_NT, 1e-4)
  # The scale is that of the corpus, a few of whose texts are cut off.
  np.testing.assert_allclose(y_NT.mean(axis=0), 0, atol=0.1)
  np.testing.assert_allclose(y_NT.std(axis=0), 1, atol=0.1)


def test_it_comes_back_from_a_file(made, tmp_path):
  file = io.BytesIO()
  np.savez(file, allow_pickle=False, **embed.to_arrays(made))
  file.seek(0)
  again = embed.from_arrays(np.load(file), cache_dir=tmp_path)
  np.testing.assert_array_equal(again(POOL), made(POOL))
  np.testing.assert_array_equal(made(POOL)[3:5], made(POOL[3:5]))
  np.testing.assert_array_equal(again([]), np.zeros((0, 3)))


@pytest.mark.parametrize(
  ("goals", "words"),
  [
    ({}, "there is none; name some in config.data.targets"),
    ({"one": ()}, "there is none"),
    ({"few": ["a b"]}, "'few' without a fold of its texts, and 1 are too few"),
  ],
)
def test_targets_without_texts_are_refused(tmp_path, goals, words):
  plan = embed.Plan(views=("grams",))
  with pytest.raises(UserError, match=words):
    embed.fit(POOL, plan, cache_dir=tmp_path, goals=goals)


def test_folds_are_even_and_of_the_text_alone():
  texts = [f"text {i}" for i in range(400)]
  fold_N = of_texts.folds(texts, 4)
  assert (np.bincount(fold_N) > 70).all() and len(np.bincount(fold_N)) == 4
  np.testing.assert_array_equal(of_texts.folds(texts[::-1], 4), fold_N[::-1])
