import random
import re

import pytest

from cmtree_jax.data.build import overlap
from cmtree_jax.types import Target, UserError


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
  expected = [
    sum(run in known for run in of_text) / max(len(of_text), 1)
    for of_text in runs
  ]
  assert overlap.repeated(target, pool, words=words).tolist() == expected


def test_runs_do_not_cross_texts():
  words = [f"w{number}" for number in range(20)]
  halves = [" ".join(words[:10]), " ".join(words[10:])]
  whole = " ".join(words)
  # Eight runs of thirteen; none is in a half of ten words.
  assert overlap.repeated([whole], halves).tolist() == [0]
  assert overlap.repeated([whole], [whole]).tolist() == [1]


def test_nothing_to_compare_is_no_overlap():
  assert overlap.repeated(["too short"], ["a " * 50]).tolist() == [0]
  assert overlap.repeated(["", "a " * 13], []).tolist() == [0, 0]


_POOL = [" ".join(f"w{number}" for number in range(50))]


def _runs(*texts: str) -> overlap.TargetRuns:
  targets = {
    f"goal_{i}": Target(f"goal_{i}", ("other words",), (), (text,))
    for i, text in enumerate(texts)
  }
  return overlap.target_runs(targets)


def _words(begin: int, end: int) -> str:
  return " ".join(f"w{number}" for number in range(begin, end))


def test_every_target_has_its_share():
  # Runs that start at w35..w37 stand in the pool: 3 of 5 runs of 17 words.
  runs = _runs(_words(35, 52), "none of this " * 9, _words(0, 20))
  found = overlap.found(_POOL, runs)
  expected = {"goal_0": 0.6, "goal_1": 0.0, "goal_2": 1.0}
  assert overlap.shares(found, runs) == expected


def test_shards_of_a_pool_find_together_what_the_pool_has():
  runs = _runs(_words(0, 50))
  halves = [_words(0, 30), _words(20, 50)]
  found = [overlap.found([half], runs) for half in halves]
  shared = overlap.shares(found[0] | found[1], runs)["goal_0"]
  # Of 38 runs those that start at w18 and w19 are cut apart.
  assert shared == pytest.approx(36 / 38)


def test_kept_runs_are_read_back(tmp_path):
  runs = _runs(_words(0, 20), "größer als " * 10)
  overlap.save(tmp_path / "runs.npz", runs)
  back = overlap.load(tmp_path / "runs.npz")
  assert back.words == runs.words and back.names == runs.names
  assert back.hash_R.tolist() == runs.hash_R.tolist()
  assert back.target_R.tolist() == runs.target_R.tolist()


def test_check_names_target_share_and_cure():
  with pytest.raises(UserError, match=r"'goal' shares 100.0%.*1.0% is.*pool"):
    overlap.check({"other": 0.0, "goal": 1.0}, limit=0.01)
  overlap.check({"goal": 0.01}, limit=0.01)
