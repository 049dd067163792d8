"""A recipe on a corpus: every document's weight and leaf, and files for trainers."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from cmtree_jax import config as configs
from cmtree_jax.data import store
from cmtree_jax.data.build import prepare
from cmtree_jax.jobs import job as jobs
from cmtree_jax.jobs.job import Job, Show
from cmtree_jax.methods.base import DocumentWeights
from cmtree_jax.recipe import assign, export
from cmtree_jax.recipe import partition as partitions
from cmtree_jax.recipe import recipe as recipes
from cmtree_jax.report import describe, tables
from cmtree_jax.types import UserError


def story(job: Job) -> Show:
  """Applies a recipe to a corpus that may outgrow the one it was learned on."""
  config, folder = job.config, Path(job.config.recipe.apply)
  recipe = recipes.load(folder)
  for block, field in (("tokenizer", "kind"), ("embedding", "kind")):
    wanted, came = recipe.data["config"][block][field], config[block][field]
    if came != wanted:
      raise UserError(
        f"config.{block}.{field} must be {wanted!r} as in the recipe of "
        f"{folder}, came {came!r}."
      )
  if recipe.partition is None:
    export.require_leaves(config.export.formats)
  data = jobs.prepared(job, learned=folder)
  nodes = [describe.Node(**node) for node in recipe.data["nodes"]]
  value_N = np.full(len(data.pool), np.nan, np.float32)
  files = hand_over(recipe.weights_of(data), nodes, job, data, value_N)
  return lambda: tables.show_files(files)


def hand_over(
  weights: partitions.Partition | DocumentWeights,
  nodes: Sequence[describe.Node],
  job: Job,
  data: prepare.Prepared,
  value_N: np.ndarray,
) -> list[Path]:
  """Writes documents.parquet and the exports that the config asks for.

  Args:
    weights: of leaves, or of the corpus's own documents.
    nodes: of the leaves.
    job: whose workdir gets the files.
    data: the corpus.
    value_N: measured values of the documents; NaN where never measured.
  """
  config, workdir = job.config, job.workdir
  assigned = assign.assign(
    weights,
    data,
    workdir / "assigned",
    job.workers,
    harden=config.recipe.harden,
    value_N=value_N,
  )
  documents = workdir / assign.DOCUMENTS_FILE
  assign.join(assigned, documents)
  files = [documents]
  if config.export.formats:
    names = describe.leaf_names(weights, nodes)
    files += export.write(
      workdir / "export",
      config.export.formats,
      assign.corpus(assigned, data, names, job.workers),
      export.Options(
        token_budget=config.export.tokens
        or int(data.pool.tokens.pairs_N.sum()),
        seed=config.seed,
        tokenizer=config.export.tokenizer
        or str(workdir / prepare.TOKENIZER_FILE),
        root=config.export.root,
      ),
      facts={
        "config_digest": configs.digest(config),
        "corpus_digest": data.digest,
      },
    )
  store.remove(workdir / "assigned")
  return files
