"""How fast and how lean the data pipeline is, against seqio on tf.data and the proxy.

    python -m experiments.bench_data [--json F] [--documents N ...] [--seconds S]

Brings synthetic tokenized documents, of at most a row each and in 16 domains of
unlike weights, from memory-mapped arrays to packed batches: through
`data.draw.pipeline`, and through `sample_from_datasets` and seqio's packing. Padding is
not counted as tokens. Measures besides how fast the smallest proxy takes them in, and
how fast documents are read at random from three forms on disk. Every measurement has a
process of its own. Memory is that process's largest anonymous memory beyond what it had
before, so that pages of mapped files do not count. Takes some minutes on two CPU cores,
with the extras `seqio` and `dev`.
"""

import argparse
import itertools
import json
import multiprocessing
import tempfile
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console
from rich.table import Table

DOMAINS = 16
SHORT = 5_000_000  # from so many documents on, they are a quarter as long
LARGEST_FOR_SEQIO = 2_000_000  # it holds the tokens in memory
STORED = 100_000  # documents of the comparison of forms on disk
READ_AT_ONCE = 1_000  # documents


class Row(NamedTuple):
  """One line of the table and of the JSON file; None where not measured."""

  variant: str
  documents: int | None
  tokens_per_second: float
  bytes_per_document: float | None  # in memory; for forms on disk, there
  note: str


class Corpus(NamedTuple):
  """Where the synthetic documents are and how rows are made of them."""

  folder: Path
  documents: int
  rows: int  # in one batch
  row_tokens: int
  seconds: float  # to measure for


def main() -> None:
  """Reads the flags, measures, and writes table and JSON."""
  args = _flags()
  found: list[Row] = []
  for row in measure(args):
    found.append(row)
    if args.json:
      rows = [one._asdict() for one in found]
      Path(args.json).write_text(json.dumps(rows, indent=1) + "\n")
  Console(width=150).print(table(found))


def _flags() -> argparse.Namespace:
  parser = argparse.ArgumentParser(
    description=__doc__.split("\n")[0],
    formatter_class=argparse.ArgumentDefaultsHelpFormatter,
  )
  parser.add_argument("--json", help="file for the rows")
  parser.add_argument(
    "--documents", type=int, nargs="+", default=[10_000, 1_000_000, 10_000_000]
  )
  parser.add_argument("--seconds", type=float, default=10.0, help="of each")
  parser.add_argument("--rows", type=int, default=64, help="of a batch")
  parser.add_argument("--row-tokens", type=int, default=256)
  parser.add_argument("--folder", help="for the arrays; 2 GB for 10M documents")
  return parser.parse_args()


def measure(args: argparse.Namespace) -> Iterable[Row]:
  """All rows, one after the other."""
  yield _alone(proxy, args.seconds)
  for documents in args.documents:
    with tempfile.TemporaryDirectory(dir=args.folder) as name:
      corpus = Corpus(
        Path(name), documents, args.rows, args.row_tokens, args.seconds
      )
      _alone(write, corpus)
      yield _alone(pipeline, corpus)
      if documents <= LARGEST_FOR_SEQIO:
        yield _alone(seqio, corpus)
  with tempfile.TemporaryDirectory(dir=args.folder) as name:
    corpus = Corpus(
      Path(name), STORED, args.rows, args.row_tokens, args.seconds
    )
    _alone(write, corpus)
    for form in (memory_map, array_record, parquet):
      yield _alone(form, corpus)


def _alone(function: Callable[..., Any], argument: Any) -> Any:
  """The function's result, from a new process."""
  context = multiprocessing.get_context("spawn")
  with context.Pool(1) as pool:
    return pool.apply(function, (argument,))


def table(rows: list[Row]) -> Table:
  """The rows for a person."""
  made = Table(*(name.replace("_", " ") for name in Row._fields))
  for row in rows:
    cells = (
      "-" if x is None else f"{x:,.0f}" if isinstance(x, int | float) else x
      for x in row
    )
    made.add_row(*cells)
  return made


def write(corpus: Corpus) -> None:
  """Documents of 8 tokens up to a row (or a quarter), as `data.store` keeps them."""
  rng = np.random.default_rng(0)
  share = 4 if corpus.documents >= SHORT else 1
  longest = corpus.row_tokens // share - 1  # n tokens give n + 1 pairs
  length_N = rng.integers(8, longest + 1, corpus.documents) + 2
  start_N1 = np.concatenate([[0], np.cumsum(length_N)])
  np.save(corpus.folder / "pool.start_N1.npy", start_N1)
  np.save(corpus.folder / "pool.bytes_N.npy", 4 * length_N)
  flat = np.lib.format.open_memmap(
    corpus.folder / "pool.flat.npy", "w+", np.uint16, (int(start_N1[-1]),)
  )
  for a in range(0, len(flat), 2**24):
    part = flat[a : a + 2**24]
    part[:] = rng.integers(3, 2048, len(part), dtype=np.uint16)
  flat[start_N1[:-1]] = flat[start_N1[1:] - 1] = 1  # end of text
  flat.flush()
  keys = rng.integers(0, 2**64, corpus.documents, dtype=np.uint64)
  np.save(corpus.folder / "pool.key_N.npy", keys)
  np.save(
    corpus.folder / "pool.domain_N.npy",
    rng.integers(0, DOMAINS, corpus.documents, dtype=np.uint8),
  )


def _open(corpus: Corpus, name: str) -> np.ndarray:
  return np.load(corpus.folder / f"pool.{name}.npy", mmap_mode="r")


def _domain_weights(seed: int) -> np.ndarray:
  return np.random.default_rng(seed).lognormal(0, 1, DOMAINS)


def pipeline(corpus: Corpus) -> Row:
  """This package's, with its thread, and what a change of the weights costs."""
  from cmtree_jax.data.draw import packing, sampler
  from cmtree_jax.data.draw import pipeline as pipelines

  tokens = packing.TokenStore(
    *(_open(corpus, name) for name in packing.TokenStore._fields)
  )
  domain_N = _open(corpus, "domain_N")
  with _PeakMemory() as memory:
    pool = sampler.make(
      tokens, _open(corpus, "key_N"), row_tokens=corpus.row_tokens, seed=0
    )
    start = pool.start(pool.init(), _domain_weights(0)[domain_N])
    iterator = iter(pipelines.batches(pool, start, rows=corpus.rows))
    del start
    next(iterator)
    rate = _rate(
      (int((batch.document_BT >= 0).sum()) for batch in iterator),
      corpus.seconds,
    )
    begin = time.perf_counter()
    weight_N = _domain_weights(1)[domain_N]
    cursor = pool.start(pipelines.state(iterator), weight_N)
    iterator.set_state({"cursor": cursor})
    next(iterator)
    change = time.perf_counter() - begin
    iterator.close()
  return Row(
    "pipeline",
    corpus.documents,
    rate,
    memory.bytes / corpus.documents,
    f"{change * 1e3:,.0f} ms for new weights and their first batch",
  )


def seqio(corpus: Corpus) -> Row:
  """The same from one dataset per domain, sampled by rates, trimmed and packed."""
  import seqio as library
  import tensorflow as tf

  start_N1, domain_N = _open(corpus, "start_N1"), _open(corpus, "domain_N")
  with _PeakMemory() as memory:
    flat = tf.constant(np.asarray(_open(corpus, "flat")))

    def domain(number: int) -> tf.data.Dataset:
      mine = np.flatnonzero(domain_N == number)
      spans = (start_N1[mine] + 1, start_N1[mine + 1])
      dataset = tf.data.Dataset.from_tensor_slices(spans)
      return dataset.shuffle(10_000, seed=number).repeat()

    weights = _domain_weights(0)
    dataset = tf.data.Dataset.sample_from_datasets(
      [domain(number) for number in range(DOMAINS)],
      weights=(weights / weights.sum()).tolist(),
      seed=0,
    )
    dataset = dataset.map(
      lambda start, stop: {"targets": tf.cast(flat[start:stop], tf.int32)},
      num_parallel_calls=tf.data.AUTOTUNE,
    )
    dataset = library.utils.trim_and_pack_dataset(
      dataset, {"targets": corpus.row_tokens}
    )
    dataset = dataset.batch(corpus.rows).prefetch(tf.data.AUTOTUNE)
    iterator = dataset.as_numpy_iterator()
    next(iterator)
    rate = _rate(
      (int((one["targets_segment_ids"] > 0).sum()) for one in iterator),
      corpus.seconds,
    )
  return Row(
    "seqio on tf.data",
    corpus.documents,
    rate,
    memory.bytes / corpus.documents,
    f"tokens in memory; buffers of 10,000 in each of {DOMAINS} domains",
  )


def proxy(seconds: float) -> Row:
  """What training the smallest preset takes in, in the quickstart's batches."""
  import jax

  from cmtree_jax.data.draw.batch import Batch
  from cmtree_jax.proxy import engine as engines
  from cmtree_jax.proxy import model, optim

  steps, rows, row_tokens, vocab_size = 25, 16, 64, 2048
  engine = engines.make(
    model.from_preset("0.3m", vocab_size=vocab_size, dtype="float32"),
    optim.adamw(
      1e-2, warmup_steps=30, total_steps=None, weight_decay=0.01, eps_root=1e-8
    ),
  )
  shape = (1, steps, rows, row_tokens)
  rng = np.random.default_rng(0)
  tokens, label = rng.integers(0, vocab_size, (2, *shape), dtype=np.int32)
  zeros = np.zeros(shape, np.int32)
  batches, ones = Batch(tokens, label, zeros, zeros), np.ones(shape, np.float32)
  phi = engine.init(jax.random.split(jax.random.key(0), 1))

  def calls() -> Iterable[int]:
    trained = phi
    while True:
      trained, loss_PS = engine.train(trained, batches, ones, np.array([True]))
      loss_PS.block_until_ready()
      yield tokens.size

  endless = iter(calls())
  next(endless)
  device = jax.devices()[0].device_kind
  return Row(
    "proxy 0.3m", None, _rate(endless, seconds), None, f"trains on {device}"
  )


def memory_map(corpus: Corpus) -> Row:
  """Flat arrays, as the pipeline reads them."""
  flat, start_N1 = _open(corpus, "flat"), _open(corpus, "start_N1")

  def read(wanted: np.ndarray) -> Iterable[np.ndarray]:
    return (flat[start_N1[i] : start_N1[i + 1]] + 0 for i in wanted.tolist())

  size = sum(
    (corpus.folder / f"pool.{name}.npy").stat().st_size
    for name in ("flat", "start_N1")
  )
  return _stored("flat .npy, memory-mapped", corpus, read, size)


def array_record(corpus: Corpus) -> Row:
  """One record per document, through Grain's data source."""
  import grain
  from array_record.python.array_record_module import ArrayRecordWriter

  path = corpus.folder / "pool.array_record"
  writer = ArrayRecordWriter(str(path), "group_size:1")
  for document in _documents(corpus):
    writer.write(document.tobytes())
  writer.close()
  source = grain.sources.ArrayRecordDataSource(str(path))

  def read(wanted: np.ndarray) -> Iterable[np.ndarray]:
    records = source.__getitems__(wanted.tolist())
    return (np.frombuffer(record, np.uint16) for record in records)

  return _stored("ArrayRecord, group_size:1", corpus, read, path.stat().st_size)


def parquet(corpus: Corpus) -> Row:
  """Row groups of 1,000 documents, each read for the one that is wanted."""
  import pyarrow as pa
  import pyarrow.parquet as pq

  path, group = corpus.folder / "pool.parquet", 1000
  column = pa.array([x.tobytes() for x in _documents(corpus)], pa.binary())
  pq.write_table(pa.table({"tokens": column}), path, row_group_size=group)
  file = pq.ParquetFile(path, memory_map=True)

  def read(wanted: np.ndarray) -> Iterable[np.ndarray]:
    for number, row in zip(*divmod(wanted, group), strict=True):
      tokens = file.read_row_group(number).column("tokens")[row.item()]
      yield np.frombuffer(tokens.as_buffer(), np.uint16)

  size = path.stat().st_size
  return _stored("Parquet, groups of 1,000", corpus, read, size)


def _documents(corpus: Corpus) -> Iterable[np.ndarray]:
  flat, start_N1 = _open(corpus, "flat"), _open(corpus, "start_N1").tolist()
  return (flat[a:b] for a, b in itertools.pairwise(start_N1))


def _stored(
  variant: str,
  corpus: Corpus,
  read: Callable[[np.ndarray], Iterable[np.ndarray]],
  size: int,
) -> Row:
  """Documents at random from a form that takes `size` bytes on disk."""
  rng, start_N1 = np.random.default_rng(0), _open(corpus, "start_N1")
  wanted = rng.integers(0, corpus.documents, READ_AT_ONCE)
  lengths = [len(one) for one in itertools.islice(read(wanted), 10)]
  assert lengths == np.diff(start_N1)[wanted[:10]].tolist()
  count = 0

  def draws() -> Iterable[int]:
    nonlocal count
    while True:
      wanted = rng.integers(0, corpus.documents, READ_AT_ONCE)
      for one in read(wanted):
        count += 1
        yield len(one)

  begin = time.perf_counter()
  rate = _rate(draws(), corpus.seconds)
  speed = count / (time.perf_counter() - begin)
  note = f"{speed:,.0f} documents a second at random, from the page cache"
  return Row(variant, corpus.documents, rate, size / corpus.documents, note)


def _rate(sizes: Iterable[int], seconds: float) -> float:
  """Sum of the sizes per second, while they come for so many seconds."""
  begin, total = time.perf_counter(), 0
  for size in sizes:
    total += size
    passed = time.perf_counter() - begin
    if passed > seconds:
      return total / passed
  raise AssertionError("The stream was to be endless.")


class _PeakMemory:
  """The most anonymous memory that a block took, looked at 200 times a second."""

  def __enter__(self) -> "_PeakMemory":
    self.bytes, self._before = 0, anonymous_bytes()
    self._done = threading.Event()
    self._thread = threading.Thread(target=self._watch, daemon=True)
    self._thread.start()
    return self

  def _watch(self) -> None:
    while not self._done.wait(0.005):
      self.bytes = max(self.bytes, anonymous_bytes() - self._before)

  def __exit__(self, *_: object) -> None:
    self._done.set()
    self._thread.join()


def anonymous_bytes(process: str = "self") -> int:
  """That a process holds now, by its number.

  Raises:
    OSError: there is no such process, or it has no memory of its own.
  """
  status = Path("/proc") / process / "status"
  for line in status.read_text().splitlines():
    if line.startswith("RssAnon:"):
      return 1024 * int(line.split()[1])
  raise OSError(f"{status} tells no RssAnon; run this on Linux.")


if __name__ == "__main__":
  main()
