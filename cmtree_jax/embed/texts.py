"""What can be asked of texts that lie on disk, and of what is measured of each.

A method never opens a file. It is given its documents' texts as a sequence, of which
it reads a few; what it wants to know of every one is a `Measure`, which whoever holds
the texts has done where and how it likes (`data/build/texts.py`), and keeps.
"""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, overload, runtime_checkable

import numpy as np


@runtime_checkable  # tests check signatures at run time
class Measure(Protocol):
  """Something to be found out about every text; a NamedTuple of plain values.

  JSON must be able to write its fields, a hash of which names what is kept; `version`
  is one of them, to be raised when the same fields come to say something else.
  """

  @property
  def version(self) -> int:
    """Of its code."""
    ...

  def __call__(self, texts: Sequence[str]) -> dict[str, np.ndarray]:
    """Arrays, each of the texts' rows end to end: no row may depend on other texts."""
    ...

  def _asdict(self) -> dict[str, Any]: ...


@runtime_checkable
class Texts(Protocol):
  """The texts of some documents, in their order."""

  def __len__(self) -> int: ...

  @overload
  def __getitem__(self, which: int, /) -> str: ...

  @overload
  def __getitem__(self, which: slice, /) -> Sequence[str]: ...

  def measured(self, measure: Measure) -> Mapping[str, np.ndarray]:
    """What the measure says of all texts; its arrays may lie on disk."""
    ...


def sample(texts: Sequence[str], size: int, seed: int) -> list[str]:
  """The texts with the smallest hashes, in the order of their hashes."""
  salt = seed.to_bytes(8, "little")
  return sorted(texts, key=lambda text: (_digest(text, salt), text))[:size]


def folds(texts: Sequence[str], number: int) -> np.ndarray:
  """Which of so many parts each text is of, by its hash: equal texts of the same."""
  hash_N = [int.from_bytes(_digest(text, b"folds"), "little") for text in texts]
  return np.array([one % number for one in hash_N], np.int64)


def _digest(text: str, salt: bytes) -> bytes:
  data = text.encode(errors="surrogatepass")
  return hashlib.blake2b(data, digest_size=16, salt=salt).digest()
