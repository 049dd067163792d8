"""Cuts a long text into documents, at the coarsest boundary that fits."""

import re

SHORTEST = 250  # characters; a shorter text says too little of its domain
ENOUGH = 1_250  # characters; a document stops growing here
LONGEST = 3_000  # characters; fits the context of a small proxy model

# From coarse to fine: top-level definitions (or sections), paragraphs, lines,
# sentences (also CJK), words. The last resort cuts between characters.
_BOUNDARIES = tuple(
  re.compile(pattern)
  for pattern in (
    r"(?<=\n\n\n)(?=\S)",
    r"(?<=\n\n)(?=\S|[ \t]+\S)",
    r"(?<=\n)(?=.)",
    r"(?<=[.!?] )|(?<=[。！？])",
    r"(?<= )(?=\S)",
    r"(?s)(?<=.)(?=.)",
  )
)


def cut(text: str, *, shortest: int = SHORTEST) -> list[str]:
  """Documents of `shortest` to `LONGEST` characters, in the text's order.

  Args:
    text: any text; line endings are normalized.
    shortest: a part with fewer characters is joined to a neighbour where that
      fits, and otherwise left out.
  """
  text = text.replace("\r\n", "\n").replace("\r", "\n")
  # Blanks on an otherwise blank line would hide the paragraph boundary.
  text = re.sub(r"[ \t]+(?=\n)", "", text)
  pieces = _pack(_parts(text, 0), shortest)
  documents = (piece.strip("\n").rstrip() for piece in pieces)
  return [piece for piece in documents if len(piece) >= shortest]


def _parts(text: str, level: int) -> list[str]:
  """Parts of at most LONGEST characters whose concatenation is the text."""
  if len(text) <= LONGEST:
    return [text]
  parts = []
  for part in _BOUNDARIES[level].split(text):
    parts += _parts(part, level + 1)
  # Packed here and not once at the end, so that neighbours are first joined
  # inside their own section.
  return _pack(parts, SHORTEST)


def _pack(parts: list[str], shortest: int) -> list[str]:
  """Joins neighbours up to ENOUGH, and further while one is too short."""
  packed: list[str] = []
  for part in parts:
    if packed and _joins(packed[-1], part, shortest):
      packed[-1] += part
    else:
      packed.append(part)
  if len(packed) > 1 and len(packed[-1]) < shortest and _fits(*packed[-2:]):
    packed[-2:] = [packed[-2] + packed[-1]]
  return packed


def _joins(document: str, part: str, shortest: int) -> bool:
  if len(document) < shortest:
    return _fits(document, part)
  return len(document) + len(part) <= ENOUGH


def _fits(document: str, part: str) -> bool:
  return len(document) + len(part) <= LONGEST
