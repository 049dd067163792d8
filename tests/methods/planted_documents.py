"""A planted corpus of documents: copies, spoiled ones, a target's source, a rare one.

A topic has its own words, and every word few that follow it, so its texts can be told
by their words, and learned by the words' order.
"""

import random
import string
from collections.abc import Iterator
from typing import NamedTuple

COPIES = 4  # of a document that is repeated, itself among them
_SIZE = {"plain": 90, "target": 30, "shuffled": 30, "random": 12, "rare": 6}
_ORIGINALS = 10  # of each kind of copies


class Planted(NamedTuple):
  """The corpus as its files hold it."""

  pool: list[
    dict[str, str]
  ]  # id, text, source; the source is the name of the group
  goal: list[dict[str, str]]  # text, split


class _Topic:
  """Texts of one vocabulary, whose words follow each other in few ways."""

  def __init__(self, seed: int):
    rng = random.Random(seed)
    letters = rng.sample(string.ascii_lowercase, 12)
    self.words = sorted(
      {"".join(rng.choices(letters, k=rng.randint(3, 7))) for _ in range(120)}
    )
    self.after = {word: rng.sample(self.words, 3) for word in self.words}

  def text(self, rng: random.Random) -> str:
    word = rng.choice(self.words)
    found = []
    for _ in range(rng.randint(40, 80)):
      found.append(word)
      word = rng.choice(self.after[word])
    return " ".join(found)


def make() -> Planted:
  """The same at every call."""
  rng = random.Random(0)
  goal, rare, *plain = (_Topic(seed) for seed in range(5))

  def some_plain() -> str:
    return rng.choice(plain).text(rng)

  texts = {
    "plain": some_plain,
    "target": lambda: goal.text(rng),
    "shuffled": lambda: _shuffled(some_plain(), rng),
    "random": lambda: _random(rng),
    "rare": lambda: rare.text(rng),
  }
  rows = [
    (name, f"{name}-{i}", text())
    for name, text in texts.items()
    for i in range(_SIZE[name])
  ]
  rows += _copies("exact", some_plain, lambda text: text)
  rows += _copies("near", some_plain, lambda text: _edited(text, rng))
  rng.shuffle(rows)
  pool = [{"id": i, "text": text, "source": name} for name, i, text in rows]
  splits = ["train"] * 20 + ["validation"] * 10 + ["test"] * 5
  return Planted(pool, [{"text": goal.text(rng), "split": s} for s in splits])


def group_of(document_id: str) -> str:
  """The original of a copy: "exact-3" of "exact-3-1"."""
  name, number, *_ = document_id.split("-")
  return f"{name}-{number}"


def _copies(name, text, edit) -> Iterator[tuple[str, str, str]]:
  for number in range(_ORIGINALS):
    original = text()
    for copy in range(COPIES):
      yield (
        name,
        f"{name}-{number}-{copy}",
        edit(original) if copy else original,
      )


def _edited(text: str, rng: random.Random) -> str:
  """With two words left out."""
  words = text.split()
  for _ in range(2):
    del words[rng.randrange(len(words))]
  return " ".join(words)


def _shuffled(text: str, rng: random.Random) -> str:
  words = text.split()
  return " ".join(rng.sample(words, len(words)))


def _random(rng: random.Random) -> str:
  return " ".join(
    "".join(rng.choices(string.ascii_lowercase, k=rng.randint(3, 7)))
    for _ in range(rng.randint(40, 80))
  )
