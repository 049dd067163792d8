"""A scorer of texts: what words show of weights, and that it says what they do not."""

import numpy as np
import pytest

from cmtree_jax.recipe import scorer

SIZE, KNOWN = 2100, 600
RANDOM = np.random.default_rng(0)
COMMON = [f"word{i}" for i in range(60)]
# Documents with more of a rare word weigh more.
GOLD_N = RANDOM.integers(0, 8, SIZE)
TEXTS = [
  " ".join(RANDOM.permutation([*RANDOM.choice(COMMON, 20), *["gold"] * gold]))
  for gold in GOLD_N
]
TOKENS_N = RANDOM.integers(5, 60, SIZE)
MASS_N = TOKENS_N[:KNOWN] / TOKENS_N[:KNOWN].sum()


def fit(weight_N: np.ndarray) -> tuple[scorer.Scorer, np.ndarray]:
  """A scorer of the first texts, and the weights on the same scale."""
  weight_N = weight_N / (MASS_N @ weight_N[:KNOWN])
  found = scorer.fit(TEXTS[:KNOWN], weight_N[:KNOWN], TOKENS_N[:KNOWN])
  assert found is not None
  return found, weight_N


def test_weights_that_words_show_are_told_of_new_texts(tmp_path):
  made, weight_N = fit(np.exp(0.5 * GOLD_N))
  assert made.explained > 0.75
  assert "new documents are weighed by them" in made.text()
  found_N = made(TEXTS[KNOWN:])
  assert np.corrcoef(found_N, weight_N[KNOWN:])[0, 1] > 0.85
  assert (np.diff(made.weight_C) >= 0).all()
  made.save(tmp_path / scorer.FILE)
  again = scorer.load(tmp_path / scorer.FILE)
  np.testing.assert_array_equal(again(TEXTS[KNOWN:]), found_N)
  assert again.explained == made.explained


def test_of_a_choice_new_documents_get_as_many_tokens():
  made, weight_N = fit(np.where(GOLD_N >= 6, 1.0, 1e-6))
  assert made.serves
  found_N = made(TEXTS[KNOWN:])
  own, all_N = TOKENS_N[KNOWN:], weight_N[KNOWN:]
  assert own @ found_N == pytest.approx(own @ all_N, rel=0.1)
  kept = own @ (found_N * (GOLD_N[KNOWN:] >= 5)) / (own @ found_N)
  assert kept > 0.7  # of them are three in eight
  assert found_N.max() <= weight_N.max() + 1e-12 and found_N.min() >= 0


def test_no_tokens_are_lost_where_words_show_a_part():
  """Of documents that words and chance choose, over several corpora."""
  ratios = []
  for seed in range(6):
    score_N = GOLD_N + np.random.default_rng(seed).normal(0, 1.5, SIZE)
    made, _ = fit(np.where(score_N > np.quantile(score_N, 0.8), 1.0, 1e-6))
    assert 0.05 < made.explained < 0.5
    found_N = made(TEXTS[KNOWN:])
    ratios.append(TOKENS_N[KNOWN:] @ found_N / TOKENS_N[KNOWN:].sum())
  assert np.mean(ratios) == pytest.approx(1, rel=0.03)


def test_what_words_do_not_show_is_said():
  made, _ = fit(RANDOM.permutation(np.exp(0.5 * GOLD_N)))
  assert made.explained < scorer.LEAST and not made.serves
  assert "these documents alone" in made.text()


def test_equal_weights_need_no_words():
  made, _ = fit(np.ones(SIZE))
  assert made.explained == 1
  np.testing.assert_allclose(made(["no such words", *TEXTS[KNOWN:]]), 1)
  assert len(made([])) == 0


def test_too_few_texts_make_no_scorer():
  assert scorer.fit(TEXTS[:2], np.ones(2), TOKENS_N[:2]) is None
