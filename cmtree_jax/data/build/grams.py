"""The runs of words of a prepared corpus, counted once and kept beside it.

Pool and targets are read back from their tokens, which hold their texts without loss.
Only methods that ask for the counts have them made.
"""

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cmtree_jax.data import cache, store
from cmtree_jax.data.build import prepare
from cmtree_jax.data.build import tokenizer as tokenizers
from cmtree_jax.data.build.workers import Workers
from cmtree_jax.data.draw import packing
from cmtree_jax.embed import grams
from cmtree_jax.embed.grams import Grams

POOL = "pool"

# Raise it when the files change, so that old ones are unused.
_FORMAT = 1

_SPLITS = ("train", "validation")  # of targets; their test splits are not read
_FIELDS = ("start_N1", "bucket", "count")
_DOCUMENTS = 8192  # that are counted at a time, ...
_BYTES = 32_000_000  # ... or documents of so much text


class Item(NamedTuple):
  """Documents that are counted together; see `count`."""

  done: Path  # .npz of the fields of Grams
  folder: Path  # of the prepared corpus
  name: str  # of a set of documents in it
  rows: tuple[int, int]  # first document, and the one after the last
  tokenizer: str  # kind
  plan: grams.Plan


def load(
  data: prepare.Prepared,
  plan: grams.Plan,
  *,
  tokenizer: str,
  cache_dir: Path,
  workers: Workers,
) -> dict[str, Grams]:
  """Counts by the name of the set, "pool" or "TARGET.SPLIT"; they stay on disk.

  Args:
    data: the corpus.
    plan: what is counted.
    tokenizer: the kind of the corpus's tokenizer.
    cache_dir: where they are kept, in the folder `grams`.
    workers: who counts, if it has not been done before.
  """
  names = [POOL] + [
    f"{target}.{split}"
    for target in sorted(data.manifest["targets"])
    for split in _SPLITS
  ]

  def build(place: Path) -> None:
    # The small ones first: workers start processes where much is left to do.
    for name in reversed(names):
      items = _items(place, name, data.folder, tokenizer, plan)
      workers.run(count, items, text=f"counting the words of {name}")
      _join(place, name, [item.done for item in items])
    store.remove(place / _PARTS)

  # The prepared folder's name is a hash of all texts and of what was done with them.
  key = store.key_of(_FORMAT, data.folder.name, plan._asdict())
  folder = cache.build_once(cache_dir / "grams" / key, build)
  return {name: _load(folder, name, plan.buckets) for name in names}


def count(item: Item) -> None:
  """Counts the words of some documents."""
  tokens = _tokens(item.folder, item.name)
  content = (item.folder / prepare.TOKENIZER_FILE).read_bytes()
  tok = tokenizers.TOKENIZERS[item.tokenizer].from_bytes(content)
  spans = itertools.pairwise(tokens.start_N1[item.rows[0] : item.rows[1] + 1])
  texts = [tok.decode(tokens.flat[start:stop]) for start, stop in spans]
  counted = grams.count(texts, item.plan)
  store.save_arrays(item.done, {x: getattr(counted, x) for x in _FIELDS})


def _tokens(folder: Path, name: str) -> packing.TokenStore:
  mode = "r" if name == POOL else None  # a target's set may be empty
  return prepare.load_set(folder, name, mmap_mode=mode).tokens


_PARTS = "parts"


def _items(
  place: Path, name: str, folder: Path, tokenizer: str, plan: grams.Plan
) -> list[Item]:
  """The set's documents in parts that fit in memory."""
  (place / _PARTS).mkdir(exist_ok=True)
  bytes_N = _tokens(folder, name).bytes_N
  end_N = np.cumsum(bytes_N)
  full = np.searchsorted(end_N, np.arange(_BYTES, end_N[-1:].sum(), _BYTES))
  starts = np.union1d(np.arange(0, len(bytes_N), _DOCUMENTS), full)
  return [
    Item(
      place / _PARTS / f"{name}.{start:012d}.npz",
      folder,
      name,
      (int(start), int(stop)),
      tokenizer,
      plan,
    )
    for start, stop in itertools.pairwise([*starts, len(bytes_N)])
  ]


def _join(place: Path, name: str, parts: Sequence[Path]) -> None:
  """Joins the parts of a set on disk, where it may be larger than memory."""
  documents, entries = 0, 0
  for part in parts:
    with np.load(part) as file:
      documents += len(file["start_N1"]) - 1
      entries += int(file["start_N1"][-1])
  # An array of no entries cannot be mapped.
  sizes = dict.fromkeys(_FIELDS, max(entries, 1)) | {"start_N1": documents + 1}
  kinds = {"start_N1": np.int64, "bucket": np.int32, "count": np.float32}
  arrays: dict[str, Any] = {
    x: store.create_array(_file(place, name, x), kinds[x], (sizes[x],))
    for x in _FIELDS
  }
  document, entry = 0, 0
  for part in parts:
    with np.load(part) as file:
      start_N1 = file["start_N1"] + entry
      arrays["start_N1"][document : document + len(start_N1)] = start_N1
      for x in ("bucket", "count"):
        arrays[x][entry : start_N1[-1]] = file[x]
      document, entry = document + len(start_N1) - 1, int(start_N1[-1])
  for array in arrays.values():
    array.flush()


def _load(folder: Path, name: str, buckets: int) -> Grams:
  arrays = {x: np.load(_file(folder, name, x), mmap_mode="r") for x in _FIELDS}
  return Grams(**arrays, buckets=buckets)


def _file(folder: Path, name: str, field: str) -> Path:
  return folder / f"{name}.{field}.npy"
