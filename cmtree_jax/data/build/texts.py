"""The texts of a prepared corpus, and what is measured of each, kept beside it.

Pool and targets are read back from their tokens, which hold their texts without loss:
a text is a slice of an array on disk. What a method wants to know of every text is
found out by the job's workers, once, and kept.
"""

import functools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cmtree_jax.data import cache, store
from cmtree_jax.data.build import prepare
from cmtree_jax.data.build import tokenizer as tokenizers
from cmtree_jax.data.build.workers import Workers
from cmtree_jax.data.draw import packing
from cmtree_jax.embed.texts import Measure

POOL = "pool"

# Raise it when the files change, so that old ones are unused.
_FORMAT = 1

_SPLITS = ("train", "validation")  # of targets; their test splits are not read
_DOCUMENTS = 1024  # that are measured at a time, ...
_BYTES = 32_000_000  # ... or documents of so much text
_PARTS, _FIELDS, _ROWS = "parts", "measure.json", "rows.json"


def load(
  data: prepare.Prepared, *, tokenizer: str, cache_dir: Path, workers: Workers
) -> dict[str, "Texts"]:
  """Texts by the name of the set, "pool" or "TARGET.SPLIT".

  Args:
    data: the corpus.
    tokenizer: the kind of the corpus's tokenizer.
    cache_dir: where what is measured is kept, in the folder `texts`.
    workers: who measures, if it has not been done before.
  """
  names = [POOL] + [
    f"{target}.{split}"
    for target in sorted(data.manifest["targets"])
    for split in _SPLITS
  ]
  return {
    name: Texts(_Place(data.folder, name, tokenizer), cache_dir, workers)
    for name in names
  }


class _Place(NamedTuple):
  """Where the texts of a set of documents are."""

  folder: Path  # the prepared one
  name: str
  tokenizer: str  # kind


class Texts(Sequence[str]):
  """The texts of a set of documents; one is in memory when it is asked for."""

  def __init__(self, place: _Place, cache_dir: Path, workers: Workers):
    """See `load`."""
    self._place, self._cache_dir, self._workers = place, cache_dir, workers

  def __len__(self) -> int:
    return len(_opened(self._place).tokens.bytes_N)

  def __getitem__(self, which: Any) -> Any:
    """One text, or a list of those of a slice."""
    numbers = range(len(self))[which]
    one = _opened(self._place)
    if isinstance(numbers, range):
      return [one.text(number) for number in numbers]
    return one.text(numbers)

  def measured(self, measure: Measure) -> Mapping[str, np.ndarray]:
    """What the measure says of all texts; the arrays stay on disk."""
    # The prepared folder's name is a hash of all texts and of what was done with
    # them.
    key = store.key_of(
      _FORMAT,
      self._place.folder.name,
      f"{type(measure).__module__}.{type(measure).__qualname__}",
      measure._asdict(),
    )
    folder = cache.build_once(
      self._cache_dir / "texts" / key / self._place.name,
      functools.partial(self._build, measure),
    )
    rows = json.loads((folder / _ROWS).read_text())
    return {name: _load(folder, name, rows[name]) for name in rows}

  def _build(self, measure: Measure, folder: Path) -> None:
    (folder / _PARTS).mkdir(exist_ok=True)
    fields = store.to_json(measure._asdict())
    store.write_atomically(folder / _FIELDS, fields)
    items = [
      Item(
        folder / _PARTS / f"{rows[0]:012d}.npz",
        self._place,
        rows,
        folder / _FIELDS,
        type(measure),
      )
      for rows in _parts(_opened(self._place).tokens.bytes_N)
    ]
    what = f"{type(measure).__name__.lower()} in the texts of"
    self._workers.run(measure_part, items, text=f"{what} {self._place.name}")
    _join(folder, [item.done for item in items])
    store.remove(folder / _PARTS)


class Item(NamedTuple):
  """Texts that are measured together; see `measure_part`."""

  done: Path  # .npz of arrays
  place: _Place
  rows: tuple[int, int]  # first document, and the one after the last
  fields: Path  # of the measure, in a file, since they may be many
  measure: type[Any]


def measure_part(item: Item) -> None:
  """Measures some texts."""
  texts = [_opened(item.place).text(number) for number in range(*item.rows)]
  found = _measure(item.fields, item.measure)(texts)
  store.save_arrays(item.done, found)


@functools.lru_cache(maxsize=1)  # a worker is at work on one measure at a time
def _measure(fields: Path, kind: type[Any]) -> Any:
  return kind(**json.loads(fields.read_text()))


class _Opened(NamedTuple):
  tokens: packing.TokenStore
  tokenizer: tokenizers.Tokenizer

  def text(self, number: int) -> str:
    """The text of a document."""
    start, stop = self.tokens.start_N1[number : number + 2]
    return self.tokenizer.decode(self.tokens.flat[start:stop])


@functools.lru_cache(maxsize=64)
def _opened(place: _Place) -> _Opened:
  mode = "r" if place.name == POOL else None  # a target's set may be empty
  content = (place.folder / prepare.TOKENIZER_FILE).read_bytes()
  return _Opened(
    prepare.load_set(place.folder, place.name, mmap_mode=mode).tokens,
    tokenizers.TOKENIZERS[place.tokenizer].from_bytes(content),
  )


def _parts(bytes_N: np.ndarray) -> list[tuple[int, int]]:
  """Consecutive documents that fit in memory; one empty part where there are none."""
  end_N = np.cumsum(bytes_N)
  full = np.searchsorted(end_N, np.arange(_BYTES, end_N[-1:].sum(), _BYTES))
  starts = np.union1d(np.arange(0, len(bytes_N), _DOCUMENTS), full).astype(int)
  ends = [*starts[1:].tolist(), len(bytes_N)]
  return list(zip(starts.tolist() or [0], ends, strict=True))


def _join(folder: Path, parts: Sequence[Path]) -> None:
  """Joins the parts' arrays on disk, where they may be larger than memory."""
  rows: dict[str, int] = {}
  kinds: dict[str, tuple[Any, tuple[int, ...]]] = {}
  for part in parts:
    with np.load(part) as file:
      for name, array in file.items():
        rows[name] = rows.get(name, 0) + len(array)
        kinds[name] = array.dtype, array.shape[1:]
  for name, (dtype, shape) in kinds.items():
    # An array of no entries cannot be mapped.
    whole = store.create_array(
      folder / f"{name}.npy", dtype, (max(rows[name], 1), *shape)
    )
    at = 0
    for part in parts:
      with np.load(part) as file:
        array = file[name]
      whole[at : at + len(array)] = array
      at += len(array)
    whole.flush()
  store.write_atomically(folder / _ROWS, store.to_json(rows))


def _load(folder: Path, name: str, rows: int) -> np.ndarray:
  return np.load(folder / f"{name}.npy", mmap_mode="r")[:rows]
