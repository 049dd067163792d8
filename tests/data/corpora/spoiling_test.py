"""What each spoiling must change, and what it must leave as it was."""

import re
from collections import Counter

import numpy as np
import pytest

from cmtree_jax.data.corpora import spoiling

TEXT = (
  "The old king slept, and nobody spoke. Was it night?\n\n"
  "  A guard (the tall one) counted 12 doors; he didn't count twice.\n"
  "Привет, мир: как дела сегодня? Хорошо и тихо."
)
OTHER = "First line of another. Second one here!\nA third."
_FULL = {
  name: spoil(TEXT, 1.0, np.random.default_rng(0), OTHER)
  for name, spoil in spoiling.SPOILINGS.items()
}


def _sentences(text: str) -> list[str]:
  return [x for x in spoiling.BETWEEN.split(text)[::2] if x.strip()]


@pytest.mark.parametrize("name", spoiling.SPOILINGS)
def test_strength_zero_changes_nothing_and_one_does(name):
  spoil = spoiling.SPOILINGS[name]
  for text in (TEXT, "", "\n", "x"):
    assert spoil(text, 0.0, np.random.default_rng(0), OTHER) == text
  assert _FULL[name] != TEXT


@pytest.mark.parametrize("name", spoiling.SPOILINGS)
def test_more_strength_changes_more(name):
  spoil, text = spoiling.SPOILINGS[name], "\n".join([TEXT] * 40)
  other = "\n".join([OTHER] * 200)

  def changed(strength):
    found = spoil(text, strength, np.random.default_rng(1), other)
    if len(found) == len(text):
      return sum(a != b for a, b in zip(found, text, strict=True))
    return len(found) - len(text)

  counts = [changed(strength) for strength in (0.0, 0.25, 0.5, 0.75, 1.0)]
  assert counts == sorted(set(counts))
  assert counts[1] == pytest.approx(counts[4] / 4, rel=0.25)


def test_words_change_places_within_their_sentence():
  at = 0
  for sentence in _sentences(TEXT):
    at = TEXT.index(sentence, at)
    other = _FULL["words"][at : at + len(sentence)]
    assert Counter(other.split()) == Counter(sentence.split())
  blanks = [re.sub(r"\S+", "_", x) for x in (TEXT, _FULL["words"])]
  assert blanks[0] == blanks[1]
  assert len(_FULL["words"].encode()) == len(TEXT.encode())


def test_lines_of_the_other_stand_between_its_own():
  """Both in their order, until there is no other left."""
  lines, own, theirs = (_sentences(x) for x in (_FULL["lines"], TEXT, OTHER))
  assert lines == [
    *(x for pair in zip(own, theirs, strict=False) for x in pair),
    *own[len(theirs) :],
  ]
  assert (
    spoiling.interleaved_lines(TEXT, 1.0, np.random.default_rng(0), "") == TEXT
  )


def test_one_line_of_boilerplate_comes_again_and_again():
  found = _FULL["boilerplate"]
  (line,) = {one for one in spoiling.BOILERPLATE if one in found}
  assert found.count(line) == len(_sentences(TEXT))
  assert _sentences(found.replace(line, "")) == _sentences(TEXT)


def test_letters_are_replaced_one_by_one():
  found = _FULL["letters"]
  assert len(found) == len(TEXT)
  pairs = [(a, b) for a, b in zip(TEXT, found, strict=True) if a != b]
  letters = sum(one.isalpha() for one in TEXT)
  assert len(pairs) == round(spoiling.LETTERS * letters)
  for before, after in pairs:
    assert before.isalpha() and after.isalpha()
    assert before.isascii() == after.isascii()  # its own script


def test_white_space_and_blanks_of_a_text_without_letters_stay():
  text = "12 + 34 = 46;\n\t= ?\n"
  rng = np.random.default_rng(0)
  assert spoiling.noisy_letters(text, 1.0, rng) == text
