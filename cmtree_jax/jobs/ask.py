"""Questions about a corpus or a recipe that are answered without training anything."""

import json
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from cmtree_jax.data import mirror, store
from cmtree_jax.data.build import prepare
from cmtree_jax.data.draw import sampler
from cmtree_jax.evaluate import presence, shares
from cmtree_jax.jobs import estimate, search
from cmtree_jax.jobs import job as jobs
from cmtree_jax.jobs import plan as plans
from cmtree_jax.jobs import workdir as workdirs
from cmtree_jax.jobs.job import Job, Show
from cmtree_jax.recipe import assign, domains
from cmtree_jax.recipe import partition as partitions
from cmtree_jax.recipe import recipe as recipes
from cmtree_jax.recipe.export import files
from cmtree_jax.report import answers
from cmtree_jax.types import UserError


def pool(config: Any) -> int:
  """Prints whether the targets of a config are represented in its pool.

  Raises:
    UserError: a setting or the data is wrong, or there is no target.
  """
  plans.check_recipe(config)

  def story(job: Job) -> Show:
    data = jobs.prepared(job, trained=False)
    if not data.targets:
      raise UserError(
        "Whether a target is represented wants a target, came none: name one with "
        "--config.data.target_files=FILE."
      )
    placed = search.partitions([], job, data)["given"]
    found = {
      name: _presence(splits, placed, data)
      for name, splits in data.targets.items()
    }
    return lambda: answers.show_presence(found, data.manifest["overlap"])

  with tempfile.TemporaryDirectory() as folder:
    return jobs.run(story, estimate.without_model_views(config), Path(folder))


def _presence(
  splits: dict[str, prepare.DocumentSet],
  placed: domains.Domains,
  data: prepare.Prepared,
) -> presence.Presence:
  """Of the texts that drive a search, or of all others where there are none."""
  parts = [splits["train"]] if len(splits["train"]) else list(splits.values())
  embedding_ME = np.concatenate([np.asarray(one.embedding_NE) for one in parts])
  if len(embedding_ME) < 2:
    raise UserError("A target of one text cannot be compared with itself.")
  tokens_M = np.concatenate([one.tokens.pairs_N for one in parts])
  target_MK = np.zeros((len(tokens_M), len(placed.mass_K)))
  target_MK[np.arange(len(tokens_M)), placed.of(embedding_ME)] = tokens_M
  return presence.of(
    target_MK, placed.mass_K, embedding_ME, data.pool.embedding_NE
  )


def recipes_differ(old: str, new: str) -> int:
  """Prints what changed from one recipe to another.

  Args:
    old: workdir of a job that has ended.
    new: and of another.
  Raises:
    UserError: one of them has no recipe.
  """
  one, two = map(recipes.load, (old, new))
  moved, common = _moved(one, two)
  answers.show_changes(
    {
      "facts": [
        (name, *(_fact(x, name) for x in (one, two))) for name in _FACTS
      ],
      "settings": [
        change
        for change in store.differences(one.data["config"], two.data["config"])
        if change[0] not in workdirs.OF_HOST
      ],
      "shares": _share_changes(one, two),
      "leaves": _leaf_changes(one, two),
      "moved": moved,
      "common": common,
    }
  )
  return 0


_FACTS = ("method", "targets", "corpus_digest", "budget", "kept share")


def _fact(recipe: recipes.Recipe, name: str) -> str:
  if name == "budget":
    budget = recipe.budget
    return f"{budget.tokens:,} tokens, weights up to {budget.max_weight:.4g}"
  if name == "kept share":
    told = recipe.data.get("concentration", {})
    return f"{told['share']:.1%}" if "share" in told else "unknown"
  value = recipe.data[name]
  return ", ".join(value) if isinstance(value, list) else str(value)


Changes = list[tuple[str, float, float]]


def _share_changes(
  one: recipes.Recipe, two: recipes.Recipe
) -> dict[str, Changes]:
  """Of the groups of documents that both recipes tell of."""
  old, new = (x.data.get("token_shares", {}) for x in (one, two))
  found: dict[str, Changes] = {}
  for name in (name for name in old if name in new):
    before, after = (
      {row["name"]: row["recipe"] for row in x[name]} for x in (old, new)
    )
    groups = dict.fromkeys((*before, *after))
    found[name.replace("_", " ")] = [
      (group, before.get(group, 0.0), after.get(group, 0.0)) for group in groups
    ]
  return found


def _leaf_changes(one: recipes.Recipe, two: recipes.Recipe) -> Changes:
  """Weights of leaves, where both recipes have the same ones."""
  old, new = one.partition, two.partition
  if old is None or new is None or not domains.are_alike(old, new):
    return []
  nodes = [{node["path"]: node for node in x.data["nodes"]} for x in (one, two)]
  # A leaf without a document is no node.
  return [
    (nodes[0][path]["name"], *(of[path]["weight"] for of in nodes))
    for path in partitions.leaf_paths(old)
    if all(path in of for of in nodes)
  ]


def _moved(
  one: recipes.Recipe, two: recipes.Recipe
) -> tuple[float | None, int]:
  """(share of the tokens that go to other documents, documents that both weigh)."""
  old, new = (_weights(x.folder) for x in (one, two))
  _, at_old, at_new = np.intersect1d(old[0], new[0], return_indices=True)
  if not len(at_old):
    return None, 0
  tokens_N, old_N, new_N = old[2][at_old], old[1][at_old], new[1][at_new]
  return shares.moved(tokens_N, old_N, new_N), len(at_old)


def _weights(folder: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """(hashes of ids, weights, tokens) of the documents of a recipe's corpus."""
  keys, weights, tokens = [], [], []
  for table in _documents(folder, "document_id", "weight", "tokens"):
    keys.append(sampler.document_keys(table["document_id"].to_pylist()))
    weights.append(table["weight"].to_numpy())
    tokens.append(table["tokens"].to_numpy())
  return tuple(map(np.concatenate, (keys, weights, tokens)))  # type: ignore


def _documents(folder: Path, *names: str) -> Iterator[Any]:
  """documents.parquet, a row group at a time."""
  import pyarrow as pa
  import pyarrow.parquet as pq

  path = folder / assign.DOCUMENTS_FILE
  try:
    file = pq.ParquetFile(path)
    for group in range(file.num_row_groups):
      yield file.read_row_group(group, columns=list(names))
  except (OSError, pa.ArrowException) as error:
    raise UserError(
      f"{path}: wanted the weights of a job that has ended, came none that can be "
      f"read: {error}"
    ) from error


def leaf(config: Any, workdir: str, path: str, output: str) -> int:
  """Writes the documents of a leaf with their weights, in the corpus's order.

  Args:
    config: of the job.
    workdir: of the job, which has ended.
    path: of the leaf, or of a node above leaves; "all": every document.
    output: the file, .jsonl or .jsonl.zst, in a folder that there is.
  Raises:
    UserError: there is no such leaf, or the corpus is another one now.
  """
  folder = mirror.reading(workdir)
  write = _writer(output)
  recipe = recipes.load(folder)
  _require_leaf(recipe, path)
  plans.check_recipe(config)

  def story(job: Job) -> Show:
    data = jobs.prepared(job, trained=False)
    if data.digest != recipe.data["corpus_digest"]:
      raise UserError(
        f"The config's corpus is not that of {folder}: its hash is {data.digest}, "
        f"wanted {recipe.data['corpus_digest']}. Give the settings of the job."
      )
    count = [0]
    lines = _lines(folder, data, path, count)
    try:
      written = write(Path(output), lines)
    except OSError as error:
      raise UserError(
        f"Cannot write {output}: {error.strerror or error}. Choose another --output."
      ) from error
    return lambda: print(f"wrote {written}, {count[0]:,} documents")

  with tempfile.TemporaryDirectory() as place:
    return jobs.run(story, config, Path(place))


def _writer(output: str) -> Callable[[Path, Iterable[bytes]], Path]:
  """What writes the file, by its ending."""
  ending = next((one for one in _WRITERS if output.endswith(one)), None)
  if ending is None:
    raise UserError(
      f"--output must end in {' or '.join(_WRITERS)}, came {output}."
    )
  if not (folder := Path(output).parent).is_dir():
    raise UserError(f"--output: there is no folder {folder}; make it first.")
  return _WRITERS[ending]


_WRITERS = {".jsonl": files.write_chunks, ".jsonl.zst": files.write_zst}


def _require_leaf(recipe: recipes.Recipe, path: str) -> None:
  if recipe.partition is None and path != "all":
    raise UserError(
      f"The recipe of {recipe.folder} weighs single documents and has no leaves; ask "
      'for "all".'
    )
  known = [node["path"] for node in recipe.data["nodes"] if node["path"]]
  if path not in (*known, "all"):
    raise UserError(
      f"No leaf or node {path!r} in the recipe of {recipe.folder}. Known: "
      f"{', '.join(known)}."
    )


def _lines(
  folder: Path, data: prepare.Prepared, path: str, count: list[int]
) -> Iterator[bytes]:
  """JSON lines of id, text, weight and leaf, shard by shard."""
  shard_texts = zip(
    data.documents.column("id"), data.documents.column("text"), strict=True
  )
  tables = _documents(folder, "document_id", "weight", "path")
  for (ids, texts), table in zip(shard_texts, tables, strict=True):
    rows = table.to_pydict()
    assert rows["document_id"] == ids, "documents in another order"
    for name, text, weight, at in zip(
      ids, texts, rows["weight"], rows["path"], strict=True
    ):
      if path == "all" or at == path or f"{at}.".startswith(f"{path}."):
        count[0] += 1
        one = {"id": name, "text": text, "weight": weight, "leaf": at}
        yield json.dumps(one, ensure_ascii=False).encode() + b"\n"
