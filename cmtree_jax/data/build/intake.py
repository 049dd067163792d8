"""From sources to shards: every document read once, bad ones counted and told.

Parts (files, mostly) are read side by side, each into raw shards of its own; then
repeated ids and texts are looked for over all of them. A job that is stopped leaves
the parts that it finished to the next one (`data/cache.py`).
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cmtree_jax.data import cache, store
from cmtree_jax.data.build import shards
from cmtree_jax.data.build.workers import Workers
from cmtree_jax.data.plan import Plan
from cmtree_jax.data.read import sources
from cmtree_jax.types import LostLabel, Record, Skip, UserError

_PLACES_TOLD = 5  # so many examples for each kind of skip


class Rules(NamedTuple):
  """What is read, and how much of it may be bad."""

  fields: sources.Rules
  strict: bool  # stop at the first bad document
  max_skipped: int  # documents; more of them stop the job
  drop_repeated_texts: bool  # keep the first of equal texts only
  shard_documents: int  # the most in a shard


class Intake(NamedTuple):
  """Raw shards and what is to be left out of them."""

  paths: tuple[Path, ...]
  counts: tuple[int, ...]  # documents of each
  dropped: tuple[np.ndarray, ...]  # rows of each that are not used
  report: dict[str, Any]  # counts, for the manifest
  notes: tuple[str, ...]  # what a person must be told

  @property
  def digests(self) -> tuple[Path, ...]:
    """The shards' digests."""
    return tuple(map(shards.digests_path, self.paths))


class PartItem(NamedTuple):
  """One part to read; see `read_part`."""

  done: Path  # JSON: shards and skips
  part: sources.Part
  rules: Rules


def read(
  parts: Sequence[sources.Part],
  rules: Rules,
  folder: Path,
  workers: Workers,
) -> Intake:
  """Reads all parts.

  Args:
    parts: what to read, in the order that the corpus will have.
    rules: what is read of a document, and how many may be bad.
    folder: gets the raw shards; if it is there already, nothing is read again.
    workers: who reads.
  Raises:
    UserError: too many bad documents, or none that is good.
  """
  cache.build_once(folder, lambda place: _build(place, parts, rules, workers))
  reports = _reports(folder, len(parts))
  paths, counts = _shards(folder, reports)
  ids = _repeated(folder, "ids", sum(counts))
  texts = _repeated(folder, "texts", sum(counts))
  skips = _summed(reports, "skipped")
  if len(ids):
    skips["a repeated id"] = _told_ids(ids, paths)
  _check_limit(skips, rules)
  gone = np.concatenate([ids, texts]) if rules.drop_repeated_texts else ids
  report = {
    "parts": [
      {"kind": part.kind, "path": part.path, "documents": one["documents"]}
      for part, one in zip(parts, reports, strict=True)
    ],
    "skipped": skips,
    "lost_labels": _summed(reports, "lost_labels"),
    "repeated_texts": {
      "documents": len(texts),
      "dropped": rules.drop_repeated_texts,
    },
  }
  dropped = tuple(
    np.unique(gone[gone[:, 0] == shard, 1]).astype(np.int64)
    for shard in range(len(paths))
  )
  return Intake(
    tuple(paths),
    tuple(counts),
    dropped,
    report,
    (*_notes(report), *_unmet(reports, rules.fields)),
  )


def _build(place, parts, rules, workers) -> None:
  """Fills the folder: shards and reports of all parts, and what repeats."""
  items = [
    PartItem(_report_file(place, number), part, rules)
    for number, part in enumerate(parts)
  ]
  workers.run(
    read_part,
    items,
    text="reading",
    is_whole=_is_whole,
    name_of=lambda item: item.part.path,
  )
  reports = _reports(place, len(parts))
  paths, counts = _shards(place, reports)
  if not paths:
    raise UserError(_nothing(parts, reports))
  digests = tuple(map(shards.digests_path, paths))
  for name, columns in (("ids", shards.ID), ("texts", shards.TEXT)):
    files = _bucket_files(place, name, sum(counts))
    buckets = [
      shards.BucketItem(file, digests, columns, bucket, len(files))
      for bucket, file in enumerate(files)
    ]
    workers.run(
      shards.find_repeated,
      buckets,
      text=f"comparing {name}",
      is_whole=lambda item: np.load(item.done).shape[1] == 4,
    )


def read_part(item: PartItem) -> None:
  """Writes the raw shards of one part, then its report."""
  writer = shards.Writer(item.done.with_suffix(""), item.rules.shard_documents)
  skips: dict[str, dict[str, Any]] = {}
  lost: dict[str, dict[str, Any]] = {}
  met = dict.fromkeys(_ASKED, 0)
  for found in sources.read(item.part, item.rules.fields):
    if isinstance(found, Record):
      writer.add(found)
      met["id_field"] += not found.id.startswith(f"{item.part.name}:")
      met["source_field"] += bool(found.source)
    elif isinstance(found, LostLabel):
      _count(lost, found)
    else:
      _count(skips, found, found.documents)
      _check_limit(skips, item.rules)
  writer.flush()
  report = {
    "documents": sum(count for _, count in writer.shards),
    "shards": writer.shards,
    "digests": _digests(item, writer.shards),
    "skipped": skips,
    "lost_labels": lost,
    "met": met,
  }
  store.write_atomically(item.done, store.to_json(report))


def _report_file(folder: Path, number: int) -> Path:
  return folder / f"{number:05d}.json"


def _reports(folder: Path, num_parts: int) -> list[dict[str, Any]]:
  """What `read_part` wrote of every part."""
  files = (_report_file(folder, number) for number in range(num_parts))
  return [json.loads(file.read_text()) for file in files]


def _shards(folder: Path, reports) -> tuple[list[Path], list[int]]:
  """The shards of all parts, and how many documents each has."""
  pairs = [pair for one in reports for pair in one["shards"]]
  return [folder / name for name, _ in pairs], [count for _, count in pairs]


def _digests(item: PartItem, made: Sequence[tuple[str, int]]) -> list[str]:
  """Digests of the files that the shards of a part consist of."""
  paths = [item.done.with_name(name) for name, _ in made]
  return [
    store.file_digest(file)
    for path in paths
    for file in (path, shards.digests_path(path))
  ]


def _is_whole(item: PartItem) -> bool:
  """Whether a part's files are those that its report is about."""
  report = json.loads(item.done.read_text())
  return _digests(item, report["shards"]) == report["digests"]


def _bucket_files(folder: Path, name: str, num_documents: int) -> list[Path]:
  """Where what repeats is kept, by ranges of digests."""
  total = shards.num_buckets(num_documents)
  return [folder / f"{name}-{bucket:03d}.npy" for bucket in range(total)]


def _repeated(folder: Path, name: str, num_documents: int) -> np.ndarray:
  """Pairs of documents, [found, 4]: what repeats and what it repeats."""
  files = _bucket_files(folder, name, num_documents)
  found = np.concatenate([np.load(file) for file in files])
  return found[np.lexsort((found[:, 1], found[:, 0]))]


def _count(
  found: dict[str, dict[str, Any]], one: Skip | LostLabel, documents: int = 1
) -> None:
  kind = found.setdefault(
    one.kind, {"documents": 0, "where": [], "message": one.message}
  )
  kind["documents"] += documents
  if len(kind["where"]) < _PLACES_TOLD:
    kind["where"].append(one.where)


def _summed(reports, name: str) -> dict[str, dict[str, Any]]:
  """Skips or lost labels of all parts, by kind."""
  total: dict[str, dict[str, Any]] = {}
  for report in reports:
    for kind, one in report[name].items():
      if kind not in total:
        total[kind] = one
      else:
        total[kind]["documents"] += one["documents"]
        total[kind]["where"] += one["where"]
        del total[kind]["where"][_PLACES_TOLD:]
  return total


def _told_ids(found: np.ndarray, paths: Sequence[Path]) -> dict[str, Any]:
  """One kind of skip: which documents have the id of an earlier one."""

  def of(shard, row):
    columns = store.read_table(paths[shard], "id", "where")
    return columns["id"][row], columns["where"][row]

  told = found[:_PLACES_TOLD].tolist()
  name, first = of(*told[0][2:])
  return {
    "documents": len(found),
    "where": [of(*one[:2])[1] for one in told],
    "message": f"wanted an id that is used once, came {name!r} again (first in "
    f"{first}); make the ids unique or leave them out.",
  }


def _check_limit(skips, rules: Rules) -> None:
  limit = 0 if rules.strict else rules.max_skipped
  if sum(skip["documents"] for skip in skips.values()) > limit:
    raise UserError(_too_many(skips, rules))


def _too_many(skips, rules: Rules) -> str:
  kind, skip = next(iter(skips.items()))
  first = f"{skip['where'][0]}: {skip['message']}"
  if rules.strict:
    return first
  total = sum(one["documents"] for one in skips.values())
  return (
    f"{total:,} documents cannot be used, more than config.data.max_skipped = "
    f"{rules.max_skipped:,}; the first, {kind}: {first}"
  )


def _nothing(parts, reports) -> str:
  """Why no document is left; the most frequent reason with its cure."""
  skips = _summed(reports, "skipped")
  asked = f"{parts[0].path}{' and others' if len(parts) > 1 else ''}"
  if not skips:
    return (
      f"{asked}: wanted at least one document, came none; check the path and "
      "config.data.text_field."
    )
  told = "; ".join(
    f"{one['documents']:,} times {kind}" for kind, one in skips.items()
  )
  one = max(skips.values(), key=lambda skip: skip["documents"])
  return (
    f"{asked}: wanted at least one document, came none ({told}). Such as "
    f"{one['where'][0]}: {one['message']}"
  )


def _notes(report: dict[str, Any]) -> Iterator[str]:
  for kind, skip in report["skipped"].items():
    yield f"Skipped {_documents(skip)}, {kind}: {_places(skip)}."
  for kind, lost in report["lost_labels"].items():
    yield (
      f"Left a label empty in {_documents(lost)}, {kind}: {_places(lost)}. Their "
      "texts are used; labels only describe."
    )
  repeated = report["repeated_texts"]
  if repeated["documents"]:
    done = "left out" if repeated["dropped"] else "kept"
    yield (
      f"{repeated['documents']:,} documents have the text of an earlier one; "
      f"{done} (config.data.drop_repeated_texts)."
    )


# Fields of the plan that name one of documents, and what is done without it.
_ASKED = {
  "id_field": "documents are called after their file and line",
  "source_field": "no source is known, which only descriptions use",
}


def _unmet(reports, rules: sources.Rules) -> Iterator[str]:
  """Tells of fields that were asked for by name and that no document has."""
  for name, without in _ASKED.items():
    field = getattr(rules, name)
    is_met = any(one["met"][name] for one in reports)
    if field != Plan._field_defaults[name] and not is_met:
      yield (
        f"No document has a string in the field {field!r} (config.data.{name}); "
        f"{without}."
      )


def _documents(one: dict[str, Any]) -> str:
  count = one["documents"]
  return f"{count:,} document{'' if count == 1 else 's'}"


def _places(one: dict[str, Any]) -> str:
  """Some examples; a place may stand for many documents."""
  more = ", ..." if len(one["where"]) == _PLACES_TOLD < one["documents"] else ""
  return f"{', '.join(one['where'])}{more}"
