"""documents.parquet in sums that fit into a page, and a sample of the documents.

The sample is a file of its own: what documents look like, and where they lie on a map,
is not in documents.parquet, and the report is made from files alone.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cmtree_jax.data import store
from cmtree_jax.recipe import assign
from cmtree_jax.report.html import damage

FILE = assign.DOCUMENTS_FILE
SAMPLE_FILE = "sample.parquet"
MOST = 20_000  # documents of the sample, and points of the map
SNIPPET = 240  # characters of a document

_BINS = 24  # of the histogram of looks
OUT = 1e-3  # a document is left out whose weight is below


class Sums(NamedTuple):
  """Of the documents of one leaf."""

  documents: int = 0
  tokens: float = 0.0
  flow: float = 0.0  # tokens times weights
  valued: int = 0  # documents whose value was measured
  value: float = 0.0  # sum of their values
  square: float = 0.0  # of the squares of these

  def plus(self, other: "Sums") -> "Sums":
    """Of both together."""
    return Sums(
      self.documents + other.documents,
      self.tokens + other.tokens,
      self.flow + other.flow,
      self.valued + other.valued,
      self.value + other.value,
      self.square + other.square,
    )

  @property
  def mean_value(self) -> float:
    """NaN where no document was valued."""
    return self.value / self.valued if self.valued else float("nan")

  @property
  def error(self) -> float:
    """Standard error of that mean."""
    if self.valued < 2:
      return float("nan")
    variance = self.square / self.valued - self.mean_value**2
    return float(np.sqrt(max(variance, 0.0) / (self.valued - 1)))


class Shown(NamedTuple):
  """A document of the sample."""

  id: str
  source: str
  text: str  # its beginning
  x: float  # on the map, from -1 to 1
  y: float
  near: float  # how typical it is of its leaf: the cosine to the leaf's mean
  weight: float
  path: str  # of its leaf; "" without leaves
  value: float  # NaN: never measured


class Documents(NamedTuple):
  """What the report tells of all documents."""

  leaves: dict[str, Sums]  # by path; one, "", where there are none
  edges: np.ndarray  # of the bins, in looks at a document
  counts: np.ndarray  # documents by bin; those left out are not among them
  flows: np.ndarray  # training tokens by bin
  out: int  # documents that are left out
  at_most: float  # looks at one document
  sample: tuple[Shown, ...]

  @property
  def all(self) -> Sums:
    """Of the whole corpus."""
    total = Sums()
    for one in self.leaves.values():
      total = total.plus(one)
    return total


def load(folder: Path, *, epochs: float) -> Documents | None:
  """What is known of the documents; None where a job hands none over.

  Args:
    folder: of the job.
    epochs: that the training of the budget sees the pool.
  """
  path = folder / FILE
  if not path.is_file():
    return None
  most = max(
    (
      float(one["weight"].max())
      for one in _parts(path, "weight")
      if len(one["weight"])
    ),
    default=0.0,
  )
  edges = np.linspace(0, max(most * epochs, 1e-9), _BINS + 1)
  counts, flows, out = np.zeros(_BINS, np.int64), np.zeros(_BINS), 0
  leaves: dict[str, Sums] = {}
  shown = damage.checked(folder / SAMPLE_FILE, _sample, cure=damage.REMOVE)
  kept: list[Shown] = []
  begin = 0
  for part in _parts(path, "weight", "value", "tokens"):
    weight_N, tokens_N = part["weight"], part["tokens"]
    kept_N = weight_N >= OUT
    looks_N, flow_N = weight_N * epochs, weight_N * tokens_N
    counts += np.histogram(looks_N[kept_N], edges)[0]
    flows += np.histogram(looks_N[kept_N], edges, weights=flow_N[kept_N])[0]
    out += int((~kept_N).sum())
    for name, one in _sums(part, flow_N):
      leaves[name] = leaves.get(name, Sums()).plus(one)
    kept += _placed(shown, part, begin)
    begin += len(weight_N)
  return Documents(
    leaves, edges, counts, flows, out, most * epochs, tuple(kept)
  )


def _parts(path: Path, *numbers: str) -> Iterator[dict[str, Any]]:
  """Row groups, so that a large corpus is never in memory whole.

  Args:
    path: of the file.
    numbers: columns; with several of them, ids and paths as well.
  """
  import pyarrow as pa
  import pyarrow.parquet as pq

  texts = ("document_id", "path") if len(numbers) > 1 else ()
  file = pq.ParquetFile(path)
  for group in range(file.num_row_groups):
    table = file.read_row_group(group, columns=[*texts, *numbers])
    part: dict[str, Any] = {name: table[name].to_numpy() for name in numbers}
    if texts:
      paths = pa.array(table["path"].fill_null("").combine_chunks())
      coded = paths.dictionary_encode()
      part["id"] = table["document_id"]
      part["leaf"] = coded.indices.to_numpy()
      part["paths"] = coded.dictionary.to_pylist()
    yield part


def _sums(
  part: Mapping[str, Any], flow_N: np.ndarray
) -> Iterator[tuple[str, Sums]]:
  names, leaf_N = part["paths"], part["leaf"]
  value_N = np.asarray(part["value"], np.float64)
  valued_N = np.isfinite(value_N)
  value_N = np.where(valued_N, value_N, 0.0)
  columns = [
    np.bincount(leaf_N, column, minlength=len(names))
    for column in (
      np.ones(len(leaf_N)),
      *(part["tokens"], flow_N, valued_N, value_N, value_N**2),
    )
  ]
  for name, (documents, tokens, flow, valued, value, square) in zip(
    names, np.stack(columns, axis=1).tolist(), strict=True
  ):
    yield (
      name,
      Sums(int(documents), tokens, flow, int(valued), value, square),
    )


_COLUMNS = ["document_id", "source", "text", "x", "y", "near"]


def _sample(path: Path) -> dict[str, Any]:
  import pyarrow.parquet as pq

  if not path.is_file():
    return {"row": np.zeros(0, np.int64)}
  table = pq.read_table(path)
  columns = table.select(_COLUMNS).to_pydict()
  return {**columns, "row": table["row"].to_numpy()}


def _placed(
  sample: Mapping[str, Any], part: Mapping[str, Any], begin: int
) -> Iterator[Shown]:
  """The documents of the sample that a row group holds.

  A sample of other documents, of a job that was run anew and stopped, tells nothing.
  """
  first, last = np.searchsorted(
    sample["row"], [begin, begin + len(part["weight"])]
  )
  for number in range(first, last):
    row = int(sample["row"][number]) - begin
    if part["id"][row].as_py() != sample["document_id"][number]:
      continue
    yield Shown(
      sample["document_id"][number],
      sample["source"][number],
      sample["text"][number],
      sample["x"][number],
      sample["y"][number],
      sample["near"][number],
      float(part["weight"][row]),
      part["paths"][part["leaf"][row]],
      float(part["value"][row]),
    )


def rows(key_N: np.ndarray) -> np.ndarray:
  """The documents of the sample: as good as random, whatever their order.

  Args:
    key_N: hashes of the documents' ids.
  """
  if len(key_N) <= MOST:
    return np.arange(len(key_N))
  return np.sort(np.argpartition(key_N, MOST)[:MOST])


def save(
  folder: Path,
  row_S: np.ndarray,
  embedding_SE: np.ndarray,
  texts: Mapping[str, Sequence[str]],
) -> Path:
  """Writes the sample; returns the file.

  Args:
    folder: with the documents.parquet that it is a sample of.
    row_S: of `rows`.
    embedding_SE: features of these documents.
    texts: their ids, sources and texts.
  """
  import pyarrow as pa

  (columns,) = assign.columns_of([folder / FILE], "leaf")
  x_S, y_S = flat(embedding_SE)
  table = pa.table(
    {
      "row": pa.array(row_S, pa.int64()),
      "document_id": pa.array(texts["id"], pa.string()),
      "source": pa.array(texts["source"], pa.string()),
      "text": pa.array([text[:SNIPPET] for text in texts["text"]], pa.string()),
      "x": pa.array(x_S, pa.float32()),
      "y": pa.array(y_S, pa.float32()),
      "near": pa.array(
        _nearness(embedding_SE, columns["leaf"][row_S]), pa.float32()
      ),
    }
  )
  store.write_parquet(folder / SAMPLE_FILE, table)
  return folder / SAMPLE_FILE


def flat(embedding_SE: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Features in the two directions in which they differ most, from -1 to 1 each."""
  from sklearn.decomposition import PCA

  size = min(2, *embedding_SE.shape)
  if not np.ptp(embedding_SE, axis=0).any():  # no difference at all
    return np.zeros(len(embedding_SE)), np.zeros(len(embedding_SE))
  # The exact solver, for equal bytes on every machine.
  found_S2 = PCA(size, svd_solver="full").fit_transform(embedding_SE)
  found_S2 = np.pad(found_S2, ((0, 0), (0, 2 - size)))
  found_S2 /= np.maximum(np.abs(found_S2).max(axis=0), 1e-12)
  return found_S2[:, 0], found_S2[:, 1]


def _nearness(embedding_SE: np.ndarray, leaf_S: np.ndarray) -> np.ndarray:
  """The cosine of every document to the mean of its leaf."""
  _, leaf_S = np.unique(leaf_S, return_inverse=True)
  mean_LE = np.zeros((leaf_S.max() + 1, embedding_SE.shape[1]))
  np.add.at(mean_LE, leaf_S, embedding_SE)
  own_SE = mean_LE[leaf_S]
  length_S = np.linalg.norm(own_SE, axis=1) * np.linalg.norm(
    embedding_SE, axis=1
  )
  return (own_SE * embedding_SE).sum(axis=1) / np.maximum(length_S, 1e-12)
