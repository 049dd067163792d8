"""What a recipe left out or holds back: a page for people, and a file of all of it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cmtree_jax.budget import Budget
from cmtree_jax.data import store
from cmtree_jax.data.build import prepare
from cmtree_jax.data.corpora import bed
from cmtree_jax.jobs import build, compare, hidden, known, variants
from cmtree_jax.jobs.trials import Tried
from cmtree_jax.methods.reasons import Reasons
from cmtree_jax.recipe import assign
from cmtree_jax.recipe import partition as partitions
from cmtree_jax.recipe.domains import Domains
from cmtree_jax.report import describe, selection
from cmtree_jax.report.html import selection as pages
from cmtree_jax.report.selection import BACK, KEPT, OUT, Example, Selection

PAGE_FILE = "selection.html"
DOCUMENTS_FILE = "selection.parquet"  # of all documents that are not kept


class _Corpus(NamedTuple):
  """The documents with what was made of them."""

  data: prepare.Prepared
  weight_N: np.ndarray  # as handed over
  verdict_N: np.ndarray
  source_N: np.ndarray
  sources: tuple[str, ...]
  domain_N: np.ndarray
  domains: tuple[str, ...]
  reasons: Reasons | None

  @property
  def tokens_N(self) -> np.ndarray:
    """Length of each."""
    return self.data.pool.tokens.pairs_N


def write(
  comparison: compare.Comparison, one: Tried
) -> tuple[Selection, list[Path]]:
  """Writes both files: (what they tell, the files).

  Args:
    comparison: its workdir has the documents.parquet of what was handed over.
    one: the version that was handed over.
  """
  job = comparison.job
  corpus = _corpus(comparison, one)
  budget = build.budget(job.config, corpus.data)
  found = _selection(corpus, budget)
  page = pages.build(
    found,
    f"What {one.name} keeps of {len(corpus.data.pool):,} documents",
    [budget.text()],
  )
  store.write_atomically(job.workdir / PAGE_FILE, page)
  store.write_row_groups(job.workdir / DOCUMENTS_FILE, _tables(corpus))
  return found, [job.workdir / PAGE_FILE, job.workdir / DOCUMENTS_FILE]


def _corpus(comparison: compare.Comparison, one: Tried) -> _Corpus:
  job, data = comparison.job, comparison.data
  own = variants.config_of(one.method, job.config)
  kind = build.make_method(own.method, own).partition
  placed = comparison.partitions.under(one.method, 0)[kind]
  handed = [job.workdir / assign.DOCUMENTS_FILE]
  (columns,) = assign.columns_of(handed, "weight")
  source_N, sources = data.documents.labels("source")
  (trial, *_) = comparison.trials.cells(one)
  return _Corpus(
    data,
    columns["weight"],
    selection.verdicts(columns["weight"]),
    source_N,
    sources,
    placed.domain_N,
    _names(placed, data, own),
    comparison.folder.reasons(trial.search),
  )


def _names(placed: Domains, data: prepare.Prepared, config: Any):
  """What domains are called: their labels, or number and frequent words."""
  partition = placed.partition
  if isinstance(partition, partitions.ClusterPartition) and partition.sources:
    return partition.sources
  nodes = describe.nodes(partition, known.sample(config, data))
  named = {node.path: node.name.rstrip(": ") for node in nodes}
  paths = partitions.leaf_paths(partition)
  return tuple(named.get(path, path) for path in paths)


def _selection(corpus: _Corpus, budget: Budget) -> Selection:
  """The numbers and the examples."""
  weights = corpus.weight_N, corpus.tokens_N
  (every,) = selection.groups(
    np.zeros(len(corpus.weight_N), int), ("all",), *weights
  )
  by = {
    "source": selection.groups(corpus.source_N, corpus.sources, *weights),
    "domain": selection.groups(corpus.domain_N, corpus.domains, *weights),
  }
  if corpus.domains == corpus.sources:
    del by["domain"]
  if hidden.has_factor(corpus.data):
    factor = corpus.data.documents.labels(bed.FACTOR)
    by[bed.FACTOR] = selection.groups(*factor, *weights)
  return Selection(
    every,
    by,
    selection.because(corpus.reasons, corpus.verdict_N != KEPT),
    list(_examples(corpus)),
    selection.once(*weights),
    selection.epochs(
      *weights, max_epochs=budget.max_epochs, cap=budget.max_weight
    ),
  )


def _examples(corpus: _Corpus) -> Iterator[Example]:
  """Some documents of every verdict, and those that their reasons name."""
  documents = corpus.data.documents
  for verdict in (OUT, BACK, KEPT):
    chosen = selection.some(
      verdict, corpus.verdict_N, corpus.source_N, corpus.data.pool.key_N
    )
    others = np.zeros(0, np.int64)
    if corpus.reasons is not None and verdict != KEPT:
      others = corpus.reasons.others(chosen)
    shown = documents.rows(chosen, "id", "text")
    beside = documents.rows(others, "id", "text")
    ids = dict(zip(others.tolist(), beside["id"], strict=True))
    texts = dict(zip(others.tolist(), beside["text"], strict=True))
    for number, name, text in zip(
      chosen.tolist(), shown["id"], shown["text"], strict=True
    ):
      reason, other = "", -1
      if corpus.reasons is not None and verdict != KEPT:
        reason = corpus.reasons.text(number, ids)
        other = next(
          iter(corpus.reasons.others(np.array([number])).tolist()), -1
        )
      yield Example(
        verdict,
        name,
        corpus.sources[corpus.source_N[number]],
        float(corpus.weight_N[number]),
        reason,
        selection.snippet(text),
        ids.get(other, ""),
        selection.snippet(texts.get(other, "")),
      )


def _tables(corpus: _Corpus) -> Iterator[Any]:
  """Rows of all documents that are not kept, shard by shard."""
  import pyarrow as pa

  changed = np.flatnonzero(corpus.verdict_N != KEPT)
  ids: dict[int, str] = {}
  if corpus.reasons is not None:
    others = corpus.reasons.others(changed)
    named = corpus.data.documents.rows(others, "id")["id"]
    ids = dict(zip(others.tolist(), named, strict=True))
  starts = corpus.data.documents.start_S1
  for shard, of_shard in enumerate(corpus.data.documents.column("id")):
    begin, end = np.searchsorted(changed, starts[shard : shard + 2])
    rows = changed[begin:end]
    told = (
      [""] * len(rows)
      if corpus.reasons is None
      else [corpus.reasons.text(i, ids) for i in rows.tolist()]
    )
    strings = {
      "document_id": [of_shard[i] for i in (rows - starts[shard]).tolist()],
      "verdict": [selection.VERDICTS[i] for i in corpus.verdict_N[rows]],
      "reason": told,
      "source": [corpus.sources[i] for i in corpus.source_N[rows]],
      "domain": [corpus.domains[i] for i in corpus.domain_N[rows]],
    }
    yield pa.table(
      {
        **{name: pa.array(x, pa.string()) for name, x in strings.items()},
        "weight": pa.array(corpus.weight_N[rows], pa.float64()),
        "tokens": pa.array(corpus.tokens_N[rows], pa.int64()),
      }
    )
