"""A recipe on a corpus: every document's weight and leaf, and files for trainers."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cmtree_jax import embed, processes
from cmtree_jax.budget import Budget
from cmtree_jax.data import mirror, store
from cmtree_jax.data.build import prepare, texts
from cmtree_jax.embed import of_proxy
from cmtree_jax.jobs import build, known, reported
from cmtree_jax.jobs import job as jobs
from cmtree_jax.jobs import workdir as workdirs
from cmtree_jax.jobs.job import Job, Show
from cmtree_jax.methods.base import DocumentWeights
from cmtree_jax.recipe import assign, export, recap
from cmtree_jax.recipe import partition as partitions
from cmtree_jax.recipe import recipe as recipes
from cmtree_jax.report import describe, tables
from cmtree_jax.types import UserError

EXPORT_FOLDER = "export"  # in the workdir


def story(job: Job) -> Show | None:
  """Applies a recipe to a corpus that may outgrow the one it was learned on."""
  config, folder = job.config, mirror.reading(job.config.recipe.apply)
  recipe = recipes.load(folder)
  if told := recipe.data.get("proxy_views"):
    raise UserError(of_proxy.refusal(told["flops_per_token"]))
  require_readers(recipe.data["config"], folder, config)
  if recipe.partition is None:
    export.require_leaves(config.export.formats)
  data = jobs.prepared(job, learned=folder)
  job.reporter.say(f"Recipe of {folder}. {recipe.budget.text()}")
  nodes = [describe.Node(**node) for node in recipe.data["nodes"]]
  value_N = np.full(len(data.pool), np.nan, np.float32)
  pool = known.texts_of(job, data)[texts.POOL]

  def written() -> Show:
    # Exports name the tokenizer, here.
    files = recipes.save_readers(job.workdir, learned=folder)
    files += hand_over(
      recipe.weights_of(data, pool, job.reporter.say),
      nodes,
      job,
      data,
      value_N,
      method=recipe.data["method"],
      learned_for=recipe.budget,
    )
    files += reported.write(job, data)
    return lambda: tables.show_files(files)

  return processes.by_first(written)


def require_readers(
  made_with: Mapping[str, Any], folder: Path, config: Any
) -> None:
  """What reads documents comes with a recipe, and the config must agree.

  Args:
    made_with: the config of the job that made the recipe or schedule.
    folder: of that.
    config: of this job.
  Raises:
    UserError: for the first setting that differs.
  """
  for block, field in _READERS:
    made, came = made_with[block], config[block][field]
    # Recipes that were made before there was the setting have its default.
    wanted = made.get(field, _BEFORE.get(field))
    wanted = tuple(wanted) if isinstance(came, tuple) else wanted
    if came != wanted:
      raise UserError(
        f"config.{block}.{field} must be {wanted!r} as in the recipe of "
        f"{folder}, came {came!r}."
      )


_READERS = (
  ("tokenizer", "kind"),
  ("embedding", "kind"),
  ("embedding", "views"),
)
_BEFORE = {"views": embed.Plan().views}


def hand_over(
  weights: partitions.Partition | DocumentWeights,
  nodes: Sequence[describe.Node],
  job: Job,
  data: prepare.Prepared,
  value_N: np.ndarray,
  *,
  method: str,
  learned_for: Budget,
  save: Callable[[], list[Path]] = list,
) -> list[Path]:
  """Writes documents.parquet and the exports that the config asks for.

  Both have weights under the cap of a budget: the job's own, and that of the export.

  Args:
    weights: of leaves, or of the corpus's own documents.
    nodes: of the leaves.
    job: whose workdir gets the files.
    data: the corpus.
    value_N: measured values of the documents; NaN where never measured.
    method: whose weights they are.
    learned_for: the budget of the job that made the recipe.
    save: writes the recipe, before exports that may find no room.
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
  budget = build.budget(config, data)
  capped = assign.join(assigned, documents, max_weight=budget.max_weight)
  tell_cap(capped, job)
  files = [documents, *save()]
  if config.export.formats:
    names = describe.leaf_names(weights, nodes)
    corpus = assign.corpus(assigned, data, names, job.workers)
    facts = export_facts(
      job, data, assigned, method=method, learned_for=learned_for
    )
    files += export_to(corpus, job, build.export_budget(config, data), facts)
  store.remove(workdir / "assigned")
  return files


def export_facts(
  job: Job,
  data: prepare.Prepared,
  assigned: Sequence[Path],
  *,
  method: str,
  learned_for: Budget,
) -> dict[str, Any]:
  """What the manifest of an export says of the recipe, or of the schedule."""
  return {
    "config_digest": workdirs.digest_of_results(job.config),
    "corpus_digest": data.digest,
    "recipe_digest": assign.digest(assigned),
    "method": method,
    "learned_for": learned_for.to_json(),
  }


def export_to(
  corpus: export.Corpus, job: Job, budget: Budget, facts: dict[str, Any]
) -> list[Path]:
  """Writes the formats of the config, and tells what their budget did."""
  chosen, workdir = job.config.export, job.workdir
  folder = workdir / EXPORT_FOLDER
  tokenizer = workdir / prepare.TOKENIZER_FILE
  options = export.Options(
    budget=budget,
    seed=job.config.seed,
    tokenizer=chosen.tokenizer
    or _address(tokenizer)
    or str(tokenizer.resolve()),
    root=export_root(job.config, workdir),
  )
  files = export.write(folder, chosen.formats, corpus, options, facts)
  job.reporter.say(export.told(folder))
  return files


def export_root(config: Any, workdir: Path) -> str:
  """Where trainers find the exports; "" where the job writes them."""
  return config.export.root or _address(workdir / EXPORT_FOLDER)


def _address(path: Path) -> str:
  """Of what is kept at an address; "" where it is kept here."""
  return mirror.addressed(str(path)) if mirror.of(path) else ""


def tell_cap(capped: recap.Recapped, job: Job) -> None:
  """Tells what the budget's cap did to the weights of documents, if it did."""
  if capped.moved > _TOLD:
    job.reporter.say(f"{assign.DOCUMENTS_FILE}: {capped.text()}")


_TOLD = 5e-5  # of the training tokens; less is rounding
