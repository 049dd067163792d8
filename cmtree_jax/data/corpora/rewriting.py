"""Light rewrites: another text that says the same, as far as a table of words goes."""

import re

import numpy as np

from cmtree_jax.data.corpora.spoiling import BETWEEN

# Words of everyday English that may stand for each other; the table is ours.
SYNONYMS = (
  ("big", "large"),
  ("small", "little"),
  ("quick", "fast", "rapid"),
  ("begin", "start"),
  ("begins", "starts"),
  ("began", "started"),
  ("end", "finish"),
  ("buy", "purchase"),
  ("help", "assist"),
  ("show", "display"),
  ("shows", "displays"),
  ("need", "require"),
  ("needs", "requires"),
  ("get", "obtain"),
  ("gets", "obtains"),
  ("give", "provide"),
  ("gives", "provides"),
  ("given", "provided"),
  ("choose", "select", "pick"),
  ("make", "create"),
  ("makes", "creates"),
  ("made", "created"),
  ("use", "employ"),
  ("used", "employed"),
  ("many", "numerous"),
  ("often", "frequently"),
  ("maybe", "perhaps"),
  ("also", "too"),
  ("but", "yet"),
  ("because", "since"),
  ("whole", "entire"),
  ("part", "piece"),
  ("error", "mistake"),
  ("wrong", "incorrect"),
  ("right", "correct"),
  ("answer", "reply"),
  ("ask", "inquire"),
  ("said", "stated"),
  ("say", "state"),
  ("near", "close to"),
  ("under", "below"),
  ("over", "above"),
  ("before", "prior to"),
  ("about", "concerning"),
  ("film", "movie"),
  ("picture", "image"),
  ("story", "tale"),
  ("people", "folk"),
  ("child", "kid"),
  ("children", "kids"),
  ("home", "house"),
  ("work", "labor"),
  ("happy", "glad"),
  ("sad", "unhappy"),
  ("great", "grand"),
  ("good", "fine"),
  ("bad", "poor"),
  ("new", "recent"),
  ("old", "aged"),
  ("hard", "difficult"),
  ("easy", "simple"),
  ("nation", "country"),
  ("king", "ruler"),
  ("road", "street"),
  ("allow", "permit"),
  ("allowed", "permitted"),
  ("whether", "if"),
  ("number", "count"),
  ("list", "sequence"),
  ("value", "quantity"),
  ("return", "yield"),
  ("returns", "yields"),
  ("default", "standard"),
)
_OTHERS = {
  word: tuple(one for one in group if one != word)
  for group in SYNONYMS
  for word in group
}
_WORD = re.compile(r"[A-Za-z]+")

_SYNONYM = 0.5  # chance of a word of the table to be replaced
_MOVED = 0.25  # chance of a sentence to change places with the next one
_CASES = (str, str, str.lower)  # two thirds keep their capitals
_ATTEMPTS = 32  # to make a rewrite that is not there yet; short texts have few


def rewrites(text: str, count: int, rng: np.random.Generator) -> list[str]:
  """Rewrites that differ from the text and from each other, if that can be.

  Args:
    text: what is rewritten.
    count: of the rewrites.
    rng: draws all of them.
  """
  found: list[str] = []
  for _ in range(count):
    for _ in range(_ATTEMPTS):
      one = rewritten(text, rng)
      if one != text and one not in found:
        break
    found.append(one)
  return found


def rewritten(text: str, rng: np.random.Generator) -> str:
  """One rewrite: other words, neighbours that changed places, other case.

  Signs and white space stay where they are, and so do all words, but for those of
  the table.
  """
  pieces = BETWEEN.split(text)
  for number in range(0, len(pieces) - 2, 2):
    if rng.random() < _MOVED:
      pieces[number], pieces[number + 2] = pieces[number + 2], pieces[number]
  text = "".join(pieces)
  text = _WORD.sub(lambda found: _synonym(found[0], rng), text)
  return _CASES[rng.integers(len(_CASES))](text)


def _synonym(word: str, rng: np.random.Generator) -> str:
  others = _OTHERS.get(word.lower())
  if not others or rng.random() >= _SYNONYM:
    return word
  other = others[rng.integers(len(others))]
  return other.capitalize() if word[0].isupper() else other
