"""The view of form: how a text is written, whatever it is about.

Where `embed/tfidf.py` tells topic, language and format apart, this tells prose from
tables, shouting from reports, and text that repeats itself from text that does not. It
costs a pass over the characters and a compression of each text's beginning: 22 MB in
21k documents take 1.5 seconds on one core.
"""

import functools
import math
import unicodedata
import zlib
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from cmtree_jax.embed import texts as of_texts
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
  r"""An embedder for which the sampled texts are standardized and whitened.

  .. math:: y = \mathrm{clip}\big(C^{-1/2} \, (x - \mu) / \sigma, \pm 3\big), \quad
            h = \mathrm{normalize}\big(y, \tfrac12 \sqrt F\big)

  with the correlations C of the F features x. The root of C is the symmetric one, so
  each number of y is its feature, as far as the others do not tell it. The constant
  at the end of h keeps what bringing a row to unit length would take away, namely how
  far a text lies from the mean: a tree sees directions alone, and can still cut "much"
  from "little" by it. It is a quarter of a row's squared length in the mean.

  Args:
    texts: the corpus.
    sample: how many texts, chosen by hash, to learn from.
    seed: chooses the texts.
  """
  x_NF = features(of_texts.sample(texts, sample, seed))
  mean_F = x_NF.mean(axis=0)
  # What is the same in all texts of the sample may differ in others.
  scale_F = np.maximum(x_NF.std(axis=0), _LEAST_SPREAD)
  z_NF = (x_NF - mean_F) / scale_F
  variance, vectors = np.linalg.eigh(z_NF.T @ z_NF / len(z_NF))
  root = 1 / np.sqrt(np.maximum(variance, _LEAST_VARIANCE))
  return FormEmbedder(
    mean_F=mean_F, scale_F=scale_F, whiten_FF=(vectors * root) @ vectors.T
  )


_LEAST_SPREAD = 1e-3
# A direction in which the sample varies less is stretched as if it varied by this:
# what is left of two features that all but say the same is noise.
_LEAST_VARIANCE = 0.05
_CLIP = 3.0  # standard deviations


class FormEmbedder:
  """Gives texts their form: `embedder(texts)` has unit rows [N, F + 1], float32."""

  def __init__(
    self,
    *,
    mean_F: Float[np.ndarray, " F"],
    scale_F: Float[np.ndarray, " F"],
    whiten_FF: Float[np.ndarray, "F F"],
  ):
    self._mean_F, self._scale_F = mean_F, scale_F
    self._whiten_FF = whiten_FF

  def __call__(self, texts: Sequence[str]) -> FloatNE:
    """One unit row per text; the last number is the constant's."""
    rows: list[FloatNE] = [np.zeros((0, len(FEATURES) + 1), np.float32)]
    for start in range(0, len(texts), _CHUNK):
      x_NF = features(texts[start : start + _CHUNK])
      z_NF = (x_NF - self._mean_F) / self._scale_F
      # No product of matrices, which rounds by how many rows there are.
      y_NF = (z_NF[:, :, None] * self._whiten_FF).sum(axis=1)
      y_NF = np.clip(y_NF, -_CLIP, _CLIP)
      constant = np.full((len(y_NF), 1), math.sqrt(len(FEATURES)) / 2)
      lifted = np.concatenate([y_NF, constant], axis=1)
      lifted /= np.sqrt((lifted**2).sum(axis=1, keepdims=True))
      rows.append(lifted.astype(np.float32))
    return np.concatenate(rows)

  def to_arrays(self) -> dict[str, np.ndarray]:
    """Plain arrays, to be kept as .npz; `from_arrays` gives equal results."""
    return {
      "mean": self._mean_F,
      "scale": self._scale_F,
      "whiten": self._whiten_FF,
    }

  @classmethod
  def from_arrays(cls, arrays: dict[str, np.ndarray]) -> "FormEmbedder":
    """The embedder that `to_arrays` was called on."""
    return cls(
      mean_F=arrays["mean"],
      scale_F=arrays["scale"],
      whiten_FF=arrays["whiten"],
    )


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
