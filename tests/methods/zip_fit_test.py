"""ZIP-FIT: the distance by hand, sharing across texts, samples of the target."""

import gzip

import jax
import numpy as np
import pytest

from cmtree_jax.methods import zip_fit
from tests.listed import Listed
from tests.methods import world

TEXTS = [
  "the film was slow but its actors were good",
  "def f(x):\n  return x + 1\n" * 200,  # longer than what zlib takes at once
  "",
  "Ein Fuchs & ein Hund: überall",
]
FILM = ("the film was good", "the actors were slow, but good")
CODE = ("def g(x):\n  return x + 2\n",)


def size(text: str) -> int:
  return len(gzip.compress(text.encode()))


def distance(x: str, v: str) -> float:
  small, large = sorted([size(x), size(v)])
  return (size(x + v) - small) / large


def test_the_score_is_one_minus_the_mean_distance():
  found = zip_fit.Compression((FILM, CODE))(TEXTS)["score_NT"]
  expected = [
    [1 - np.mean([distance(x, v) for v in goal]) for goal in (FILM, CODE)]
    for x in TEXTS
  ]
  np.testing.assert_allclose(found, expected, rtol=1e-6)
  assert zip_fit.Compression((FILM,))([])["score_NT"].shape == (0, 1)


def test_a_distance_by_hand():
  """Bits of gzip's shortest form, beside 18 bytes of header and checksum.

  3 for the kind of the block, 8 for each letter, 12 for three letters that came
  before, 7 for the end. So "abcd" has 42, in 6 bytes, "abcdefgh" 74, in 10, and
  "abcdabcd" 62, in 8, as the very first letter is never looked for.
  """
  found = zip_fit.Compression((("efgh",), ("abcd",)))(["abcd"])["score_NT"]
  expected = [1 - (28 - 24) / 24, 1 - (26 - 24) / 24]
  np.testing.assert_allclose(found[0], expected, rtol=1e-6)


WORDS = {
  "film": "the film was slow but its actors were good".split(),
  "code": "def f ( x ) : return x + 1".split(),
  "news": "shares fell on monday after the report".split(),
}
KIND_N = np.repeat(list(WORDS), 20)


def documents(kinds, seed):
  rng = np.random.default_rng(seed)
  return world.documents_of(
    [" ".join(rng.choice(WORDS[kind], 30)) for kind in kinds], seed
  )


POOL = documents(KIND_N, 0)
FACTS = world.facts(max_weight=100.0)._replace(
  pool=POOL,
  train=tuple(documents([kind] * 6, 5) for kind in ("film", "code")),
)


def moved(one, order):
  """The same documents in another order."""
  return one._replace(
    key_N=one.key_N[order],
    tokens_N=one.tokens_N[order],
    text=Listed(one.text[i] for i in order),
  )


def weights(facts=FACTS, **options):
  method = zip_fit.make(**options)
  state = method.init(jax.random.key(0), facts)
  return np.exp(np.asarray(state.log_w_N)), method.history(state)


def test_every_target_finds_its_documents():
  w_N, told = weights(share=0.2)
  assert set(KIND_N[w_N > 1]) == {"film", "code"}
  q_N = POOL.tokens_N / POOL.tokens_N.sum()
  assert q_N @ w_N == pytest.approx(1, rel=1e-5)
  for row in told:
    held = row["tokens"] / POOL.tokens_N.sum()
    assert 0.2 <= held < 0.2 + q_N.max()


def test_a_sample_of_the_target_is_that_of_the_smallest_keys():
  goal = FACTS.train[0]
  other = moved(goal, np.random.default_rng(1).permutation(6))
  assert zip_fit.sample(goal, 3) == zip_fit.sample(other, 3)
  assert len(set(zip_fit.sample(goal, 100))) == 6
  assert (weights(texts=1)[0] != weights(texts=6)[0]).any()


def test_the_order_of_documents_changes_nothing():
  order = np.random.default_rng(1).permutation(len(KIND_N))
  w_N, _ = weights(FACTS._replace(pool=moved(POOL, order)))
  np.testing.assert_allclose(w_N, weights()[0][order], rtol=1e-6)


@pytest.mark.parametrize(
  "options", [{"share": 0.0}, {"share": 2}, {"texts": 0}]
)
def test_options_out_of_range_are_refused(options):
  with pytest.raises(ValueError, match="must be"):
    zip_fit.make(**options)
