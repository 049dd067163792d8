"""The cells of a comparison: which there are, and the files of those done.

A cell is one search of a method, one short training that helps to choose among
versions of what it found, or one final training. Its JSON file is written last and
whole, so a cell with one is finished and is never done again.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cmtree_jax import processes
from cmtree_jax.data import sealed, store
from cmtree_jax.data.plan import ANY
from cmtree_jax.evaluate.results import FULL, NATURAL
from cmtree_jax.methods import reasons
from cmtree_jax.methods.base import Path as DocumentPath
from cmtree_jax.methods.reasons import Reasons
from cmtree_jax.proxy.ledger import Cost
from cmtree_jax.types import UserError

# What a final training's file calls what it made of single questions: place -> split
# -> {"nats": [...], "won": [...]}, see `evaluate.answers.Answered`.
QUESTIONS = "questions"


class Search(NamedTuple):
  """One search of a method for a set of targets."""

  method: str  # or the name of a variant
  target_set: str  # or ANY
  seed: int

  @property
  def name(self) -> str:
    """Of its files."""
    return f"{self.method}.{self.target_set}.{self.seed}"


class Version(NamedTuple):
  """Which recipe of a search is meant: it leaves several, each at any concentration."""

  candidate: str = ""  # "start", "round_1", ...; "": the last
  share: float = (
    0.0  # of the corpus that is kept in effect; 0: the recipe's own
  )

  @property
  def parts(self) -> list[str]:
    """Of the names of cells."""
    share = [f"ess{self.share:g}"] * bool(self.share)
    return [self.candidate] * bool(self.candidate) + share


class Trial(NamedTuple):
  """One short training on a version, scored on validation texts of the targets."""

  search: Search
  seed: int
  version: Version = Version()

  @property
  def name(self) -> str:
    """Of its files; the search's own seed, for its recipe is what is tried."""
    return ".".join([self.search.name, *self.version.parts, f"t{self.seed}"])


class Final(NamedTuple):
  """One final training on a version of what a search found."""

  search: Search
  seed: int
  fraction: float = FULL  # of the token budget
  preset: str = ""  # the model's size; "": config.final.preset
  version: Version = Version()

  @property
  def name(self) -> str:
    """Of its files."""
    found = self.search
    parts = [found.method, found.target_set, str(self.seed)]
    parts += [f"x{self.fraction:g}"] + [self.preset] * bool(self.preset)
    return ".".join([*parts, *self.version.parts])


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


# (method, set of its search) -> the version that is trained; others: the last.
Kept = Mapping[tuple[str, str], Version]


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
  # Effective sample sizes at which all recipes are compared as well.
  shares: tuple[float, ...] = ()
  # Methods whose search is the final training itself, for every seed its own.
  online: frozenset[str] = frozenset()

  @property
  def places(self) -> tuple[Place, ...]:
    """Of all sets."""
    sets = self.target_sets.values()
    return tuple(dict.fromkeys(place for one in sets for place in one))

  def searches(self) -> list[Search]:
    """Every search once, in the order in which the trainings need them."""
    return list(dict.fromkeys(cell.search for cell in self.finals({})))

  def finals(self, kept: Kept) -> list[Final]:
    """Every training once; seeds outermost, so what is done is comparable."""
    return list(dict.fromkeys(cell for _, cell in self.entries(kept)))

  def entries(self, kept: Kept) -> list[tuple[str, Final]]:
    """Every training under its name in the standings.

    Args:
      kept: the versions that were chosen.
    """
    made = [
      entry
      for seed in range(self.seeds)
      for target_set in self.target_sets
      for method in self.methods
      for entry in self._entries(method, target_set, seed, kept)
    ]
    for seed in range(self.seeds, self.seeds + self.noise_repeats):
      made.append((NATURAL, Final(self.search(NATURAL, ANY, seed), seed)))
    return list(dict.fromkeys(made))

  def trials(
    self, method: str, target_set: str, version: Version, *, seeds: int
  ) -> list[Trial]:
    """Of a version; each seed tries the search that its final training stands on."""
    searches = (self.search(method, target_set, seed) for seed in range(seeds))
    return [Trial(one, seed, version) for seed, one in enumerate(searches)]

  def search(self, method: str, target_set: str, seed: int) -> Search:
    """What the final training of a seed stands on."""
    place = ANY if method in self.untargeted else target_set
    if method in self.online:
      return Search(method, place, seed)
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

  def _entries(self, method, target_set, seed, kept):
    search = self.search(method, target_set, seed)
    if method in self.online:
      # It has one size, one length and the concentration that it found.
      yield method, Final(search, seed)
      return
    version = kept.get((method, search.target_set), Version())
    more = self.natural_multiples if method == NATURAL else ()
    for fraction in (*self.fractions, *more):
      yield method, Final(search, seed, fraction, version=version)
    for preset in self.presets:
      yield method, Final(search, seed, preset=preset, version=version)
    if method not in self.untargeted:
      for share in self.shares:
        at = version._replace(share=share)
        yield f"{method}@{share:g}", Final(search, seed, version=at)


class Found(NamedTuple):
  """What a search handed over beside its arrays."""

  cost: Cost
  history: list[dict[str, Any]]  # one row per round, observation or run
  variant: list[str]  # the method and its overrides
  # Candidate -> partition, see `Partition.to_json`; None: documents have weights of
  # their own. In the order in which the search had them; the last one's name is "".
  partitions: dict[str, dict[str, Any] | None]

  @property
  def partition(self) -> dict[str, Any] | None:
    """Of the last candidate."""
    return self.partitions[""]


class Folder(NamedTuple):
  """The files of all cells, `WORKDIR/cells`."""

  path: Path

  def work(
    self, cell: Search | Trial | Final, *others: Search | Trial | Final
  ) -> Path:
    """Where a cell keeps its checkpoints while it is in progress.

    Args:
      cell: one cell; its folder goes when it ends.
      others: that are in progress with it.
    """
    folder = self._file(cell, "work")
    if not others:
      return folder
    return folder / store.key_of([one.name for one in others])

  def kept(self, cell: Search) -> Path:
    """Where the model of an online run and its schedule are kept, or a policy."""
    return self._file(cell, "run")

  def found(self, cell: Search) -> Found | None:
    """The result of a search; None if it has not ended."""
    path = self._file(cell, "json")
    facts = _read(path)
    if facts is None:
      return None
    arrays = self._file(cell, "npz")
    sealed.require(path, facts, arrays.name, cure=_cure(path))
    facts.pop(sealed.FILES, None)
    try:
      cost, partitions = (
        Cost(*facts.pop("search_cost")),
        facts.pop("partitions"),
      )
      return Found(cost, **facts, partitions=dict(partitions))
    except (KeyError, TypeError, ValueError) as error:
      raise _unknown(path) from error

  def log_w_N(self, cell: Search, candidate: str = "") -> np.ndarray:
    """The log-weights of a candidate that a search left, float32."""
    with np.load(self._file(cell, "npz")) as arrays:
      return arrays[_array(candidate)]

  def value_N(self, cell: Search) -> np.ndarray:
    """The values that a search measured; NaN for documents without one."""
    with np.load(self._file(cell, "npz")) as arrays:
      if "value_N" in arrays:
        return arrays["value_N"]
      return np.full(len(arrays[_array("")]), np.nan)

  def path_of(self, cell: Search) -> DocumentPath | None:
    """The order in which documents are read together, where the method has one."""
    with np.load(self._file(cell, "npz")) as arrays:
      if _PLACE not in arrays:
        return None
      return DocumentPath(arrays[_PLACE], bool(arrays[_SHUFFLED]))

  def reasons(self, cell: Search) -> Reasons | None:
    """Why documents weigh less than others, where the method told it."""
    with np.load(self._file(cell, "npz")) as arrays:
      names = [one for one in arrays.files if one.startswith(reasons.PREFIX)]
      return reasons.from_arrays({name: arrays[name] for name in names})

  def save_found(
    self,
    cell: Search,
    found: Found,
    log_w: Mapping[str, np.ndarray],
    value_N: np.ndarray,
    *,
    why: Reasons | None = None,
    path: DocumentPath | None = None,
  ) -> None:
    """Ends a search.

    Args:
      cell: the search.
      found: all but its arrays.
      log_w: log-weights of the documents, by candidate.
      value_N: measured values; NaN where there is none.
      why: documents weigh less than others, where the method tells it.
      path: that documents are read along, where the method has one.
    """
    # Methods compute in float32, so nothing of their weights is lost.
    arrays = {
      _array(name): log_w_N.astype(np.float32)
      for name, log_w_N in log_w.items()
    }
    if not np.isnan(value_N).all():
      arrays["value_N"] = value_N
    if why is not None:
      arrays |= why.to_arrays()
    if path is not None:
      arrays |= {_PLACE: path.place_N, _SHUFFLED: np.array(path.shuffled)}
    facts = found._asdict()
    cost, partitions = list(facts.pop("cost")), facts.pop("partitions")
    # As pairs: an object of JSON forgets the order.
    facts["partitions"] = list(partitions.items())

    def write():
      file = self._file(cell, "npz")
      store.save_arrays(file, arrays)
      self._end(cell, {"search_cost": cost, **facts}, file)

    processes.by_first(write)

  def scored(
    self, cell: Trial | Final, names: Iterable[str]
  ) -> dict[str, Any] | None:
    """What a training's file says; None if it lacks a score.

    Args:
      cell: the training.
      names: of the places that a final training is scored on, of the targets of a
        trial.
    """
    facts = _read(self._file(cell, "json"))
    if facts is None:
      return None
    if "bpb" not in facts:
      raise _unknown(self._file(cell, "json"))
    return facts if set(names) <= set(facts["bpb"]) else None

  def save_scored(self, cell: Trial | Final, facts: Mapping[str, Any]) -> None:
    """Ends a training; what it was scored on before stays."""

    def write():
      before = _read(self._file(cell, "json")) or {}
      scores = {
        name: {**before.get(name, {}), **facts[name]}
        for name in ("bpb", "accuracy", QUESTIONS)
        if name in facts
      }
      self._end(cell, {**facts, **scores})

    processes.by_first(write)

  def make(self) -> "Folder":
    """Makes the folder."""

    def write():
      for kind in (Search, Trial, Final):
        folder = self.path / kind.__name__.lower()
        folder.mkdir(parents=True, exist_ok=True)

    processes.by_first(write)
    return self

  def _end(self, cell, facts, *beside):
    sealed.write(self._file(cell, "json"), facts, beside=beside)
    store.remove(self.work(cell))

  def _kind(self, cell):
    return self.path / type(cell).__name__.lower()

  def _file(self, cell, suffix):
    return self._kind(cell) / f"{_stem(cell.name)}.{suffix}"


def _array(candidate: str) -> str:
  """What the weights of a candidate are called in a search's file of arrays."""
  return f"log_w_N.{candidate}" if candidate else "log_w_N"


def _stem(name: str) -> str:
  """A file name less its extension: of many targets, shortened.

  Libraries look for what they wrote by patterns, so a name holds no sign of one.
  """
  if len(name.encode()) <= _LONGEST and not _PATTERN & set(name):
    return name
  plain = "".join("_" if one in _PATTERN else one for one in name[:40])
  return f"{plain}-{store.key_of(name)}"


_PLACE, _SHUFFLED = "place_N", "shuffled"  # arrays of a path
_LONGEST = 100  # bytes; file systems take 255
_PATTERN = frozenset("*?[]{}")


def _read(path: Path) -> dict[str, Any] | None:
  return sealed.read(path, cure=_cure(path)) if path.exists() else None


def _unknown(path: Path) -> UserError:
  return UserError(
    f"{path}: wanted the result of a cell, came something else. {_cure(path)}"
  )


def _cure(path: Path) -> str:
  return f"Delete {path.name}, and what it holds is made again."
