"""What `experiments.fuzz` damages, and how it sees that nothing was lost in silence.

An area has something sound, made once, and a case: a copy of it with something changed
at random, given to what reads it. A case ends with what was right, raises `UserError`
for what is refused, or `Lost`.
"""

import contextlib
import gzip
import itertools
import json
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cmtree_jax import budget, config, embed
from cmtree_jax.data.build import prepare, tokenizer, workers
from cmtree_jax.data.plan import Plan
from cmtree_jax.data.read import sources, targets, tfds_builder
from cmtree_jax.data.read.fields import Rules
from cmtree_jax.data.store import SPLITS
from cmtree_jax.jobs import build, cells, plan, workdir
from cmtree_jax.loops.checkpoint import Checkpointer
from cmtree_jax.proxy.ledger import Cost
from cmtree_jax.recipe import partition as partitions
from cmtree_jax.recipe import policies, recipe, schedule
from cmtree_jax.types import Record, Skip, UserError

DOCUMENTS, GROUP = 40, 10  # of a pool; of a row group
_LARGEST = 1_000_000  # bytes of a document
RIGHT, REFUSED = "right", "refused"


class Lost(Exception):
  """Something is gone or changed, and nobody was told."""


class Area(NamedTuple):
  """See the module."""

  prepare: Callable[[Path], None]  # fills a folder
  run: Callable[[Path, Path, random.Random], str]  # of that, a place, by chance
  often: int  # beside the others


def damaged(data: bytes, rng: random.Random) -> bytes:
  """The bytes with one to three things done to them that disks and copies do."""
  for _ in range(rng.choice((1, 1, 1, 2, 3))):
    at = rng.randrange(len(data) + 1)
    size = rng.choice((1, 8, 64, 512))
    piece = data[at : at + size]
    other = rng.randrange(len(data) + 1)
    data = rng.choice(
      (
        _flipped(data, rng),
        _flipped(data, rng),
        data[:at],
        data[:at] + data[at + size :],
        data[:at] + bytes(len(piece)) + data[at + size :],
        data[:at] + rng.randbytes(len(piece)) + data[at + size :],
        data[:other] + piece + data[other:],
        data + rng.randbytes(size),
      )
    )
  return data


def _flipped(data: bytes, rng: random.Random) -> bytes:
  if not data:
    return data
  at = rng.randrange(len(data))
  return data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :]


def _damage_one(place: Path, rng: random.Random) -> Path:
  """Damages one of the files in a folder."""
  files = sorted(one for one in place.rglob("*") if one.is_file())
  chosen = rng.choice(files)
  chosen.write_bytes(damaged(chosen.read_bytes(), rng))
  return chosen


def _texts() -> list[str]:
  return [f"document {i} says {i * 7919} \n and é" for i in range(DOCUMENTS)]


def _lines() -> bytes:
  rows = ({"text": text, "id": str(i)} for i, text in enumerate(_texts()))
  return "".join(json.dumps(row) + "\n" for row in rows).encode()


def _rules() -> Rules:
  return Rules("text", "id", "source", _LARGEST)


# --- readers


def _make_sources(folder: Path) -> None:
  import datasets
  import pyarrow as pa
  import pyarrow.parquet as pq
  import zstandard

  datasets.disable_progress_bars()
  folder.mkdir()
  _make_bombs(folder / "bombs")
  for name in ("jsonl", "gz", "zst", "parquet", "text"):
    (folder / name).mkdir()
  lines = _lines()
  (folder / "jsonl" / "a.jsonl").write_bytes(lines)
  (folder / "gz" / "a.jsonl.gz").write_bytes(gzip.compress(lines, mtime=0))
  zstd = zstandard.ZstdCompressor(write_checksum=True)
  (folder / "zst" / "a.jsonl.zst").write_bytes(zstd.compress(lines))
  table = pa.table({"id": pa.array(range(DOCUMENTS)), "text": _texts()})
  for name, options in _PARQUET.items():
    path = folder / "parquet" / name / "a.parquet"
    path.parent.mkdir()
    pq.write_table(table, path, row_group_size=GROUP, **options)
  for number, text in enumerate(_texts()[:12]):
    (folder / "text" / f"{number}.txt").write_text(text)
  datasets.Dataset.from_dict(table.to_pydict()).save_to_disk(folder / "hf")
  tfds_builder.build(
    [f"jsonl:{folder}/jsonl/a.jsonl"],
    _rules(),
    data_dir=folder / "tfds",
    name="pool",
  )


_PARQUET: dict[str, dict[str, Any]] = {
  "default": {},
  "plain": {"compression": "none", "use_dictionary": False},
  "sums": {"compression": "zstd", "write_page_checksum": True},
  "pages": {
    "compression": "gzip",
    "data_page_version": "2.0",
    "write_page_index": True,
  },
}
# Kind -> what is given, of a copied folder.
_ADDRESSES = {
  "jsonl": "jsonl:{}/a.jsonl",
  "gz": "jsonl:{}/a.jsonl.gz",
  "zst": "jsonl:{}/a.jsonl.zst",
  "parquet": "parquet:{}/a.parquet",
  "text": "text:{}/*.txt",
  "hf": "hf:{}",
  "tfds": "tfds:{}/pool",
}


def _read_sources(sound: Path, place: Path, rng: random.Random) -> str:
  if rng.random() < _BOMBS:
    return _read_bomb(sound / "bombs", place, rng)
  kind = rng.choice((*_ADDRESSES, "parquet", "parquet"))
  source = sound / kind
  if kind == "parquet":
    source /= rng.choice(sorted(_PARQUET))
  shutil.copytree(source, place / "in")
  file = _damage_one(place / "in", rng)
  wanted = DOCUMENTS
  if kind == "text":
    wanted = 12
  if kind == "jsonl":  # lines that a plain file lost nobody can know of
    lines = file.read_bytes().removeprefix(b"\xef\xbb\xbf").split(b"\n")
    wanted = sum(bool(line.strip()) for line in lines)
  records, skips = _read_all(_ADDRESSES[kind].format(place / "in"))
  lost = wanted - len(records)
  counted = sum(skip.documents for skip in skips)
  if lost > 0 and not skips:
    raise Lost(f"{kind}: {lost} documents without a word")
  is_whole = any(skip.where.endswith(file.name) for skip in skips)
  if kind in ("jsonl", "parquet", "text") and lost > counted and not is_whole:
    raise Lost(f"{kind}: {lost} documents, of which {counted} are counted")
  return REFUSED if skips else RIGHT


_BOMBS = 0.05  # of the cases of readers


def _make_bombs(folder: Path) -> None:
  """Files that are small, and large when they are read."""
  import pyarrow as pa
  import pyarrow.parquet as pq
  import zstandard

  folder.mkdir()

  def write(name, column):
    table = pa.table({"text": column})
    pq.write_table(table, folder / f"{name}.parquet", compression="zstd")

  for size in (1_000, 100_000, _LARGEST, 20 * _LARGEST):
    index = pa.array([0] * (_OUT // size), pa.int32())
    text = pa.array(["x" * size])
    write(f"dictionary{size}", pa.DictionaryArray.from_arrays(index, text))
  write("page", ["x" * (_OUT // 10)])
  line = b'{"text": "' + b"x" * (_OUT // 10) + b'"}\n'
  zstd = zstandard.ZstdCompressor()
  for kind, squeeze in (("gz", gzip.compress), ("zst", zstd.compress)):
    (folder / f"a.jsonl.{kind}").write_bytes(squeeze(line))


_OUT = 1 << 30  # bytes that come out, or a tenth of it in one piece


def _read_bomb(sound: Path, place: Path, rng: random.Random) -> str:
  """A bomb, perhaps damaged; what comes of it counts by its memory alone."""
  bomb = rng.choice(sorted(sound.iterdir()))
  data = bomb.read_bytes()
  path = place / bomb.name
  path.write_bytes(rng.choice((data, damaged(data, rng))))
  kind = "parquet" if path.suffix == ".parquet" else "jsonl"
  _, skips = _read_all(f"{kind}:{path}", keep=False)
  return REFUSED if skips else RIGHT


def _read_all(
  address: str, *, keep: bool = True
) -> tuple[list[Record], list[Skip]]:
  """All that comes of a source; every skip is one line."""

  records: list[Record] = []
  skips: list[Skip] = []
  for part in sources.parts([address]):
    for one in sources.read(part, _rules()):
      if isinstance(one, Skip):
        if "\n" in one.message:
          raise ValueError(f"several lines: {one.message}")
        skips.append(one)
      elif isinstance(one, Record):
        records.append(one if keep else one._replace(text=""))
  return records, skips


# --- targets


def _make_targets(folder: Path) -> None:
  import pyarrow as pa
  import pyarrow.parquet as pq

  folder.mkdir()
  rows = [
    {
      "split": split,
      "question": f"what is {i} and {split}?",
      "choices": ["one", "two", f"{i}"],
      "answer": i % 3,
    }
    for split, i in itertools.product(("train", "validation", "test"), range(5))
  ]
  lines = "".join(json.dumps(row) + "\n" for row in rows)
  (folder / "goal.jsonl").write_text(lines)
  pq.write_table(pa.Table.from_pylist(rows), folder / "goal.parquet")


def _read_targets(sound: Path, place: Path, rng: random.Random) -> str:

  name = rng.choice(("goal.jsonl", "goal.parquet"))
  file = place / name
  file.write_bytes(damaged((sound / name).read_bytes(), rng))
  wanted = 15
  if name == "goal.jsonl":
    wanted = sum(bool(x.strip()) for x in file.read_bytes().split(b"\n"))
  found = targets.read(str(file), _rules())
  texts = sum(len(getattr(found.target, split)) for split in SPLITS)
  counted = sum(skip.documents for skip in found.skips)
  if texts + counted < wanted:
    raise Lost(f"{name}: {wanted} lines, {texts} texts and {counted} skips")
  return REFUSED if found.skips else RIGHT


# --- recipes


def _make_recipe(folder: Path) -> None:

  folder.mkdir()
  (folder / "pool.jsonl").write_bytes(_lines())
  goal = [{"text": f"goal {s}", "split": s} for s in ("train", "valid", "test")]
  (folder / "goal.jsonl").write_text("\n".join(map(json.dumps, goal)))
  corpus = prepare.Plan(
    Plan(
      source=(f"jsonl:{folder}/pool.jsonl",),
      target_files=(f"{folder}/goal.jsonl",),
      targets=(),
    ),
    tokenizer.Plan(vocab_size=300),
    embed.Plan(dim=4),
  )
  data = prepare.prepare(
    corpus,
    cache_dir=folder / "cache",
    workers=workers.Workers(),
    progress=lambda line: None,
  )
  leaves = partitions.clusters(np.eye(3, 4, dtype=np.float32))
  told = {
    "format": recipe.FORMAT,
    "budget": dict.fromkeys(budget.Budget._fields, 1),
    "partition": leaves.with_weights(np.array([0.5, -0.5, 0.1])).to_json(),
    "config": {"cache_dir": str(folder)},
  }
  recipe.save(folder / "recipe", told, learned=data.folder)
  found = recipe.load(folder / "recipe").apply(_texts())
  np.save(folder / "weights.npy", found.weight_N)


def _read_recipe(sound: Path, place: Path, rng: random.Random) -> str:

  shutil.copytree(sound / "recipe", place / "recipe")
  file = _damage_one(place / "recipe", rng)
  if rng.random() < _GONE:
    file.unlink()
  try:
    found = recipe.load(place / "recipe").apply(_texts()).weight_N
  except UserError as error:
    if file.name not in str(error):
      raise ValueError(f"names no {file.name}: {error}") from error
    return REFUSED
  if not np.array_equal(found, np.load(sound / "weights.npy")):
    raise Lost(f"other weights with another {file.name}")
  return RIGHT


_GONE = 0.05  # of the cases, in which a file is removed


# --- workdirs


def _make_workdir(folder: Path) -> None:

  folder.mkdir()
  workdir.claim_workdir(
    folder, config.load("configs/smoke.py", []), overwrite=False
  )
  workdir.claim_corpus(folder, "digest")
  made = cells.Folder(folder / "cells").make()
  found, *arrays = _FOUND
  log_w_N, value_N = map(np.array, arrays)
  made.save_found(_SEARCH, found, {"": log_w_N}, value_N)
  made.save_scored(cells.Final(_SEARCH, 0), _FACTS)
  leaves = partitions.clusters(np.eye(3, dtype=np.float32))
  mass_N = np.full(3, 1 / 3)
  stages = schedule.make([0, 5], [leaves] * 2, np.eye(3), mass_N, steps=10)
  one = schedule.Schedule("rnb", 0, 64, ("a", "b", "c"), stages)
  schedule.save(folder, one)
  policies.save(folder, {"w": np.arange(5.0)})


_SEARCH = cells.Search("crisp", "a", 0)
_FOUND = (
  cells.Found(Cost(3.0, 5.0), [{"gain": 0.25}], ["crisp"], {"": None}),
  [0.5, -1.0, 2.0],
  [1.0, 2.0, 3.0],
)
_FACTS = {"bpb": {"a": {"test": 1.25}}, "tokens": 7}


def _read_workdir(sound: Path, place: Path, rng: random.Random) -> str:
  folder = shutil.copytree(sound, place / "run")
  file = _damage_one(folder, rng)
  if rng.random() < _GONE:
    file.unlink()
  given = dict(_held(folder))
  for name, wanted in _held(sound):
    if repr(given[name]) != repr(wanted):
      raise Lost(f"another {name} with another {file.name}")
  return RIGHT


def _held(folder: Path) -> Iterator[tuple[str, Any]]:
  """All that a workdir holds, as jobs read it."""
  claimed = config.load("configs/smoke.py", [])
  workdir.claim_workdir(folder, claimed, overwrite=False)
  workdir.claim_corpus(folder, "digest")
  made = cells.Folder(folder / "cells")
  # A cell that is gone is done again.
  if (found := made.found(_SEARCH)) is not None:
    log_w_N, value_N = made.log_w_N(_SEARCH), made.value_N(_SEARCH)
    found = (found, log_w_N.tolist(), value_N.tolist())
  yield "search", found or _FOUND
  scored = made.scored(cells.Final(_SEARCH, 0), "a")
  yield "training", {name: (scored or _FACTS)[name] for name in _FACTS}
  stages = schedule.load(folder).stages
  yield "schedule", [one.mixture_L.tolist() for one in stages]
  yield "policy", policies.load(folder)["w"].tolist()


# --- checkpoints


_STATE = {"a": np.linspace(0, 1, 99, dtype=np.float32), "b": np.arange(9)}


def _make_checkpoint(folder: Path) -> None:
  with contextlib.closing(Checkpointer(folder)) as one:
    one.save(3, _STATE)


def _read_checkpoint(sound: Path, place: Path, rng: random.Random) -> str:
  folder = shutil.copytree(sound, place / "run")
  file = _damage_one(folder, rng)
  like = {name: np.zeros_like(x) for name, x in _STATE.items()}
  with contextlib.closing(Checkpointer(folder)) as one:
    found = one.restore(like)
  if found is None:  # what looks unfinished is done again
    return RIGHT
  if any(not np.array_equal(found[name], x) for name, x in _STATE.items()):
    raise Lost(f"another state with another {file.name}")
  return RIGHT


# --- overrides


def _make_nothing(folder: Path) -> None:
  folder.mkdir()


def _override(sound: Path, place: Path, rng: random.Random) -> str:
  """Settings by chance, as far as a job looks at them before any work."""
  del sound
  file = rng.choice(("smoke", "compare", "online", "quickstart"))
  fields = list(_fields(config.load(f"configs/{file}.py", [])))
  chosen = []
  for _ in range(rng.randint(1, 3)):
    name, default = rng.choice(fields)
    others = [value for values in _VALUES.values() for value in values]
    fit = _VALUES.get(type(default), others)
    value = rng.choice(fit if rng.random() < _FIT else others)
    chosen.append(f"{name}={value}")
  chosen.append(f"cache_dir={place / 'cache'}")
  made = config.load(f"configs/{file}.py", chosen)
  check = plan.check_comparison if file == "compare" else plan.check_recipe
  check(made)
  workdir.identity(made)
  build.corpus_plan(made)
  return RIGHT


def _fields(block: Any, before: str = "") -> Iterator[tuple[str, Any]]:
  """Names of all settings, and their defaults."""
  for name, value in block.items():
    if hasattr(value, "items"):
      yield from _fields(value, f"{before}{name}.")
    else:
      yield f"{before}{name}", value


_FIT = 0.8  # of the values that are of the default's type
_VALUES = {
  bool: ("true", "False"),
  int: ("0", "-1", "1", "2", "7", "1000000", "9" * 30),
  float: ("0", "-1", "0.5", "1", "1e-30", "1e30", "inf", "-inf", "nan"),
  str: (
    *("", "x", "none", "é", "a b", "\x1b[2J", "\u202ex", "'", "{}", "/"),
    *("gs://a/b", "../..", "jsonl:", "jsonl:*", "tree:", "recipe:x"),
    *("cmtree", "natural", "rnb", "bytes", "sources", "auto"),
  ),
  tuple: ("()", "", "0", "0,0", "1,2,3", "-1,", "inf", "nan,", "x,y", "x,x"),
}

AREAS = {
  "readers": Area(_make_sources, _read_sources, 8),
  "targets": Area(_make_targets, _read_targets, 4),
  "recipes": Area(_make_recipe, _read_recipe, 3),
  "workdirs": Area(_make_workdir, _read_workdir, 3),
  "checkpoints": Area(_make_checkpoint, _read_checkpoint, 2),
  "overrides": Area(_make_nothing, _override, 1),
}
