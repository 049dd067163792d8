"""A test bed laid over a corpus that was read: changed documents in shards of their own.

What a bed is stands in `data/corpora/bed.py`. Documents that repeat others were looked
for before, so rewrites are not taken for repeats and none is left out silently.
"""

import functools
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cmtree_jax.data import cache, store
from cmtree_jax.data.build import overlap, shards
from cmtree_jax.data.build.intake import Intake
from cmtree_jax.data.build.workers import Workers
from cmtree_jax.data.corpora import assembly, origins
from cmtree_jax.data.corpora import bed as beds
from cmtree_jax.data.corpora.bed import Bed
from cmtree_jax.data.plan import Plan
from cmtree_jax.types import Record, Target, UserError

_FORMAT = 1  # raise it when the folders of beds change

_REPORT, _TARGET, _DROPPED = "bed.json", "target.json", "dropped.npy"
_LABELS = ("source", "domain", "language")


class Laid(NamedTuple):
  """A corpus with a bed."""

  taken: Intake
  targets: dict[str, Target]


class Item(NamedTuple):
  """One raw shard and what becomes of its documents; see `make_shard`."""

  done: Path  # JSON: shards and counts
  paths: tuple[Path, ...]  # all raw shards
  number: int  # of this one
  rows: np.ndarray  # its documents that are used
  position_N: np.ndarray  # of each
  partner_N2: np.ndarray  # shard and row of another document
  plan: Plan


def lay(
  plan: Plan,
  taken: Intake,
  targets: Mapping[str, Target],
  *,
  cache_dir: Path,
  workers: Workers,
) -> Laid:
  """Changes pool or targets as the bed of a plan says.

  Args:
    plan: with a bed.
    taken: the corpus as it was read.
    targets: all that there are.
    cache_dir: keeps what is made, in the folder `beds`.
    workers: who changes documents.
  Raises:
    UserError: the bed names what the pool does not have, or leaves too little.
  """
  one, seed = beds.parse(plan.bed), plan.bed_seed
  if one.kind == "tiny":
    few = {name: _few(one, target, seed) for name, target in targets.items()}
    return Laid(_told(taken, plan, {}), few)
  if one.holds_out and one.name in targets:
    raise UserError(
      f"config.data.bed = {plan.bed} makes a target {one.name!r} of what it takes out of "
      "the pool, and the corpus has a target of that name; hold out another label."
    )
  if one.holds_out and (fault := origins.misnamed(one.name)):
    raise UserError(f"config.data.bed = {plan.bed}: {fault}.")
  raw = [store.file_digest(path) for path in taken.paths]
  dropped = [rows.tolist() for rows in taken.dropped]
  key = store.key_of(
    _FORMAT, plan.bed, seed, plan.shard_documents, raw, dropped
  )
  build = _held_out if one.holds_out else _made
  folder = cache.build_once(
    cache_dir / "beds" / key,
    functools.partial(build, plan=plan, taken=taken, workers=workers),
  )
  report = json.loads((folder / _REPORT).read_text())
  if one.holds_out:
    texts = json.loads((folder / _TARGET).read_text())
    train, validation, test = (tuple(texts[split]) for split in store.SPLITS)
    target = Target(one.name, train, validation, test)
    targets = {**targets, one.name: target}
    gone = np.load(folder / _DROPPED)
    merged = tuple(
      np.union1d(rows, gone[gone[:, 0] == shard, 1])
      for shard, rows in enumerate(taken.dropped)
    )
    taken = taken._replace(dropped=merged)
  else:
    pairs = [pair for made in report.pop("shards") for pair in made]
    taken = taken._replace(
      paths=tuple(folder / name for name, _ in pairs),
      counts=tuple(count for _, count in pairs),
      dropped=tuple(np.zeros(0, np.int64) for _ in pairs),
    )
  return Laid(_told(taken, plan, report), dict(targets))


def make_shard(item: Item) -> None:
  """Writes what the documents of one raw shard become, then what was done."""
  one, seed = beds.parse(item.plan.bed), item.plan.bed_seed
  columns = store.read_table(item.paths[item.number], *Record._fields)
  others = [""] * len(item.rows)
  if one.name == "lines":
    others = shards.texts(item.paths, item.partner_N2.tolist())
  writer = shards.Writer(item.done.with_suffix(""), item.plan.shard_documents)
  factors: Counter[str] = Counter()
  same = 0
  for place, row in enumerate(item.rows.tolist()):
    record = Record(*(columns[name][row] for name in Record._fields))
    made = beds.made(
      one,
      record.id,
      record.text,
      float(item.position_N[place]),
      other=others[place],
      seed=seed,
    )
    same += len(made) - len({document.text for document in made})
    for document in made:
      changed = record._replace(id=document.id, text=document.text)
      hidden = {
        beds.FACTOR: document.factor,
        beds.COPY_OF: document.copy_of,
      }
      writer.add(changed, **hidden)
      factors[document.factor] += 1
  writer.flush()
  report = {"shards": writer.shards, "factor": factors, "equal_rewrites": same}
  store.write_atomically(item.done, store.to_json(report))


def _made(folder: Path, *, plan: Plan, taken: Intake, workers: Workers) -> None:
  """Fills the folder with changed documents."""
  rows = _rows(taken)
  columns = _columns(taken, rows, "id", "source")
  seed = plan.bed_seed
  position_N = beds.positions(columns["id"], columns["source"], seed=seed)
  place_N2 = np.concatenate(
    [
      np.column_stack([np.full(len(of_shard), shard), of_shard])
      for shard, of_shard in enumerate(rows)
    ]
  )
  partner_N2 = place_N2[beds.partners(columns["id"], seed=seed)]
  ends = np.cumsum([len(of_shard) for of_shard in rows])
  items = [
    Item(
      folder / f"{number:05d}.json",
      taken.paths,
      number,
      of_shard,
      position_N[end - len(of_shard) : end],
      partner_N2[end - len(of_shard) : end],
      plan,
    )
    for number, (of_shard, end) in enumerate(
      zip(rows, ends.tolist(), strict=True)
    )
  ]
  workers.run(make_shard, items, text=f"making the bed {plan.bed}")
  reports = [json.loads(item.done.read_text()) for item in items]
  total: Counter[str] = Counter()
  for report in reports:
    total.update(report["factor"])
  report = {
    "shards": [one["shards"] for one in reports],
    "factor": total,
    "equal_rewrites": sum(one["equal_rewrites"] for one in reports),
  }
  store.write_atomically(folder / _REPORT, store.to_json(report))


def _held_out(
  folder: Path, *, plan: Plan, taken: Intake, workers: Workers
) -> None:
  """Fills the folder with a target, and what leaves the pool for it."""
  one, seed = beds.parse(plan.bed), plan.bed_seed
  splits: dict[str, dict[str, None]] = {split: {} for split in store.SPLITS}
  gone: list[tuple[int, int]] = []
  for shard, rows in enumerate(_rows(taken)):
    columns = store.read_table(taken.paths[shard], "text", "original", *_LABELS)
    for row in rows.tolist():
      labels = [columns[name][row] for name in _LABELS]
      original = columns["original"][row]
      if beds.is_held_out(one, labels, original, seed=seed):
        gone.append((shard, row))
        splits[assembly.split_of(original)][columns["text"][row]] = None
    workers.check()
  texts: dict[str, list[str]] = {}
  for split, found in splits.items():  # a text of two splits stays in the first
    before = {text for earlier in texts.values() for text in earlier}
    texts[split] = [text for text in found if text not in before]
  if not all(texts.values()):
    counts = ", ".join(f"{len(texts[x])} {x}" for x in store.SPLITS)
    raise UserError(
      f"config.data.bed = {plan.bed}: wanted documents of source, domain or "
      f"language {one.name!r} for every split of a target, came {counts}; name one "
      "that the pool has more of."
    )
  repeats = _repeats(taken, set(gone), [x for xs in texts.values() for x in xs])
  report = {
    "held_out": len(gone),
    "repeats": len(repeats),
    "target": {split: len(found) for split, found in texts.items()},
  }
  dropped = np.array(gone + repeats, np.int64).reshape(-1, 2)
  store.save_array(folder / _DROPPED, dropped)
  store.write_atomically(folder / _TARGET, store.to_json(texts))
  store.write_atomically(folder / _REPORT, store.to_json(report))


def _repeats(
  taken: Intake, gone: set[tuple[int, int]], texts: Sequence[str]
) -> list[tuple[int, int]]:
  """Other documents of the pool that repeat a target's text, as in `assembly`."""
  found: list[tuple[int, int]] = []
  for shard, rows in enumerate(_rows(taken)):
    rows = [row for row in rows.tolist() if (shard, row) not in gone]
    column = store.read_table(taken.paths[shard], "text")["text"]
    share = overlap.repeated([column[row] for row in rows], texts)
    found += [
      (shard, row)
      for row, repeated in zip(rows, share.tolist(), strict=True)
      if repeated > assembly.MOST_REPEATED
    ]
  return found


def _few(one: Bed, target: Target, seed: int) -> Target:
  """The target with few texts to learn from and to choose by; all of its test."""
  train, validation = (
    beds.few(one, texts, seed=seed)
    for texts in (target.train, target.validation)
  )
  kept = {"train": train, "validation": validation}
  return target._replace(
    train=tuple(target.train[i] for i in train),
    validation=tuple(target.validation[i] for i in validation),
    questions={
      split: tuple(asked[i] for i in kept.get(split, range(len(asked))))
      for split, asked in target.questions.items()
    },
  )


def _told(taken: Intake, plan: Plan, report: Mapping[str, Any]) -> Intake:
  """With what was done, for the manifest and for a person."""
  counts = report.get("factor") or {
    name: count for name, count in report.items() if isinstance(count, int)
  }
  told = ", ".join(f"{count:,} {name}" for name, count in counts.items())
  note = f"Bed {plan.bed}, config.data.bed{': ' * bool(told)}{told}."
  made = {"name": plan.bed, "seed": plan.bed_seed, **report}
  return taken._replace(
    report={**taken.report, "bed": made}, notes=(*taken.notes, note)
  )


def _rows(taken: Intake) -> list[np.ndarray]:
  """The rows of every raw shard that are used."""
  return [
    np.setdiff1d(np.arange(count), dropped)
    for count, dropped in zip(taken.counts, taken.dropped, strict=True)
  ]


def _columns(
  taken: Intake, rows: Sequence[np.ndarray], *names: str
) -> dict[str, list[str]]:
  """Columns of all documents that are used, in their order."""
  found: dict[str, list[str]] = {name: [] for name in names}
  for path, of_shard in zip(taken.paths, rows, strict=True):
    columns = store.read_table(path, *names)
    for name in names:
      found[name] += [columns[name][row] for row in of_shard.tolist()]
  return found
