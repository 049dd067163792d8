"""The story of a job, top to bottom: data, method, loop, evaluation, recipe."""

import math
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import optax

from cmtree_jax import config as configs
from cmtree_jax import engine, export, loops, optim, prepare, search, sharding
from cmtree_jax import recipe as recipes
from cmtree_jax.batch import stack_rows
from cmtree_jax.bilevel import HYPERGRADS, UNROLLING, memory, problem
from cmtree_jax.bilevel import cost as hypergradient_cost
from cmtree_jax.checkpoint import (
  Checkpointer,
  Interrupted,
  StopFlag,
  stop_on_signal,
)
from cmtree_jax.data import packing, sampler
from cmtree_jax.embed import kmeans
from cmtree_jax.evaluate import perplexity, results
from cmtree_jax.ledger import GRADIENT, Cost
from cmtree_jax.methods import METHODS
from cmtree_jax.methods.base import Facts, Method, Signals, Weights
from cmtree_jax.proxy import loss as proxy_loss
from cmtree_jax.proxy import model as proxy_model
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
  begin = time.monotonic()
  check(config)
  export.claim_workdir(workdir, config, overwrite=overwrite)
  if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    compiled = str(cache_dir(config) / "xla")
    jax.config.update("jax_compilation_cache_dir", compiled)
  with Reporter(total_work(config)) as reporter, stop_on_signal() as stop:
    job = Job(config, workdir, reporter, stop)
    try:
      data = prepare.prepare(
        config.data,
        config.tokenizer,
        config.embedding,
        cache_dir=cache_dir(config),
        progress=reporter.say,
      )
      for note in data.corpus.notes:
        reporter.say(note)
      facts = facts_of(config, data)
      partition = kmeans.fit(
        facts.sample_NE,
        num_clusters=facts.num_clusters,
        seed=config.seed,
        mass_N=facts.sample_mass_N,
      )
      found = {
        name: weigh(name, job, data, facts, partition.center_LE)
        for name in recipe_names(config)
      }
      bpb = train_and_score(found, job, data)
    except Interrupted:
      reporter.say("Interrupted and saved. Run the same command to go on.")
      return INTERRUPTED
  comparison = results.compare(
    bpb,
    recipes=list(found),
    targets=list(data.targets),
    effective_sample_size=[
      effective_sample_size(one.log_w_N, data.pool.tokens.mass_N)
      for one in found.values()
    ],
    search=[one.cost for one in found.values()],
    final=final_cost(config, data.vocab_size),
  )
  chosen = found[config.method]
  leaves = recipes.partition_of(chosen.weights, partition.center_LE)
  nodes = describe.nodes(
    leaves,
    data.pool.embedding_NE,
    data.pool.tokens.mass_N,
    [document.text for document in data.corpus.documents],
    data.pool.ids,
  )
  files = export.write_results(
    workdir,
    config=config,
    data=data,
    partition=leaves,
    nodes=nodes,
    comparison=comparison,
    history=chosen.history,
    value_N=chosen.value_N,
    cost=chosen.cost,
  )
  summary = summarize(config, data, leaves, partition.center_LE, begin)
  files.append(export.write_summary(workdir, summary))
  report.show(nodes, comparison, summary, files)
  return 0


class Job(NamedTuple):
  """What every stage needs beside its data."""

  config: Any
  workdir: Path
  reporter: Reporter
  stop: StopFlag

  def checkpointer(self, stage: str) -> Checkpointer:
    """The checkpoints of one stage."""
    return Checkpointer(self.workdir / "checkpoints" / stage)


class Found(NamedTuple):
  """A method's result on the pool."""

  weights: Weights
  log_w_N: np.ndarray  # float64
  value_N: np.ndarray  # mean measured value of a document, NaN if never probed
  cost: Cost  # of the search
  history: list[dict[str, float]]  # one row per round


def cache_dir(config: Any) -> Path:
  """Where downloads, prepared corpora and compiled programs are kept."""
  return Path(config.cache_dir).expanduser()


def recipe_names(config: Any) -> list[str]:
  """The method first, then what it is compared with; natural always."""
  names = (config.method, "natural", *config.baselines)
  return list(dict.fromkeys(names))


def check(config: Any) -> None:
  """Settings that contradict each other are refused before any work."""
  unknown = [name for name in recipe_names(config) if name not in METHODS]
  if unknown:
    raise UserError(
      f"Unknown method {unknown[0]!r}. Known: {', '.join(sorted(METHODS))}."
    )
  for preset in (config.proxy.preset, config.final.preset):
    if preset not in proxy_model.PRESETS:
      raise UserError(
        f"Unknown proxy preset {preset!r}. Known: "
        f"{', '.join(proxy_model.PRESETS)}."
      )
  rows = config.batch.rows
  for block, field, unit in (
    ("search", "outer_rows", rows),
    ("search", "probe_rows", rows),
    ("search", "validation_rows", rows),
    ("final", "steps", config.final.steps_per_call),
  ):
    value = config[block][field]
    if value < unit or value % unit:
      raise UserError(
        f"config.{block}.{field} = {value} must be a multiple of {unit}; "
        f"try {max(value // unit, 1) * unit}."
      )
  if config.optimizer.warmup_steps >= config.final.steps:
    raise UserError(
      f"config.optimizer.warmup_steps = {config.optimizer.warmup_steps} must "
      f"be below config.final.steps = {config.final.steps}."
    )
  if config.hypergradient.estimator not in HYPERGRADS:
    raise UserError(
      f"Unknown hypergradient {config.hypergradient.estimator!r}. Known: "
      f"{', '.join(HYPERGRADS)}."
    )
  try:
    search_plan(config)
  except ValueError as error:
    raise UserError(f"config.search.window: {error}") from error
  try:
    problem.check_optimizer(optimizer_of(config, total_steps=None))
  except ValueError as error:
    raise UserError(f"config.optimizer: {error}") from error
  check_mesh(config)
  if config.final.seeds < 1:
    raise UserError("config.final.seeds must be at least 1.")


def check_mesh(config: Any) -> None:
  """Every axis must divide what it holds."""
  try:
    axes = sharding.make_mesh(**config.mesh).shape
    devices = final_mesh(config).shape[sharding.DATA]
  except ValueError as error:
    raise UserError(f"config.mesh: {error}") from error
  for what, size, parts in (
    ("config.batch.rows", config.batch.rows, devices),
    ("config.evaluate.rows", config.evaluate.rows, devices),
    ("config.search.population", config.search.population, axes["population"]),
    *(
      (
        f"The heads of {preset}",
        proxy_model.PRESETS[preset]["heads"],
        axes["model"],
      )
      for preset in (config.proxy.preset, config.final.preset)
    ),
  ):
    if size % parts:
      raise UserError(
        f"{what} = {size} must be a multiple of the {parts} devices that share "
        f"it (config.mesh)."
      )


def facts_of(config: Any, data: prepare.Prepared) -> Facts:
  """What methods may know beforehand."""
  pool, rng = data.pool, np.random.default_rng([config.seed, 0])
  size = min(config.partition.sample_documents, len(pool.ids))
  chosen = np.sort(rng.choice(len(pool.ids), size, replace=False))
  mass_N = pool.tokens.mass_N[chosen]
  train = [splits["train"] for splits in data.targets.values()]
  target_mass = np.concatenate([one.tokens.mass_N for one in train])
  budget = config.final.steps * config.batch.rows * config.batch.row_tokens
  epochs = budget / int(pool.tokens.pairs_N.sum())
  return Facts(
    max_weight=max(1.0, config.mixture.max_epochs / epochs),
    num_clusters=min(config.partition.num_clusters, size),
    horizon=config.final.steps / config.search.window,
    sample_NE=pool.embedding_NE[chosen],
    sample_mass_N=(mass_N / mass_N.sum()).astype(np.float32),
    target_NE=np.concatenate([one.embedding_NE for one in train]),
    target_mass_N=(target_mass / len(train)).astype(np.float32),
  )


def weigh(
  name: str,
  job: Job,
  data: prepare.Prepared,
  facts: Facts,
  center_LE: np.ndarray,
) -> Found:
  """Runs one method by the loop that it declares."""
  method = make_method(name, job.config)
  if method.loop == "train":
    return learn(method, job, data, facts)
  pool = all_signals(data.pool, center_LE)
  targets = [
    all_signals(splits["train"], center_LE)._replace(
      mass_B=np.zeros(len(splits["train"].ids), np.float32),
      target_mass_B=splits["train"].tokens.mass_N / len(data.targets),
    )
    for splits in data.targets.values()
  ]
  joined = Signals(
    *(
      None if column[0] is None else np.concatenate(column)
      for column in zip(pool, *targets, strict=True)
    )
  )
  weights = loops.pass_over_corpus(
    method, facts, joined, batch=job.config.search.sample_documents
  )
  log_w_N = np.asarray(weights.log_w(pool), np.float64)
  return Found(weights, log_w_N, np.full(len(log_w_N), np.nan), Cost(), [])


def make_method(name: str, config: Any) -> Method:
  """A method with the options of its config block (`tree` is cmtree's)."""
  block = {"cmtree": "tree"}.get(name, name)
  options = dict(config[block]) if block in config else {}
  try:
    return METHODS[name](**options)
  except ValueError as error:
    raise UserError(f"config.{block}: {error}") from error


def all_signals(documents: prepare.DocumentSet, center_LE) -> Signals:
  """What a pass shows of pool documents."""
  mass_N = documents.tokens.mass_N.astype(np.float32)
  return Signals(
    mass_B=mass_N,
    target_mass_B=np.zeros_like(mass_N),
    cluster_B=kmeans.assign(documents.embedding_NE, center_LE),
    embedding_BE=documents.embedding_NE,
  )


def learn(
  method: Method, job: Job, data: prepare.Prepared, facts: Facts
) -> Found:
  """Learns weights with proxies in training."""
  config = job.config
  proxy = proxy_of(config.proxy.preset, config, data.vocab_size)
  optimizer = optimizer_of(config, total_steps=None)
  options = estimator_options(config, proxy, optimizer, job.reporter.say)
  checkpointer = job.checkpointer("search")
  result = search.train_proxy(
    method,
    facts,
    search_data(config, data),
    search_plan(config, **options),
    engine.make(
      proxy,
      optimizer,
      mesh=sharding.make_mesh(**config.mesh),
      estimator=config.hypergradient.estimator,
      options=options,
    ),
    seed=config.seed,
    flops_per_token=proxy.flops_per_token(config.batch.row_tokens),
    checkpointer=checkpointer,
    stop=job.stop,
    advance=job.reporter.advance,
  )
  checkpointer.close()
  signals = Signals(
    mass_B=data.pool.tokens.mass_N.astype(np.float32),
    embedding_BE=data.pool.embedding_NE,
  )
  log_w_N = np.asarray(result.weights.log_w(signals), np.float64)
  return Found(
    result.weights, log_w_N, result.value_N, result.cost, result.history
  )


def estimator_options(
  config: Any,
  proxy: proxy_model.ProxyConfig,
  optimizer: optax.GradientTransformation,
  say: Callable[[str], None],
) -> dict[str, Any]:
  """What of a window is stored, chosen by the memory that it may take."""
  name, budget = (
    config.hypergradient.estimator,
    config.hypergradient.memory_bytes,
  )
  if name not in UNROLLING:
    return {}
  shape = jax.eval_shape(
    lambda: problem.init_inner(
      proxy_loss.init(proxy_model.Proxy(proxy), jax.random.key(0)), optimizer
    )
  )
  try:
    policy, needed = memory.choose(
      shape,
      optimizer,
      num_steps=config.search.window,
      budget_bytes=budget,
    )
  except ValueError as error:
    raise UserError(f"config.hypergradient.memory_bytes: {error}") from error
  say(
    f"Hypergradient: {name}, policy {policy}: {needed / 1e6:,.0f} MB of "
    f"{budget / 1e6:,.0f} MB for a window of {config.search.window} steps."
  )
  return {"policy": policy}


def search_plan(config: Any, **options: Any) -> search.SearchPlan:
  """The config's search block, with the batch's rows and the estimator's cost."""
  fields = set(search.SearchPlan._fields) - {"rows", "cost"}
  chosen = {name: config.search[name] for name in fields}
  cost = hypergradient_cost.window(
    config.hypergradient.estimator, num_steps=config.search.window, **options
  )
  return search.SearchPlan(rows=config.batch.rows, cost=cost, **chosen)


def search_data(config: Any, data: prepare.Prepared) -> search.SearchData:
  """Samplers and frozen sets of a search."""
  row_tokens, seed = config.batch.row_tokens, config.seed
  pool = sampler.make(
    data.pool.tokens,
    sampler.document_keys(data.pool.ids),
    row_tokens=row_tokens,
    seed=seed,
  )
  train, train_weight_N, train_scale_N = _targets(data, "train", config)
  held, held_weight_N, held_scale_N = _targets(data, "validation", config)
  begin = held.start(held.init(), held_weight_N)
  _, rows = held.draw(begin, config.search.validation_rows)
  batches = stack_rows(rows, config.batch.rows)
  scale = held_scale_N[batches.document_BT] / batches.document_BT.size
  return search.SearchData(
    pool=pool,
    embedding_NE=data.pool.embedding_NE,
    mass_N=data.pool.tokens.mass_N,
    sample_size=config.search.sample_documents,
    targets=train,
    target_weight_N=train_weight_N,
    target_scale_N=train_scale_N,
    validation=(batches, scale.astype(np.float32)),
  )


def _targets(data, split, config):
  """All targets' documents of a split: (sampler, weights, bits per byte).

  Every target gives the same number of tokens, so the mean of a token's nats
  times its bits per byte is the mean of the targets' bits per byte.
  """
  parts = [splits[split] for splits in data.targets.values()]
  tokens = packing.join([part.tokens for part in parts])
  sizes = [len(part.ids) for part in parts]
  pairs = [part.tokens.pairs_N.sum() for part in parts]
  num_bytes = [part.tokens.bytes_N.sum() for part in parts]
  weight_N = np.repeat([1.0 / p for p in pairs], sizes)
  scale_N = np.repeat(
    [p / (b * math.log(2)) for p, b in zip(pairs, num_bytes, strict=True)],
    sizes,
  )
  made = sampler.make(
    tokens,
    sampler.document_keys([i for part in parts for i in part.ids]),
    row_tokens=config.batch.row_tokens,
    seed=config.seed,
  )
  return made, weight_N, scale_N


def train_and_score(
  found: dict[str, Found], job: Job, data: prepare.Prepared
) -> np.ndarray:
  """Final training of every recipe and seed: BPB [recipes, seeds, targets]."""
  config = job.config
  batch = config.batch
  eval_sets = [
    perplexity.eval_set(
      splits["test"].tokens,
      splits["test"].ids,
      max_tokens=config.evaluate.max_tokens,
      rows=config.evaluate.rows,
      row_tokens=batch.row_tokens,
    )
    for splits in data.targets.values()
  ]
  pool = sampler.make(
    data.pool.tokens,
    sampler.document_keys(data.pool.ids),
    row_tokens=batch.row_tokens,
    seed=0,
  )
  samplers = [
    pool._replace(seed=1000 + seed) for seed in range(config.final.seeds)
  ]
  final = config.final
  checkpointer = job.checkpointer("final")
  bpb = loops.mixture_runs(
    {name: one.log_w_N for name, one in found.items()},
    samplers,
    eval_sets,
    loops.RunPlan(
      final.steps, batch.rows, final.steps_per_call, final.calls_per_save
    ),
    engine.make(
      proxy_of(final.preset, config, data.vocab_size),
      optimizer_of(config, total_steps=final.steps),
      mesh=final_mesh(config),
    ),
    checkpointer=checkpointer,
    stop=job.stop,
    advance=job.reporter.advance,
  )
  checkpointer.close()
  return bpb


def final_mesh(config: Any) -> sharding.Mesh:
  """All devices on one model: those of the population divide its documents."""
  axes = sharding.make_mesh(**config.mesh).shape
  data = axes[sharding.POPULATION] * axes[sharding.DATA]
  return sharding.make_mesh(data=data, model=axes[sharding.MODEL])


def proxy_of(preset: str, config: Any, vocab_size: int):
  """The model of a preset with the config's number format."""
  return proxy_model.from_preset(
    preset, vocab_size=vocab_size, dtype=config.proxy.dtype
  )


def optimizer_of(config: Any, *, total_steps: int | None):
  """The optimizer block; final runs decay, searching proxies do not."""
  return optim.adamw(total_steps=total_steps, **config.optimizer)


def final_cost(config: Any, vocab_size: int) -> Cost:
  """Of one final training run."""
  model = proxy_of(config.final.preset, config, vocab_size)
  batch = config.batch
  tokens = config.final.steps * batch.rows * batch.row_tokens
  return Cost().plus(tokens, GRADIENT, model.flops_per_token(batch.row_tokens))


def total_work(config: Any) -> float:
  """Work of the whole job in training rows, for the estimate of time left."""
  final = config.final
  runs = len(recipe_names(config)) * final.seeds
  work = float(runs * final.steps * config.batch.rows)
  if any(METHODS[name]().loop == "train" for name in recipe_names(config)):
    work += search.search_work(search_plan(config))
  return work


def effective_sample_size(log_w_N: np.ndarray, mass_N: np.ndarray) -> float:
  """Share of the corpus that the weights keep in effect."""
  w_N = np.exp(log_w_N)
  return float((mass_N @ w_N) ** 2 / (mass_N @ w_N**2))


def summarize(
  config: Any,
  data: prepare.Prepared,
  leaves: recipes.Partition,
  center_LE: np.ndarray,
  begin: float,
) -> dict[str, Any]:
  """What is worth knowing of the job as a whole: summary.json."""
  summary = {
    "wall_seconds": round(time.monotonic() - begin, 1),
    "peak_rss_bytes": export.peak_rss_bytes(),
    "nmi_source": {},
    "config_digest": configs.digest(config),
    "corpus_digest": data.digest,
    "git_commit": export.git_commit(),
    "documents": len(data.pool.ids),
    "tokens": int(data.pool.tokens.pairs_N.sum()),
    "overlap": data.overlap,
    "device": str(jax.devices()[0].device_kind),
  }
  if data.corpus.labels is not None:
    sources = [label.source for label in data.corpus.labels]
    leaf_N = np.argmax(leaves.log_p_leaf(data.pool.embedding_NE), axis=1)
    cluster_N = kmeans.assign(data.pool.embedding_NE, center_LE)
    same = kmeans.fit(
      data.pool.embedding_NE,
      num_clusters=math.prod(leaves.branching),
      seed=config.seed,
    )
    summary["nmi_source"] = {
      config.method: results.nmi(leaf_N, sources),
      "kmeans": results.nmi(cluster_N, sources),
      "kmeans_same_leaves": results.nmi(
        kmeans.assign(data.pool.embedding_NE, same.center_LE), sources
      ),
    }
  return summary
