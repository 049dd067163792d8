"""Text to arrays: read, tokenize, embed; each done once per content and resumable.

The work is cut into shards, done on all cores or on Beam (`workers`), and joined
into flat arrays that stay on disk: what a job holds in memory of a document is its
place, not its text.
"""

import functools
import json
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cmtree_jax import embed
from cmtree_jax.data import cache, store
from cmtree_jax.data.build import bedding, intake, overlap, shards
from cmtree_jax.data.build import tokenizer as tokenizers
from cmtree_jax.data.build.workers import Workers
from cmtree_jax.data.corpora import origins
from cmtree_jax.data.draw import packing, sampler
from cmtree_jax.data.plan import Plan as DataPlan
from cmtree_jax.data.read import questions as question_arrays
from cmtree_jax.data.read import sources
from cmtree_jax.types import Target, UserError

Progress = Callable[[str], None]

# Raise them when folders of prepared corpora, or of such that are only read, change, so
# that old ones are unused.
_FORMAT = 6
_READ_FORMAT = 6

EMBEDDER_FILE = "embedder.npz"
TOKENIZER_FILE = "tokenizer.bin"
LEARNED_FILES = (TOKENIZER_FILE, EMBEDDER_FILE)
RUNS_FILE = "target_runs.npz"
_TOKENIZER_BYTES = 50_000_000  # learned from; 8k pieces take seven CPU seconds
_EMBEDDER_BYTES = (
  200_000_000  # of text, in the sample that the embedder is fitted on
)


class DocumentSet(NamedTuple):
  """Documents as a learner sees them; the arrays of a pool stay on disk."""

  key_N: np.ndarray  # uint64, hash of every id
  tokens: packing.TokenStore
  embedding_NE: np.ndarray
  # Where the target has answers: those of its validation and test texts.
  questions: question_arrays.Questions | None = None

  def __len__(self) -> int:
    return len(self.key_N)


class Prepared(NamedTuple):
  """A corpus ready for training, and its targets by name and split."""

  pool: DocumentSet
  targets: dict[str, dict[str, DocumentSet]]
  documents: shards.Documents  # texts, for reports and exports; hidden labels
  blocks: embed.Blocks  # which columns of an embedding are of which view
  vocab_size: int
  digest: str  # a hash of all ids and texts
  folder: Path  # holds the tokenizer and the embedder
  manifest: dict[str, Any]  # what was read and what was left out
  notes: tuple[str, ...]  # what a person must be told


class Plan(NamedTuple):
  """What a corpus is prepared from: the config's blocks of these names."""

  data: DataPlan = DataPlan()
  tokenizer: tokenizers.Plan = tokenizers.Plan()
  embedding: embed.Plan = embed.Plan()
  # Targets that views may be fitted to, None: all. What a recipe is only tested on
  # must not be known to its search.
  searched: tuple[str, ...] | None = None


def prepare(
  plan: Plan,
  *,
  cache_dir: Path,
  workers: Workers,
  progress: Progress,
  learned: Path | None = None,
) -> Prepared:
  """Reads the corpus of a plan and brings it to arrays.

  Args:
    plan: what is read, and how it becomes arrays.
    cache_dir: where downloads and prepared arrays are kept.
    workers: who reads, tokenizes and embeds.
    progress: told one line per stage.
    learned: folder of a recipe whose tokenizer and embedder are taken, instead
      of learning them; targets are then not wanted.
  Raises:
    UserError: bad data, or a place that cannot be written to.
  """
  data = plan.data
  try:
    found = origins.find(data, cache_dir=cache_dir, progress=progress)
    taken = _sampled(
      _read(data, found.parts, cache_dir, workers, progress),
      data.max_documents,
    )
    if data.bed:
      laid = bedding.lay(
        data, taken, found.targets, cache_dir=cache_dir, workers=workers
      )
      taken, found = laid.taken, found._replace(targets=laid.targets)
    targets = {} if learned else origins.choose(found, data)
    task = _Task(plan, found.skipped, taken, targets, cache_dir, learned)
    digest = task.digest()
    folder = cache.build_once(
      cache_dir / "prepared" / task.key(digest),
      lambda place: _build(task, place, digest, workers, progress),
    )
    made = load(folder, targets, notes=(*found.notes, *taken.notes))
    # The folder may be of files with the same documents and other bad ones.
    return made._replace(manifest={**made.manifest, **task.report()})
  except OSError as error:
    raise UserError(store.unwritable(cache_dir, error)) from error


class _Task(NamedTuple):
  """What a prepared folder is made from."""

  plan: Plan
  skipped: Mapping[str, Mapping[str, int]]  # lines of targets' files, by kind
  taken: intake.Intake
  targets: dict[str, Target]
  cache_dir: Path
  learned: Path | None

  def digest(self) -> str:
    """A hash of every id and text of the pool and the targets."""
    parts: list[Any] = [store.file_digest(path) for path in self.taken.digests]
    for name, target in sorted(self.targets.items()):
      parts.append([name, *target[1:]])
    digest = store.key_of(*parts)
    if self.plan.data.bed:
      digest = store.key_of(digest, self.plan.data.bed)
    size = self.plan.data.max_documents
    return store.key_of(digest, size) if size else digest

  @property
  def goals(self) -> dict[str, tuple[str, ...]]:
    """Texts of the targets that views may be fitted to."""
    searched = self.plan.searched
    return {
      name: target.train
      for name, target in self.targets.items()
      if searched is None or name in searched
    }

  def key(self, digest: str) -> str:
    """The name of the folder: a hash of everything that decides its bytes."""
    data, tokenizer, embedding, _ = self.plan
    parts: list[Any] = [
      tokenizer._asdict(),
      embedding.identity(),
      data.max_overlap,
    ]
    if self.learned:
      parts += [store.file_digest(self.learned / x) for x in LEARNED_FILES]
    if data.source_field != DataPlan().source_field:
      parts.append(data.source_field)  # ids and texts do not tell of labels
    if "grams" in embedding.views and set(self.goals) != set(self.targets):
      parts.append(sorted(self.goals))
    return store.key_of(_FORMAT, digest, data.drop_repeated_texts, *parts)

  def report(self) -> dict[str, Any]:
    """What was read and what was left out."""
    skipped = {name: dict(kinds) for name, kinds in self.skipped.items()}
    return {**self.taken.report, "targets_skipped": skipped}


def _read(
  data: DataPlan, parts, cache_dir: Path, workers: Workers, progress: Progress
) -> intake.Intake:
  begin = time.monotonic()
  rules = intake.Rules(
    origins.fields(data),
    data.strict,
    data.max_skipped,
    data.drop_repeated_texts,
    data.shard_documents,
  )
  stamps = [(*part, sources.stamp(part)) for part in parts]
  key = store.key_of(_READ_FORMAT, stamps, rules.fields, rules.shard_documents)
  taken = intake.read(parts, rules, cache_dir / "corpora" / key, workers)
  progress(
    f"Read {sum(taken.counts):,} documents of {len(parts):,} "
    f"{'file' if len(parts) == 1 else 'files'} ({_since(begin)})"
  )
  return taken


def _sampled(taken: intake.Intake, max_documents: int) -> intake.Intake:
  """Drops all but the documents with the smallest text digests; 0 keeps all."""
  documents = sum(taken.counts) - sum(map(len, taken.dropped))
  if not 0 < max_documents < documents:
    return taken
  kept = np.array(
    shards.smallest(
      taken.digests,
      taken.dropped,
      max_bytes=sys.maxsize,
      max_documents=max_documents,
    )
  )
  dropped = tuple(
    np.union1d(gone, np.setdiff1d(np.arange(count), kept[kept[:, 0] == n, 1]))
    for n, (gone, count) in enumerate(
      zip(taken.dropped, taken.counts, strict=True)
    )
  )
  note = f"A sample of {max_documents:,} documents, config.data.max_documents."
  return taken._replace(dropped=dropped, notes=(*taken.notes, note))


class ShardItem(NamedTuple):
  """A raw shard and what becomes of it; see `make_arrays`."""

  done: Path  # .npz of arrays
  raw: Path
  documents: Path  # the shard without what is left out
  dropped: np.ndarray  # rows of the raw shard
  folder: Path  # holds tokenizer, embedder and the targets' runs of words
  learned: str  # digest of tokenizer and embedder
  tokenizer: str  # kind
  cache_dir: Path


def _build(
  task: _Task, folder: Path, digest: str, workers: Workers, progress: Progress
) -> None:
  """Fills the folder; goes on with the shards that a stopped job left in it."""
  begin = time.monotonic()
  tok, embedder = _learn(task, folder)
  progress(f"Tokenizer of {tok.vocab_size} tokens ready ({_since(begin)})")
  overlap.save(folder / RUNS_FILE, overlap.target_runs(task.targets))
  begin = time.monotonic()
  items = _items(task, folder)
  workers.run(
    make_arrays, items, text="tokenizing and embedding", is_whole=_is_whole
  )
  arrays = [item.done for item in items]
  shares = _overlap(folder, arrays, task.plan.data.max_overlap)
  sizes = _join(folder, arrays, tok.vocab_size)
  progress(f"Tokenized and embedded {sum(sizes):,} documents ({_since(begin)})")
  for target in task.targets.values():
    _write_target(folder, target, tok, embedder)
  manifest = {
    "format": _FORMAT,
    "corpus_digest": digest,
    "vocab_size": tok.vocab_size,
    "shards": sizes,
    "overlap": shares,
    "targets": {
      name: {split: len(getattr(target, split)) for split in store.SPLITS}
      for name, target in task.targets.items()
    },
    **task.report(),
  }
  store.write_atomically(folder / "manifest.json", store.to_json(manifest))
  store.remove(folder / "arrays")


def _items(task: _Task, folder: Path) -> list[ShardItem]:
  """One item for each raw shard, in their order."""
  for name in ("arrays", "documents"):
    (folder / name).mkdir(exist_ok=True)
  learned = [store.file_digest(folder / name) for name in LEARNED_FILES]
  return [
    ShardItem(
      folder / "arrays" / f"{number:05d}.npz",
      raw,
      folder / "documents" / f"{number:05d}.parquet",
      dropped,
      folder,
      store.key_of(learned),
      task.plan.tokenizer.kind,
      task.cache_dir,
    )
    for number, (raw, dropped) in enumerate(
      zip(task.taken.paths, task.taken.dropped, strict=True)
    )
  ]


def _write_target(folder: Path, target: Target, tok, embedder) -> None:
  """Writes the arrays of a target's splits, and its questions where it has any."""
  for split in store.SPLITS:
    texts = getattr(target, split)
    ids = [f"{target.name}/{split}/{i}" for i in range(len(texts))]
    made = arrays_of(ids, texts, tok, embedder)
    store.write_arrays(folder, f"{target.name}.{split}", made)
    asked = target.questions.get(split)
    if asked and split in store.SCORED_SPLITS:
      encoded = question_arrays.encode(asked, tok)
      question_arrays.write(folder, f"{target.name}.{split}", encoded)


def _learn(task: _Task, folder: Path):
  """The tokenizer and the embedder, from samples that no order changes."""
  tokenizer, embedding = task.plan.tokenizer, task.plan.embedding
  taken = task.taken
  if task.learned:
    for name in LEARNED_FILES:
      content = (task.learned / name).read_bytes()
      store.write_atomically(folder / name, content)
    return _loaded(folder, tokenizer.kind, task.cache_dir)
  sample = shards.texts(
    taken.paths,
    shards.smallest(taken.digests, taken.dropped, max_bytes=_TOKENIZER_BYTES),
  )
  tok = tokenizers.load_or_train(
    sample, tokenizer, cache_dir=task.cache_dir / "tokenizers"
  )
  store.write_atomically(folder / TOKENIZER_FILE, tok.to_bytes())
  chosen = shards.smallest(
    taken.digests,
    taken.dropped,
    max_bytes=_EMBEDDER_BYTES,
    max_documents=embedding.sample,
  )
  embedder = embed.fit(
    shards.texts(taken.paths, chosen),
    embedding,
    cache_dir=task.cache_dir,
    goals=task.goals,
  )
  store.save_arrays(folder / EMBEDDER_FILE, embed.to_arrays(embedder))
  return tok, embedder


def make_arrays(item: ShardItem) -> None:
  """Tokenizes and embeds one shard, and looks for the targets' text in it."""
  digests = np.load(shards.digests_path(item.raw), mmap_mode="r")
  rows = np.setdiff1d(np.arange(len(digests)), item.dropped)
  kept = shards.keep(item.raw, item.documents, rows)
  tok, embedder = _loaded(item.folder, item.tokenizer, item.cache_dir)
  found = overlap.found(kept["text"], overlap.load(item.folder / RUNS_FILE))
  made = arrays_of(kept["id"], kept["text"], tok, embedder)
  store.save_arrays(
    item.done, {**made, "target_runs": found, "made_of": _made_of(item)}
  )


def _made_of(item: ShardItem) -> np.ndarray:
  """What a shard's arrays were made from: digests of embedder and documents."""
  return np.array([item.learned, store.file_digest(item.documents)])


def _is_whole(item: ShardItem) -> bool:
  """Whether a finished shard is of this tokenizer and embedder, and undamaged.

  An embedder that is learned again may differ in its last bits, on another machine.
  """
  with np.load(item.done) as file:
    arrays = {name: file[name] for name in file.files}  # also checks their sums
  return np.array_equal(arrays["made_of"], _made_of(item))


@functools.lru_cache(maxsize=1)  # a worker is at work on one corpus at a time
def _loaded(folder: Path, kind: str, cache_dir: Path):
  data = (folder / TOKENIZER_FILE).read_bytes()
  tok = tokenizers.TOKENIZERS[kind].from_bytes(data)
  return tok, load_embedder(folder / EMBEDDER_FILE, cache_dir=cache_dir)


def arrays_of(
  ids: Sequence[str], texts: Sequence[str], tok, embedder
) -> dict[str, np.ndarray]:
  """Everything that a learner sees of some documents."""
  tokens = packing.store(
    tok.encode_batch(texts),
    [len(text.encode()) for text in texts],
    end_of_text=tokenizers.EOS_ID,
  )
  return {
    "flat": tokens.flat,
    "start_N1": tokens.start_N1,
    "bytes_N": tokens.bytes_N,
    "key_N": sampler.document_keys(ids),
    "embedding_NE": embedder(texts),
  }


def _overlap(folder: Path, arrays: Sequence[Path], limit: float):
  """The share of every target's runs of words that the pool has."""
  runs = overlap.load(folder / RUNS_FILE)
  found = np.zeros(len(runs.hash_R), bool)
  for path in arrays:
    with np.load(path) as file:
      found |= file["target_runs"]
  shares = overlap.shares(found, runs)
  overlap.check(shares, limit=limit)
  return shares


def load_embedder(path: Path, *, cache_dir: Path) -> embed.Embedder:
  """The embedder in a file of a prepared folder, or of a recipe."""
  with np.load(path) as file:
    arrays = {name: file[name] for name in file.files}
  return embed.from_arrays(arrays, cache_dir=cache_dir.expanduser())


def _join(folder: Path, arrays: Sequence[Path], vocab_size: int) -> list[int]:
  """Joins the shards' arrays into the pool's; returns documents per shard.

  Arrays of the whole pool may be larger than memory: they are filled on disk.
  """
  sizes, ends, width = [], [0], 0
  for path in arrays:
    with np.load(path) as file:
      sizes.append(len(file["key_N"]))
      ends.append(ends[-1] + int(file["start_N1"][-1]))
      width = file["embedding_NE"].shape[1]
  total = sum(sizes)
  dtype = np.uint16 if vocab_size <= 2**16 else np.uint32
  pool = {
    name: store.create_array(folder / f"pool.{name}.npy", kind, shape)
    for name, kind, shape in (
      ("flat", dtype, (ends[-1],)),
      ("start_N1", np.int64, (total + 1,)),
      ("bytes_N", np.int64, (total,)),
      ("key_N", np.uint64, (total,)),
      ("embedding_NE", np.float32, (total, width)),
    )
  }
  at = 0
  for path, size, start in zip(arrays, sizes, ends[:-1], strict=True):
    with np.load(path) as file:
      rows = slice(at, at + size)
      pool["flat"][start : start + len(file["flat"])] = file["flat"]
      pool["start_N1"][at : at + size + 1] = file["start_N1"] + start
      for name in ("bytes_N", "key_N", "embedding_NE"):
        pool[name][rows] = file[name]
    at += size
  for array in pool.values():
    array.flush()
  return sizes


def load(
  folder: Path, targets: Iterable[str], *, notes: Iterable[str]
) -> Prepared:
  """A prepared folder; what a person must be told of it comes from elsewhere."""
  manifest = json.loads((folder / "manifest.json").read_text())
  sizes = manifest["shards"]
  paths = [
    folder / "documents" / f"{number:05d}.parquet"
    for number in range(len(sizes))
  ]
  starts = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
  pool = load_set(folder, "pool", mmap_mode="r")
  with np.load(folder / EMBEDDER_FILE) as file:
    blocks = embed.blocks(file, pool.embedding_NE.shape[1])
  return Prepared(
    pool=pool,
    targets={
      name: {s: load_set(folder, f"{name}.{s}") for s in store.SPLITS}
      for name in targets
    },
    documents=shards.Documents(tuple(paths), starts),
    blocks=blocks,
    vocab_size=manifest["vocab_size"],
    digest=manifest["corpus_digest"],
    folder=folder,
    manifest=manifest,
    notes=tuple(notes),
  )


def load_set(folder: Path, name: str, mmap_mode=None) -> DocumentSet:
  """Some documents of a prepared folder, "pool" or "TARGET.SPLIT"."""
  arrays = {
    field: np.load(folder / f"{name}.{field}.npy", mmap_mode=mmap_mode)
    for field in ("flat", "start_N1", "bytes_N", "key_N", "embedding_NE")
  }
  return DocumentSet(
    arrays["key_N"],
    packing.TokenStore(arrays["flat"], arrays["start_N1"], arrays["bytes_N"]),
    arrays["embedding_NE"],
    question_arrays.load(folder, name),
  )


def _since(begin: float) -> str:
  return f"{time.monotonic() - begin:.1f} s"
