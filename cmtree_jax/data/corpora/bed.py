"""Test beds: a pool that is changed on purpose, so that it is known what is to be found.

A bed is named in one line, `config.data.bed`. What it did to a document is a hidden
label, as its source is: no learner sees it, and every recipe is scored by it. All is
drawn by a seed and the document's id, so neither order nor shards change a byte.
"""

from collections.abc import Sequence
from hashlib import blake2b
from typing import NamedTuple

import numpy as np

from cmtree_jax.data.corpora import rewriting, spoiling

_SPOILINGS = "|".join(sorted(spoiling.SPOILINGS))
_QUALITY = "words"  # how topic_by_quality spoils, unless it is told
_REWRITTEN = 0.2  # share of the documents that are rewritten, unless it is told

FORMS = {
  # Within each source this share of the documents is spoiled.
  "spoiled": f"spoiled:{_SPOILINGS}:SHARE",
  # Within each source a fifth of the documents at each of `STRENGTHS`.
  "topic_by_quality": f"topic_by_quality[:{_SPOILINGS}]",
  # Within each source this share of the documents has so many rewrites beside it.
  "rewrites": "rewrites:NUMBER[:SHARE]",
  # What has this source, domain or language leaves the pool, all of it or the share
  # of its originals; it is a target of this name.
  "absent": "absent:NAME",
  "held_out": "held_out:NAME:SHARE",
  # Every target has so many texts in its train and its validation split.
  "tiny": "tiny:NUMBER",
}
STRENGTHS = (0.0, 0.25, 0.5, 0.75, 1.0)

# Hidden labels: what was done to a document, and the id of what it was made from.
FACTOR, COPY_OF = "factor", "copy_of"
SOUND, ONCE, REWRITTEN = "sound", "once", "rewritten"


class Bed(NamedTuple):
  """What a line says; see `FORMS`."""

  kind: str
  name: str = ""  # of the spoiling, or of what leaves the pool
  number: int = 0
  share: float = 1.0

  @property
  def has_factor(self) -> bool:
    """Whether documents have a hidden factor."""
    return self.kind in ("spoiled", "topic_by_quality", "rewrites")

  @property
  def holds_out(self) -> bool:
    """Whether documents of the pool become a target."""
    return self.kind in ("absent", "held_out")


def parse(line: str) -> Bed:
  """The bed that a line names.

  Raises:
    ValueError: it names none.

  >>> parse("spoiled:words:0.5")
  Bed(kind='spoiled', name='words', number=0, share=0.5)
  >>> parse("rewrites:20")
  Bed(kind='rewrites', name='', number=20, share=0.2)
  """
  kind, *words = line.split(":")
  try:
    found = _PARSERS[kind](*words)
  except (KeyError, TypeError, ValueError):
    raise ValueError(
      f"bed = {line!r} is unknown. Known: {', '.join(FORMS.values())}; a SHARE is "
      "above 0 and at most 1, a NUMBER at least 1."
    ) from None
  return found


def _spoiled(name: str, share: str) -> Bed:
  return Bed("spoiled", _spoiling(name), share=_share(share))


def _by_quality(name: str = _QUALITY) -> Bed:
  return Bed("topic_by_quality", _spoiling(name))


def _rewrites(number: str, share: str = str(_REWRITTEN)) -> Bed:
  return Bed("rewrites", number=_number(number), share=_share(share))


def _absent(name: str) -> Bed:
  return Bed("absent", _named(name))


def _held_out(name: str, share: str) -> Bed:
  return Bed("held_out", _named(name), share=_share(share))


def _tiny(number: str) -> Bed:
  return Bed("tiny", number=_number(number))


_PARSERS = {
  "spoiled": _spoiled,
  "topic_by_quality": _by_quality,
  "rewrites": _rewrites,
  "absent": _absent,
  "held_out": _held_out,
  "tiny": _tiny,
}


def _spoiling(name: str) -> str:
  if name not in spoiling.SPOILINGS:
    raise ValueError
  return name


def _share(text: str) -> float:
  if not 0 < float(text) <= 1:
    raise ValueError
  return float(text)


def _number(text: str) -> int:
  if int(text) < 1:
    raise ValueError
  return int(text)


def _named(name: str) -> str:
  if not name:
    raise ValueError
  return name


class Made(NamedTuple):
  """A document of the bed."""

  id: str
  text: str
  factor: str
  copy_of: str  # the id of the document that it was made from


def made(
  bed: Bed,
  name: str,
  text: str,
  position: float,
  *,
  other: str = "",
  seed: int = 0,
) -> list[Made]:
  """What a document becomes: itself, or one that is spoiled, or itself and rewrites.

  Args:
    bed: one that has a factor.
    name: the document's id.
    text: its text.
    position: of `positions`.
    other: text of another document, for lines that are interleaved.
    seed: of all draws.
  """
  rng = _generator(seed, bed.kind, bed.name, name)
  if bed.kind == "rewrites":
    if position >= bed.share:
      return [Made(name, text, ONCE, name)]
    texts = [text, *rewriting.rewrites(text, bed.number, rng)]
    return [
      Made(f"{name}~{i}" if i else name, one, REWRITTEN, name)
      for i, one in enumerate(texts)
    ]
  strength = float(position < bed.share)
  factor = bed.name if strength else SOUND
  if bed.kind == "topic_by_quality":
    strength = STRENGTHS[int(position * len(STRENGTHS))]
    factor = f"{strength:g}"
  if strength:
    text = spoiling.SPOILINGS[bed.name](text, strength, rng, other)
  return [Made(name, text, factor, name)]


def positions(
  names: Sequence[str], sources: Sequence[str], *, seed: int = 0
) -> np.ndarray:
  """A number in [0, 1) for every document, spread evenly within each source.

  So every share of this range holds that share of every source, up to one document,
  and of small sources in the mean.

  Args:
    names: ids of the documents.
    sources: of each.
    seed: of all draws.

  >>> positions(["a", "b", "c", "d"], ["x", "y", "x", "x"]).round(2)
  array([0.1 , 0.55, 0.44, 0.77])
  """
  number = {one: i for i, one in enumerate(sorted(set(sources)))}
  source_N = np.array([number[one] for one in sources])
  unit = [_unit(seed, "position", name) for name in names]
  order_N = np.array(
    sorted(range(len(names)), key=lambda i: (source_N[i], unit[i], names[i]))
  )
  count_K = np.bincount(source_N)
  first_K = np.cumsum(count_K) - count_K
  rank_N = np.empty(len(names), np.int64)
  rank_N[order_N] = np.arange(len(names))
  offset = {one: _unit(seed, "source", one) for one in set(sources)}
  offset_N = np.array([offset[one] for one in sources])
  place_N = rank_N - first_K[source_N] + offset_N
  return place_N / count_K[source_N]


def partners(names: Sequence[str], *, seed: int = 0) -> np.ndarray:
  """For every document the number of another: the next one in an order by chance."""
  unit = [_unit(seed, "partner", name) for name in names]
  order_N = np.array(
    sorted(range(len(names)), key=lambda i: (unit[i], names[i]))
  )
  next_N = np.empty(len(names), np.int64)
  next_N[order_N] = np.roll(order_N, -1)
  return next_N


def few(bed: Bed, texts: Sequence[str], *, seed: int = 0) -> list[int]:
  """Numbers of the texts of a target's split that the bed "tiny" keeps, ascending."""
  order = sorted(
    range(len(texts)), key=lambda i: (_unit(seed, "few", texts[i]), texts[i])
  )
  return sorted(order[: bed.number])


def is_held_out(
  bed: Bed, labels: Sequence[str], original: str, *, seed: int = 0
) -> bool:
  """Whether a document leaves the pool.

  Args:
    bed: that holds documents out.
    labels: the document's source, domain and language.
    original: the file that it was cut from; all of it leaves, or nothing.
    seed: of all draws.
  """
  chosen = bed.share >= 1 or _unit(seed, "held out", original) < bed.share
  return bed.name in labels and chosen


def _unit(seed: int, *words: str) -> float:
  """A number in [0, 1) that the words alone decide, uniform over them."""
  return int.from_bytes(_digest(seed, *words)[:6], "big") / 2**48


def _generator(seed: int, *words: str) -> np.random.Generator:
  key = int.from_bytes(_digest(seed, *words), "big")
  return np.random.Generator(np.random.Philox(key=key))


def _digest(seed: int, *words: str) -> bytes:
  text = "\0".join([str(seed), *words])
  return blake2b(text.encode(), digest_size=16).digest()
