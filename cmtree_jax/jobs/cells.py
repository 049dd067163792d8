"""The cells of a comparison: which there are, and the files of those done.

A cell is one search of a method or one final training. Its JSON file is written last
and whole, so a cell with one is finished and is never done again.
"""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cmtree_jax.data import store
from cmtree_jax.evaluate.results import FULL, NATURAL
from cmtree_jax.proxy.ledger import Cost

# Stands for the target set of methods whose recipe is the same for all of them.
ANY = "any"


class Search(NamedTuple):
  """One search of a method for a set of targets."""

  method: str  # or the name of a variant
  target_set: str  # or ANY
  seed: int

  @property
  def name(self) -> str:
    """Of its files."""
    return f"{self.method}.{self.target_set}.{self.seed}"


class Final(NamedTuple):
  """One final training on what a search found."""

  search: Search
  seed: int
  fraction: float = FULL  # of the token budget
  preset: str = ""  # the model's size; "": config.final.preset
  share: float = 0.0  # effective sample size of the recipe; 0: its own

  @property
  def name(self) -> str:
    """Of its files."""
    found = self.search
    parts = [found.method, found.target_set, self.seed, f"x{self.fraction:g}"]
    parts += [self.preset] * bool(self.preset)
    parts += [f"ess{self.share:g}"] * bool(self.share)
    return ".".join(map(str, parts))

  @property
  def method(self) -> str:
    """Its name in the standings."""
    at = f"@{self.share:g}" if self.share else ""
    return self.search.method + at


class Place(NamedTuple):
  """A target of the standings: what is searched on may not be what is tested."""

  name: str  # "a", or "a>b": searched on a, tested on b
  searched: str  # its train split drives, its validation split chooses
  tested: str
  only_tested: bool = False  # the target has test texts alone

  @classmethod
  def of(cls, name: str) -> "Place":
    """From its name."""
    searched, _, tested = name.partition(">")
    return cls(name, searched, tested or searched)

  @property
  def scored(self) -> dict[str, tuple[str, str]]:
    """Split -> (target, split) that a model is scored on."""
    test = {"test": (self.tested, "test")}
    if self.only_tested:
      return test
    return {"validation": (self.searched, "validation"), **test}


class Plan(NamedTuple):
  """What is compared."""

  methods: tuple[str, ...]  # and variants; natural among them
  target_sets: dict[str, tuple[Place, ...]]  # "a+b" -> (a, b)
  untargeted: frozenset[str]  # methods with one recipe for all targets
  seeds: int
  search_seeds: int
  fractions: tuple[float, ...]  # one among them
  natural_multiples: tuple[float, ...]
  noise_repeats: int
  presets: tuple[str, ...] = ()  # more sizes of the final model
  shares: tuple[float, ...] = ()  # effective sample sizes that recipes share

  @property
  def places(self) -> tuple[Place, ...]:
    """Of all sets."""
    sets = self.target_sets.values()
    return tuple(dict.fromkeys(place for one in sets for place in one))

  def searches(self) -> list[Search]:
    """Every search once, in the order in which the trainings need them."""
    return list(dict.fromkeys(cell.search for cell in self.finals()))

  def finals(self) -> list[Final]:
    """Every training once; seeds outermost, so what is done is comparable."""
    cells = [
      cell
      for seed in range(self.seeds)
      for target_set in self.target_sets
      for method in self.methods
      for cell in self._finals(method, target_set, seed)
    ]
    cells += [
      Final(self.search(NATURAL, ANY, self.seeds + repeat), self.seeds + repeat)
      for repeat in range(self.noise_repeats)
    ]
    return list(dict.fromkeys(cells))

  def search(self, method: str, target_set: str, seed: int) -> Search:
    """What the final training of a seed stands on."""
    place = ANY if method in self.untargeted else target_set
    return Search(method, place, seed % self.search_seeds)

  def places_of(self, search: Search) -> tuple[Place, ...]:
    """What a search is for, and what its models are scored on."""
    if search.target_set == ANY:
      return self.places
    return self.target_sets[search.target_set]

  def sets_of(self, search: Search) -> dict[str, tuple[Place, ...]]:
    """The target sets in whose standings the models of a search are."""
    if search.target_set == ANY:
      return self.target_sets
    return {search.target_set: self.target_sets[search.target_set]}

  def _finals(self, method, target_set, seed):
    search = self.search(method, target_set, seed)
    more = self.natural_multiples if method == NATURAL else ()
    yield from (Final(search, seed, f) for f in (*self.fractions, *more))
    yield from (Final(search, seed, preset=one) for one in self.presets)
    if method not in self.untargeted:
      yield from (Final(search, seed, share=one) for one in self.shares)


class Found(NamedTuple):
  """What a search handed over beside its arrays."""

  cost: Cost
  effective_sample_size: float
  history: list[dict[str, Any]]  # one row per round, observation or run
  # See `Partition.to_json`; None: documents have weights of their own.
  partition: dict[str, Any] | None
  variant: list[str]  # the method and its overrides


class Folder(NamedTuple):
  """The files of all cells, `WORKDIR/cells`."""

  path: Path

  def work(self, cell: Search | Final) -> Path:
    """Where a cell keeps its checkpoints while it is in progress."""
    return self._file(cell, "work")

  def found(self, cell: Search) -> Found | None:
    """The result of a search; None if it has not ended."""
    facts = _read(self._file(cell, "json"))
    if facts is None:
      return None
    return Found(Cost(*facts.pop("search_cost")), **facts)

  def log_w_N(self, cell: Search) -> np.ndarray:
    """The log-weights that a search found, float32."""
    with np.load(self._file(cell, "npz")) as arrays:
      return arrays["log_w_N"]

  def value_N(self, cell: Search) -> np.ndarray:
    """The values that a search measured; NaN for documents without one."""
    with np.load(self._file(cell, "npz")) as arrays:
      if "value_N" in arrays:
        return arrays["value_N"]
      return np.full(len(arrays["log_w_N"]), np.nan)

  def save_found(
    self,
    cell: Search,
    found: Found,
    log_w_N: np.ndarray,
    value_N: np.ndarray,
  ) -> None:
    """Ends a search."""
    # Methods compute in float32, so nothing of their weights is lost.
    arrays = {"log_w_N": log_w_N.astype(np.float32)}
    if not np.isnan(value_N).all():
      arrays["value_N"] = value_N
    store.save_arrays(self._file(cell, "npz"), arrays)
    facts = found._asdict()
    self._end(cell, {"search_cost": list(facts.pop("cost")), **facts})

  def scored(
    self, cell: Final, places: tuple[Place, ...]
  ) -> dict[str, Any] | None:
    """What a final training's file says; None if it lacks a place."""
    facts = _read(self._file(cell, "json"))
    if facts is None or not all(one.name in facts["bpb"] for one in places):
      return None
    return facts

  def save_scored(self, cell: Final, facts: Mapping[str, Any]) -> None:
    """Ends a final training; what it was scored on before stays."""
    before = _read(self._file(cell, "json")) or {}
    scores = {
      name: {**before.get(name, {}), **facts[name]}
      for name in ("bpb", "accuracy")
    }
    self._end(cell, {**facts, **scores})

  def make(self) -> "Folder":
    """Makes the folder."""
    for kind in (Search, Final):
      (self.path / kind.__name__.lower()).mkdir(parents=True, exist_ok=True)
    return self

  def _end(self, cell, facts):
    store.write_atomically(self._file(cell, "json"), store.to_json(facts))
    store.remove(self.work(cell))

  def _kind(self, cell):
    return self.path / type(cell).__name__.lower()

  def _file(self, cell, suffix):
    return self._kind(cell) / f"{_stem(cell.name)}.{suffix}"


def _stem(name: str) -> str:
  """A file name less its extension: of many targets, shortened."""
  return name if len(name) <= _LONGEST else f"{name[:40]}-{store.key_of(name)}"


_LONGEST = 100  # characters; file systems take 255 bytes


def rows(
  plan: Plan, folder: Folder, same: Mapping[str, Any]
) -> list[dict[str, Any]]:
  """The rows of results.parquet from the files of all cells.

  A model that belongs to several target sets has its scores repeated in each.

  Args:
    plan: all of its cells are finished.
    folder: of the cells.
    same: columns that are the same in all rows.
  """
  made = []
  for cell in plan.finals():
    scored = folder.scored(cell, plan.places_of(cell.search))
    found = folder.found(cell.search)
    assert scored is not None and found is not None, cell
    for target_set, places in plan.sets_of(cell.search).items():
      at = f" at {cell.preset}" if cell.preset else ""
      for place in places:
        for split, bpb in scored["bpb"][place.name].items():
          accuracy = scored["accuracy"][place.name][split]
          made.append(
            {
              "method": cell.method,
              "target_set": target_set + at,
              "target": place.name + at,
              "split": split,
              "seed": cell.seed,
              "fraction": cell.fraction,
              "tokens": scored["tokens"],
              "bpb": bpb,
              "accuracy": math.nan if accuracy is None else accuracy,
              "search_tokens": found.cost.tokens,
              "search_flops": found.cost.flops,
              "final_flops": scored["final_flops"],
              "effective_sample_size": scored["effective_sample_size"],
              **same,
              "commit": scored["commit"],
            }
          )
  return made


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
  """Rows as Parquet, every column of a fixed type."""
  import pyarrow as pa

  text, integer, number = pa.string(), pa.int64(), pa.float64()
  schema = pa.schema(
    [
      ("method", text),
      ("target_set", text),
      ("target", text),
      ("split", text),
      ("seed", integer),
      ("fraction", number),
      ("tokens", integer),
      ("bpb", number),
      ("accuracy", number),  # NaN: the target has no choices
      ("search_tokens", number),
      ("search_flops", number),
      ("final_flops", number),
      ("effective_sample_size", number),
      ("config_digest", text),
      ("corpus_digest", text),
      ("commit", text),
    ]
  )
  assert all(math.isfinite(row["bpb"]) for row in rows)
  store.write_parquet(path, pa.Table.from_pylist(list(rows), schema=schema))


def _read(path: Path) -> dict[str, Any] | None:
  return json.loads(path.read_text()) if path.exists() else None
