"""Texts made worse in ways that are known: what a learner should find and leave out.

Each function is pure: a text, how strongly it is spoiled (from 0, as it was, to 1) and
a generator of its own. None sees another document, but for the one that it is given.
"""

import itertools
import re
from collections.abc import Callable

import numpy as np

# What blanks separate: signs move with their words, so that runs of letters change at
# the ends of words alone and hardly tell.
_WORD = re.compile(r"\S+")
# A sentence ends with its sign, a line with its end. Both groups of white space stay.
BETWEEN = re.compile(r"((?<=[.!?。！？])\s+|\s*\n\s*)")

# Share of the letters that are replaced at strength one.
LETTERS = 0.12

# What a scanner takes for each other, in both directions.
_ALIKE = (
  *("ao", "bh", "ce", "cg", "dc", "ec", "fl", "ft", "ij", "il", "kx", "mn"),
  *("nu", "oc", "pq", "rn", "rv", "sz", "tl", "uv", "vy", "wv", "xz", "yv"),
  *("AH", "BE", "CG", "DO", "EF", "HN", "IT", "JI", "KX", "LI", "MN", "OQ"),
  *("PF", "RB", "SB", "TI", "UV", "VY", "WM", "XK", "YV", "ZS"),
)
_CONFUSED: dict[str, str] = {}
for _one, _other in _ALIKE:
  _CONFUSED[_one] = _CONFUSED.get(_one, "") + _other
  _CONFUSED[_other] = _CONFUSED.get(_other, "") + _one

# One of them stands again and again in a document, as on pages of the web.
BOILERPLATE = (
  "Share this page with a friend. Sign in to leave a comment.",
  "This site uses cookies. By going on you accept our terms of use.",
  "Home | About us | Contact | Privacy | Terms | Site map",
  "All rights reserved. No part of this page may be copied without permission.",
  "Subscribe to our newsletter and never miss a story again.",
  "Click here to read more. Click here to go back to the top.",
  "Page loading, please wait. If nothing happens, try again later.",
  "Rate this entry: one star, two stars, three stars, four stars, five stars.",
)


def shuffled_words(
  text: str, strength: float, rng: np.random.Generator, other: str = ""
) -> str:
  """The words of some sentences in another order; white space stays in its place.

  Args:
    text: what is spoiled.
    strength: the share of the sentences whose words are shuffled.
    rng: draws sentences and orders.
    other: not read.

  >>> shuffled_words("One, two three. Four.", 1.0, np.random.default_rng(3))
  'One, three. two Four.'
  """
  del other
  pieces = BETWEEN.split(text)
  for number in range(0, len(pieces), 2):
    if rng.random() < strength:
      pieces[number] = _shuffled(pieces[number], rng)
  return "".join(pieces)


def _shuffled(sentence: str, rng: np.random.Generator) -> str:
  words = _WORD.findall(sentence)
  order = iter(rng.permutation(len(words)).tolist())
  return _WORD.sub(lambda _: words[next(order)], sentence)


def repeated_boilerplate(
  text: str, strength: float, rng: np.random.Generator, other: str = ""
) -> str:
  """The text with one line of boilerplate after some of its sentences.

  Args:
    text: what is spoiled.
    strength: the share of the sentences that boilerplate follows.
    rng: draws the line and the sentences.
    other: not read.
  """
  del other
  line = BOILERPLATE[rng.integers(len(BOILERPLATE))]
  pieces = BETWEEN.split(text)
  found = []
  for sentence, between in itertools.zip_longest(pieces[::2], pieces[1::2]):
    found.append(sentence)
    if rng.random() < strength:
      found.append(f"\n{line}\n" if between is None else f"\n{line}")
    found.append(between or "")
  return "".join(found)


def interleaved_lines(
  text: str, strength: float, rng: np.random.Generator, other: str = ""
) -> str:
  """The text with sentences of another document between its own, both in their order.

  Args:
    text: what is spoiled.
    strength: the share of its sentences that one of the other document follows, as
      long as there are some.
    rng: draws which.
    other: text of the other document.
  """
  theirs = iter([one for one in BETWEEN.split(other)[::2] if one.strip()])
  pieces = BETWEEN.split(text)
  found = []
  for sentence, between in itertools.zip_longest(pieces[::2], pieces[1::2]):
    found.append(sentence)
    line = next(theirs, None) if rng.random() < strength else None
    if line is not None:
      found.append(f"\n{line}")
    found.append(between or "")
  return "".join(found)


def noisy_letters(
  text: str, strength: float, rng: np.random.Generator, other: str = ""
) -> str:
  """The text with letters replaced by some that look alike, as a scanner would.

  A letter of another script is replaced by one of the document's own. Digits, signs
  and white space stay.

  Args:
    text: what is spoiled.
    strength: of which `LETTERS` times as many letters are replaced.
    rng: draws which, and by which.
    other: not read.
  """
  del other
  letters = list(text)
  places = [i for i, one in enumerate(letters) if one.isalpha()]
  own = sorted({one for one in letters if one.isalpha()})
  count = round(strength * LETTERS * len(places))
  for place in rng.choice(len(places), count, replace=False) if count else ():
    letter = letters[places[place]]
    choices = _CONFUSED.get(letter) or [
      one for one in own if one != letter and one.isascii() == letter.isascii()
    ]
    if choices:
      letters[places[place]] = choices[rng.integers(len(choices))]
  return "".join(letters)


Spoil = Callable[[str, float, np.random.Generator, str], str]

SPOILINGS: dict[str, Spoil] = {
  "boilerplate": repeated_boilerplate,
  "letters": noisy_letters,
  "lines": interleaved_lines,
  "words": shuffled_words,
}
