import random
import re

import pytest

from cmtree_jax.data import overlap
from cmtree_jax.types import Document, RawCorpus, Target, UserError


def _texts(rng: random.Random, count: int) -> list[str]:
  """Texts over two words, so that runs recur, with marks between them."""
  words = ("One", "one", "über", "ÜBER")
  return [
    rng.choice((" ", ", ", "\n")).join(
      rng.choice(words) for _ in range(rng.randrange(0, 40))
    )
    for _ in range(count)
  ]


def _brute_runs(text: str, words: int) -> list[tuple[str, ...]]:
  found = re.findall(r"\w+", text.lower())
  return [tuple(found[i : i + words]) for i in range(len(found) - words + 1)]


@pytest.mark.parametrize("words", [1, 5, 8, 13])
def test_equals_sets_of_tuples(words):
  rng = random.Random(words)
  pool, target = _texts(rng, 60), _texts(rng, 40)
  known = {run for text in pool for run in _brute_runs(text, words)}
  runs = [_brute_runs(text, words) for text in target]
  flat = [run in known for of_text in runs for run in of_text]
  share = overlap.shared_runs(pool, target, words=words)
  assert share == sum(flat) / len(flat)
  expected = [
    sum(run in known for run in of_text) / max(len(of_text), 1)
    for of_text in runs
  ]
  assert overlap.repeated(target, pool, words=words).tolist() == expected


def test_runs_do_not_cross_texts():
  words = [f"w{number}" for number in range(20)]
  halves = [" ".join(words[:10]), " ".join(words[10:])]
  whole = " ".join(words)
  assert overlap.shared_runs(halves, [whole]) == 0
  assert overlap.shared_runs([whole], [whole]) == 1


def test_nothing_to_compare_is_no_overlap():
  assert overlap.shared_runs([], []) == 0
  assert overlap.shared_runs(["a " * 50], ["too short"]) == 0
  assert overlap.repeated(["", "a " * 13], []).tolist() == [0, 0]


def _corpus(text: str) -> RawCorpus:
  pool = " ".join(f"w{number}" for number in range(50))
  target = Target("goal", ("other words",), (), (text,))
  return RawCorpus((Document("1", pool, "a"),), {"goal": target}, None, ())


def test_check_returns_the_share_of_every_target():
  # Runs that start at w38..w40 stand in the pool: 3 of 5 runs of 17 words.
  text = " ".join(f"w{number}" for number in range(35, 52))
  assert overlap.check(_corpus(text), limit=0.6) == {"goal": 0.6}


def test_check_names_target_share_and_cure():
  text = " ".join(f"w{number}" for number in range(20))
  with pytest.raises(UserError, match=r"'goal' shares 100.0%.*1.0% is.*pool"):
    overlap.check(_corpus(text), limit=0.01)
