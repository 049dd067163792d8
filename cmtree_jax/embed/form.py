"""The view of form: how a text is written, whatever it is about.

Where `embed/tfidf.py` tells topic, language and format apart, this tells prose from
tables, shouting from reports, and text that repeats itself from text that does not. It
costs a pass over the characters and a compression of each text's beginning: 22 MB in
21k documents take 1.5 seconds on one core.
"""

import functools
import unicodedata
import zlib
from collections.abc import Sequence

import numpy as np

from cmtree_jax.embed import texts as of_texts
from cmtree_jax.embed import whiten
from cmtree_jax.shapes import FloatNE

# Shares are those of a text's characters if nothing else is said. Of every share the
# square root is taken: many are near zero, where differences count most.
FEATURES = (
  "log_length",  # of characters
  "digits",
  "upper_case",
  "punctuation",  # and symbols
  "non_ascii",
  "line_ends",
  "blanks",  # white space that ends no line
  "log_word_length",  # characters per word, a word being what is between blanks
  "log_line_length",
  "compressed",  # bytes after compression / bytes before
  "repeated_lines",  # share of the lines with text in them
  "indented_lines",  # share of lines that begin with a blank
  "opening_capitals",  # share of the words in capitals that begin a sentence or line
  "distinct_words",  # share of the first words
)


def fit(texts: Sequence[str], *, sample: int, seed: int) -> "FormEmbedder":
  """An embedder for which the sampled texts are standardized and whitened.

  Args:
    texts: the corpus.
    sample: how many texts, chosen by hash, to learn from.
    seed: chooses the texts.
  """
  return FormEmbedder(
    whiten.fit(features(of_texts.sample(texts, sample, seed)))
  )


class FormEmbedder:
  """Gives texts their form: `embedder(texts)` has unit rows [N, F + 1], float32."""

  def __init__(self, whitening: whiten.Whitening):
    self._whitening = whitening

  def __call__(self, texts: Sequence[str]) -> FloatNE:
    """One unit row per text; the last number is the constant's."""
    rows: list[FloatNE] = [np.zeros((0, len(FEATURES) + 1), np.float32)]
    for start in range(0, len(texts), _CHUNK):
      rows.append(self._whitening(features(texts[start : start + _CHUNK])))
    return np.concatenate(rows)

  def to_arrays(self) -> dict[str, np.ndarray]:
    """Plain arrays, to be kept as .npz; `from_arrays` gives equal results."""
    return self._whitening._asdict()

  @classmethod
  def from_arrays(cls, arrays: dict[str, np.ndarray]) -> "FormEmbedder":
    """The embedder that `to_arrays` was called on."""
    return cls(whiten.Whitening(**arrays))


_CHUNK = 1000  # documents; bounds the memory of their characters


def features(texts: Sequence[str]) -> FloatNE:
  """The features of texts as they are, float64; of an empty one all zero."""
  if not len(texts):
    return np.zeros((0, len(FEATURES)))
  char = _Characters(texts)
  words = char.count(char.begins_word)
  lines = char.count(char.begins_line)
  capitals = char.count(char.begins_word & (char.kind == _UPPER))
  opening = char.count(char.opens & (char.kind == _UPPER))
  whole = np.array([_of_whole(text) for text in texts])
  size = char.size_N
  return np.stack(
    [
      np.log1p(size),
      *(
        np.sqrt(_ratio(char.count(some), size))
        for some in (
          char.kind == _DIGIT,
          char.kind == _UPPER,
          char.kind == _SIGN,
          char.point > 127,
          char.kind == _LINE_END,
          char.kind == _BLANK,
        )
      ),
      np.log1p(_ratio(char.count(char.kind < _BLANK), words)),
      np.log1p(_ratio(size, lines)),
      whole[:, 0],
      np.sqrt(whole[:, 1]),
      np.sqrt(_ratio(char.count(char.indents), lines)),
      np.sqrt(_ratio(opening, capitals)),
      whole[:, 2],
    ],
    axis=1,
  )


# Kinds of characters; the two of white space come last.
_OTHER, _DIGIT, _UPPER, _SIGN, _BLANK, _LINE_END = range(6)
_ENDS = np.frombuffer(".!?:".encode("utf-32-le"), "<u4")  # of sentences


class _Characters:
  """The characters of some texts, end to end."""

  def __init__(self, texts: Sequence[str]):
    joined = "".join(texts).encode("utf-32-le", "surrogatepass")
    self.point = np.frombuffer(joined, "<u4")
    self.size_N = np.array([len(text) for text in texts])
    self._document = np.repeat(np.arange(len(texts)), self.size_N)
    kinds = _kinds()
    self.kind = kinds[np.minimum(self.point, len(kinds) - 1)]
    first = np.diff(self._document, prepend=-1) > 0  # of its text
    space = self.kind >= _BLANK
    before = np.roll(self.kind, 1)
    self.begins_line = first | (before == _LINE_END)
    self.begins_word = ~space & (first | np.roll(space, 1))
    self.indents = self.begins_line & (self.kind == _BLANK)
    # What came before the one blank before a word.
    ended = np.roll(np.isin(self.point, _ENDS), 2) & ~np.roll(first, 1)
    self.opens = self.begins_word & (self.begins_line | (ended & ~first))

  def count(self, some: np.ndarray) -> np.ndarray:
    """In each text, the characters that are chosen."""
    return np.bincount(self._document[some], minlength=len(self.size_N))


@functools.cache
def _kinds() -> np.ndarray:
  """The kind of every character of the basic plane, and of all others together."""
  kinds = np.full(2**16 + 1, _OTHER, np.uint8)
  for point in range(2**16):
    char = chr(point)
    if char.isspace():
      kinds[point] = _LINE_END if char == "\n" else _BLANK
    elif char.isdecimal():
      kinds[point] = _DIGIT
    elif char.isupper():
      kinds[point] = _UPPER
    elif unicodedata.category(char)[0] in "PS":
      kinds[point] = _SIGN
  return kinds


_COMPRESSED = 65_536  # characters of a text; what repeats does so within them
_WORDS = 500  # of a text; in a longer one ever fewer words are new


def _of_whole(text: str) -> tuple[float, float, float]:
  """(bytes after compression / before, share of repeated lines, of distinct words)."""
  data = text[:_COMPRESSED].encode(errors="surrogatepass")
  lines = [line.strip() for line in text.splitlines()]
  lines = [line for line in lines if line]
  words = text.lower().split(maxsplit=_WORDS)[:_WORDS]
  return (
    len(zlib.compress(data)) / len(data) if data else 0.0,
    1 - len(set(lines)) / len(lines) if lines else 0.0,
    len(set(words)) / len(words) if words else 0.0,
  )


def _ratio(part_N: np.ndarray, whole_N: np.ndarray) -> np.ndarray:
  return part_N / np.maximum(whole_N, 1)
