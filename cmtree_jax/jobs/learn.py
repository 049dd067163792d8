"""The story of a job, top to bottom: data, method, loop, evaluation, recipe."""

import math
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from cmtree_jax import config as configs
from cmtree_jax.data import store
from cmtree_jax.data.build import prepare
from cmtree_jax.embed import kmeans
from cmtree_jax.evaluate import angles, concentration, results
from cmtree_jax.evaluate import sets as frozen_sets
from cmtree_jax.jobs import build as settings
from cmtree_jax.jobs import search as learn
from cmtree_jax.jobs import workdir as workdirs
from cmtree_jax.jobs.search import Found, Job
from cmtree_jax.loops import final, fleet
from cmtree_jax.loops.checkpoint import Interrupted, stop_on_signal
from cmtree_jax.proxy import engine
from cmtree_jax.recipe import assign, export
from cmtree_jax.recipe import partition as partitions
from cmtree_jax.recipe import recipe as recipes
from cmtree_jax.recipe.domains import Domains
from cmtree_jax.report import describe
from cmtree_jax.report import text as report
from cmtree_jax.report.progress import Reporter
from cmtree_jax.types import UserError

INTERRUPTED = 143  # 128 + SIGTERM: not finished, may be continued


def run(config: Any, workdir: Path, *, overwrite: bool = False) -> int:
  """Runs one job to its end, or continues it; returns the exit status.

  Args:
    config: locked; see configs/default.py.
    workdir: gets config.json, checkpoints and all results.
    overwrite: throws away what another job left in `workdir`.
  Raises:
    UserError: a setting or the data is wrong; nothing is lost.
    Fault: a loss is not finite, after saving.
  """
  settings.check(config)
  workdirs.claim_workdir(workdir, config, overwrite=overwrite)
  if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    compiled = str(settings.cache_dir(config) / "xla")
    jax.config.update("jax_compilation_cache_dir", compiled)
  job = apply if config.recipe.apply else learn_recipe
  with (
    Reporter(settings.total_work(config)) as reporter,
    stop_on_signal() as stop,
  ):
    try:
      done = job(Job(config, workdir, reporter, stop))
    except Interrupted:
      reporter.say("Interrupted and saved. Run the same command to go on.")
      return INTERRUPTED
  done()
  return 0


def learn_recipe(job: Job) -> Callable[[], None]:
  """Makes a recipe and compares it with others; returns what shows the end."""
  begin = time.monotonic()
  config, workdir = job.config, job.workdir
  data = prepared(job)
  names = settings.recipe_names(config)
  parts = learn.partitions(names, job, data)
  found = {
    name: learn.weigh(
      name, job, data, parts, seed=config.seed, stage=f"search/{name}"
    )
    for name in names
  }
  bpb = train_and_score(found, job, data)
  comparison = results.compare(
    bpb,
    recipes=list(found),
    targets=list(data.targets),
    effective_sample_size=[
      concentration.effective_sample_size(one.log_w_N, data.pool.tokens.mass_N)
      for one in found.values()
    ],
    search=[one.cost for one in found.values()],
    final=settings.final_cost(config, data.vocab_size),
  )
  chosen = found[config.method]
  partition = settings.make_method(config.method, config).partition
  leaves = partitions.partition_of(chosen.weights, parts[partition].partition)
  nodes = nodes_of(leaves, config, data)
  files = workdirs.write_results(
    workdir,
    config=config,
    data=data,
    partition=leaves,
    nodes=nodes,
    comparison=comparison,
    history=chosen.history,
    cost=chosen.cost,
  )
  files += hand_over(leaves, nodes, job, data, chosen.value_N)
  summary = summarize(config, data, leaves, parts["given"], begin)
  files.append(workdirs.write_summary(workdir, summary))
  return lambda: report.show(nodes, comparison, summary, files)


def apply(job: Job) -> Callable[[], None]:
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
  data = prepared(job, learned=folder)
  nodes = [describe.Node(**node) for node in recipe.data["nodes"]]
  value_N = np.full(len(data.pool), np.nan, np.float32)
  files = hand_over(recipe.partition, nodes, job, data, value_N)
  return lambda: report.show_files(files)


def prepared(job: Job, *, learned: Path | None = None) -> prepare.Prepared:
  """The corpus of the config, with everything told that a person must know."""
  config = job.config
  data = prepare.prepare(
    settings.corpus_plan(config),
    cache_dir=settings.cache_dir(config),
    workers=job.workers,
    progress=job.reporter.say,
    learned=learned,
  )
  for note in data.notes:
    job.reporter.say(note)
  workdirs.claim_corpus(job.workdir, data.digest)
  return data


def hand_over(
  leaves: partitions.Partition,
  nodes: Sequence[describe.Node],
  job: Job,
  data: prepare.Prepared,
  value_N: np.ndarray,
) -> list[Path]:
  """Writes documents.parquet and the exports that the config asks for."""
  config, workdir = job.config, job.workdir
  assigned = assign.assign(
    leaves,
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
    names = describe.leaf_names(nodes, leaves.branching)
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


def nodes_of(
  leaves: partitions.Partition, config: Any, data: prepare.Prepared
) -> list[describe.Node]:
  """Every node of the recipe as a person reads it."""
  pool, rows = data.pool, learn.sample_rows(config, len(data.pool))
  texts = data.documents.rows(rows, "id", "text")
  mass_N = pool.tokens.mass_N[rows]
  return describe.nodes(
    leaves,
    np.asarray(pool.embedding_NE[rows]),
    mass_N / mass_N.sum(),
    texts["text"],
    texts["id"],
  )


def train_and_score(
  found: dict[str, Found], job: Job, data: prepare.Prepared
) -> np.ndarray:
  """Final training of every recipe and seed: BPB [recipes, seeds, targets]."""
  config, plan = job.config, settings.plans(job.config).final
  proxy = settings.proxy_of(plan.preset, config, data.vocab_size)
  model = fleet.Model(
    engine.make(
      proxy,
      settings.optimizer_of(config, total_steps=plan.steps),
      mesh=settings.final_mesh(config),
    ),
    proxy.flops_per_token(config.batch.row_tokens),
  )
  pool = learn.pool_sampler(data, config, seed=0)
  eval_sets = frozen_sets.scored(
    {f"{name}, test": x["test"] for name, x in data.targets.items()},
    settings.set_plan(config, max_tokens=config.evaluate.max_tokens),
    job.reporter.say,
  )
  bpb = np.zeros((len(found), plan.seeds, len(eval_sets)))
  for seed in range(plan.seeds):
    world = fleet.World(
      model, pool._replace(seed=1000 + seed), config.batch.rows
    )
    for recipe, (name, one) in enumerate(found.items()):
      job.reporter.advance(0, f"final training, seed {seed}, {name}")
      with job.session(f"final/{name}.{seed}", seed) as session:
        scores = final.run(name, one.log_w_N, eval_sets, world, plan, session)
      bpb[recipe, seed] = [score.bpb for score in scores]
  return bpb


def summarize(
  config: Any,
  data: prepare.Prepared,
  leaves: partitions.Partition,
  given: Domains,
  begin: float,
) -> dict[str, Any]:
  """What is worth knowing of the job as a whole: summary.json."""
  summary = {
    "wall_seconds": round(time.monotonic() - begin, 1),
    "peak_rss_bytes": workdirs.peak_rss_bytes(),
    "nmi_source": {},
    "config_digest": configs.digest(config),
    "corpus_digest": data.digest,
    "git_commit": workdirs.git_commit(),
    "documents": len(data.pool),
    "tokens": int(data.pool.tokens.pairs_N.sum()),
    "overlap": data.manifest["overlap"],
    "device": str(jax.devices()[0].device_kind),
  }
  source_N, names = data.documents.labels("source")
  if len(names) > 1:
    kept = learn.sample_rows(config, len(data.pool))
    embedding_NE = np.asarray(data.pool.embedding_NE[kept])
    leaf_N = np.argmax(leaves.log_p_leaf(embedding_NE), axis=1)
    same = kmeans.fit(
      embedding_NE,
      num_clusters=math.prod(leaves.branching),
      seed=config.seed,
    )
    summary["nmi_source"] = {
      name: angles.nmi(found_N, source_N[kept])
      for name, found_N in (
        (config.method, leaf_N),
        ("partition", given.domain_N[kept]),
        ("kmeans_same_leaves", kmeans.assign(embedding_NE, same.center_LE)),
      )
    }
  return summary
