"""The artefact: leaves with named mixture weights, or weights of documents."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cmtree_jax import budget as budgets
from cmtree_jax.budget import Budget
from cmtree_jax.data import mirror, sealed, share, store
from cmtree_jax.data.build import prepare
from cmtree_jax.data.draw import sampler
from cmtree_jax.embed.texts import Texts
from cmtree_jax.methods.base import DocumentWeights
from cmtree_jax.methods.base import Path as DocumentPath
from cmtree_jax.recipe import assign, scorer
from cmtree_jax.recipe.partition import (
  Applied,
  Partition,
  apply_partition,
  partition_from_json,
)
from cmtree_jax.types import UserError

FILE = "recipe.json"
FORMAT = 4  # with digests of its files, and of its documents' tokens

# Stands for a partition where documents have weights of their own; they are in the
# file of documents.
OF_DOCUMENTS = {"kind": "documents"}


class Recipe(NamedTuple):
  """A loaded recipe: `recipe.apply(texts)` weighs any documents."""

  folder: Path
  data: dict[str, Any]  # recipe.json
  partition: Partition | None  # None: documents have weights of their own
  embed: Callable[[Sequence[str]], np.ndarray]

  @property
  def budget(self) -> Budget:
    """The training that it was learned for."""
    return budgets.from_json(self.data["budget"])

  def apply(self, texts: Sequence[str], *, harden: bool = False) -> Applied:
    """Weights, leaves and paths of texts; of single documents the weights alone.

    The weights are the recipe's own. For another budget than that it was learned
    for, `config.recipe.apply` caps them over the whole corpus.

    Raises:
      UserError: the weights are of single documents, and words do not explain them.
    """
    if self.partition is not None:
      return apply_partition(self.partition, self.embed(texts), harden=harden)
    if not self._scores:
      raise UserError(
        f"The recipe of {self.folder} weighs single documents and says nothing of "
        f"other texts{self._why}: the weights are in its {assign.DOCUMENTS_FILE}, by "
        "id. Make a recipe with a method that weighs domains or a tree."
      )
    size = len(texts)
    return Applied(
      self._weights()(texts)["weight_N"],
      np.full(size, -1),
      [""] * size,
      np.full(size, np.nan),
    )

  def weights_of(
    self,
    data: prepare.Prepared,
    texts: Texts,
    tell: Callable[[str], None],
  ) -> Partition | DocumentWeights:
    """The weights as they are for a corpus; documents are known by their ids.

    Args:
      data: the corpus.
      texts: its texts; read where some are new, by the workers that they name.
      tell: is told how many documents are new, where a scorer weighs them.
    Raises:
      UserError: the weights are of single documents, and some of these are new and
        words do not explain the weights, or the ids are of other texts now.
    """
    if self.partition is not None:
      return self.partition
    known_N, weight_N, digest_N, path_N = self._documents()
    order_N = np.argsort(known_N)
    place_N = np.searchsorted(known_N, data.pool.key_N, sorter=order_N)
    row_N = order_N[np.minimum(place_N, len(order_N) - 1)]
    is_new_N = known_N[row_N] != data.pool.key_N
    # The corpus is tokenized as the recipe's was: equal texts have equal tokens.
    here_N = sampler.keys_of_tokens(data.pool.tokens, slice(0, len(data.pool)))
    other = np.flatnonzero(~is_new_N & (digest_N[row_N] != here_N))
    if len(other):
      (name,) = data.documents.rows(other[:1], "id")["id"]
      raise UserError(
        f"The recipe of {self.folder} knows documents by their ids, and "
        f"{len(other):,} of these {len(data.pool):,} have other texts than there, "
        f"such as {name!r}. Give documents ids that stay with them "
        "(config.data.id_field; else an id is a file's name and line), or make a "
        "recipe for this corpus."
      )
    weight_N = weight_N[row_N]
    if is_new_N.any():
      new_N = np.flatnonzero(is_new_N)
      self._require_scorer(data, new_N, in_order=path_N is not None)
      tell(
        f"{len(new_N):,} of {len(data.pool):,} documents are new to the recipe: they "
        "are weighed by their words, which explain "
        f"{self.data['scorer']['explained']:.0%} of what known weights vary."
      )
      found = texts.measured(self._weights())
      weight_N[new_N] = found["weight_N"][new_N]
    path = None
    if path_N is not None:
      # Of a part of the corpus: the same order, without gaps.
      path_N = np.argsort(np.argsort(path_N[row_N])).astype(np.int32)
      path = DocumentPath(path_N)
    with np.errstate(divide="ignore"):
      return DocumentWeights(np.log(weight_N), path)

  @property
  def _scores(self) -> bool:
    """Whether it weighs texts that are no document of its corpus."""
    return scorer.is_beside(self.data)

  @property
  def _why(self) -> str:
    """Why it does not, where that is known."""
    told = self.data.get("scorer")
    if self._scores or not told:
      return ""
    return f", as words explain {max(told['explained'], 0):.0%} of its weights"

  def _weights(self) -> scorer.Weights:
    """What its words make of a text."""
    sealed.require(self.folder / FILE, self.data, scorer.FILE, cure=_CURE)
    path = str((self.folder / scorer.FILE).resolve())
    return scorer.Weights(path, self.data[sealed.FILES][scorer.FILE])

  def _require_scorer(
    self, data: prepare.Prepared, new_N: np.ndarray, *, in_order: bool
  ) -> None:
    if self._scores and not in_order:
      return
    (name,) = data.documents.rows(new_N[:1], "id")["id"]
    raise UserError(
      f"The recipe of {self.folder} weighs single documents{self._why}, and "
      f"{len(new_N):,} of these {len(data.pool):,} are none of them, such as "
      f"{name!r}. Apply it to the corpus that it was made for or a part of it, or "
      "make a recipe with a method that weighs domains or a tree."
    )

  def _repr_html_(self) -> str:
    """What a notebook shows of it."""
    from cmtree_jax.report.html import notebook

    return notebook.of_recipe(self.data)

  def _documents(self):
    """Of the documents: hashes of ids, weights, hashes of tokens, places if there are."""
    import pyarrow.parquet as pq

    path = self.folder / assign.DOCUMENTS_FILE
    file = self.folder / FILE
    sealed.require(file, self.data, assign.DOCUMENTS_FILE, cure=_CURE)
    names = ["weight", "digest"] + [assign.PLACE] * assign.has_path([path])
    file = pq.ParquetFile(path)
    keys, columns = [], {name: [] for name in names}
    for group in range(file.num_row_groups):
      table = file.read_row_group(group, columns=["document_id", *names])
      keys.append(sampler.document_keys(table["document_id"].to_pylist()))
      for name, parts in columns.items():
        parts.append(table[name].to_numpy())
    found = {name: np.concatenate(parts) for name, parts in columns.items()}
    return (
      np.concatenate(keys),
      found["weight"],
      found["digest"],
      found.get(assign.PLACE),
    )


def save(
  folder: Path,
  data: dict[str, Any],
  *,
  learned: Path,
  for_new: scorer.Scorer | None = None,
) -> list[Path]:
  """Writes recipe.json and what it reads documents with; returns the files.

  Args:
    folder: of the recipe.
    data: what recipe.json holds, `partition` among it.
    learned: folder of the prepared corpus, which has tokenizer and embedder.
    for_new: weighs new texts, where documents have weights of their own.
  """
  files = save_readers(folder, learned=learned)
  if for_new:
    data = {**data, "scorer": {"explained": for_new.explained}}
    if for_new.serves:
      for_new.save(folder / scorer.FILE)
      files.append(folder / scorer.FILE)
  documents = folder / assign.DOCUMENTS_FILE
  beside = [*files, *([documents] if documents.is_file() else [])]
  sealed.write(folder / FILE, data, beside=beside)
  return [*files, folder / FILE]


def save_readers(folder: Path, *, learned: Path) -> list[Path]:
  """Writes what new documents are read with, embedder and tokenizer."""
  folder.mkdir(parents=True, exist_ok=True)
  names = (prepare.EMBEDDER_FILE, prepare.TOKENIZER_FILE)
  for name in names:
    store.write_atomically(folder / name, (learned / name).read_bytes())
  return [folder / name for name in names]


def load(folder: Path | str) -> Recipe:
  """The recipe that a job left in its workdir.

  The weights of single documents are in a large file, which is looked at when they
  are asked for.

  Raises:
    UserError: there is none, it is of another format, or one of its files is not what
      was written.
  """
  folder = mirror.reading(folder)
  file = folder / FILE
  if not file.is_file():
    where = (
      folder if folder.is_dir() else f"{folder}, for there is no such folder"
    )
    raise UserError(
      f"No {FILE} in {where}. Give the workdir of a job that has ended."
    )
  data = sealed.read(file, cure=_CURE)
  if data.get("format") != FORMAT:
    raise UserError(
      f"{file}: wanted format {FORMAT}, which holds digests of the recipe's files "
      f"and documents, came {data.get('format')!r}. Make it again with the same "
      "config in a new workdir: python -m cmtree_jax.main --config CONFIG --workdir NEW; "
      "config.budget says which training it is for."
    )
  sealed.require(file, data, *prepare.LEARNED_FILES, cure=_CURE)
  missing = [name for name in Budget._fields if name not in data["budget"]]
  if missing:
    raise UserError(
      f"{file}: wanted a budget with {', '.join(Budget._fields)}, came one without "
      f"{', '.join(missing)}. Make the recipe again with the same config in a new "
      "workdir."
    )
  embed = prepare.load_embedder(
    folder / prepare.EMBEDDER_FILE,
    cache_dir=share.local(data["config"]["cache_dir"]),
  )
  partition = data["partition"]
  if partition == OF_DOCUMENTS:
    return Recipe(folder, data, None, embed)
  return Recipe(folder, data, partition_from_json(partition), embed)


_CURE = "Copy the recipe again, or run the job that made it again."
