"""The story of a job, top to bottom: data, method, loop, evaluation, recipe."""

import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import optax

from cmtree_jax import (
  assign,
  engine,
  export,
  loops,
  optim,
  prepare,
  search,
  sharding,
  workers,
)
from cmtree_jax import config as configs
from cmtree_jax import recipe as recipes
from cmtree_jax import workdir as workdirs
from cmtree_jax.batch import stack_rows
from cmtree_jax.bilevel import HYPERGRADS, UNROLLING, memory, problem
from cmtree_jax.bilevel import cost as hypergradient_cost
from cmtree_jax.checkpoint import (
  Checkpointer,
  Interrupted,
  StopFlag,
  stop_on_signal,
)
from cmtree_jax.data import packing, sampler, store
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


class Job(NamedTuple):
  """What every stage needs beside its data."""

  config: Any
  workdir: Path
  reporter: Reporter
  stop: StopFlag

  @property
  def workers(self) -> workers.Engine:
    """Where work on documents is done."""
    engine = self.config.engine
    return workers.Engine(
      engine.name, tuple(engine.flags), self.stop.check, self.reporter.advance
    )

  def checkpointer(self, stage: str) -> Checkpointer:
    """The checkpoints of one stage."""
    return Checkpointer(self.workdir / "checkpoints" / stage)


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
  check(config)
  workdirs.claim_workdir(workdir, config, overwrite=overwrite)
  if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    compiled = str(cache_dir(config) / "xla")
    jax.config.update("jax_compilation_cache_dir", compiled)
  job = apply if config.recipe.apply else learn_recipe
  with Reporter(total_work(config)) as reporter, stop_on_signal() as stop:
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
  rows = sample_rows(config, len(data.pool))
  texts = data.documents.rows(rows, "id", "text")
  nodes = describe.nodes(
    leaves, facts.sample_NE, facts.sample_mass_N, texts["text"], texts["id"]
  )
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
  summary = summarize(config, data, leaves, partition.center_LE, begin)
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
    config.data,
    config.tokenizer,
    config.embedding,
    cache_dir=cache_dir(config),
    engine=job.workers,
    progress=job.reporter.say,
    learned=learned,
  )
  for note in data.notes:
    job.reporter.say(note)
  workdirs.claim_corpus(job.workdir, data.digest)
  return data


def hand_over(
  leaves: recipes.Partition,
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
  for block, names, known in (
    ("engine.name", [config.engine.name], workers.ENGINES),
    ("export.formats", config.export.formats, export.EXPORTERS),
  ):
    for name in names:
      if name not in known:
        raise UserError(
          f"Unknown config.{block} {name!r}. Known: {', '.join(sorted(known))}."
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
  pool, chosen = data.pool, sample_rows(config, len(data.pool))
  mass_N = pool.tokens.mass_N[chosen]
  train = driving(data, "train")
  target_mass = np.concatenate([one.tokens.mass_N for one in train])
  budget = config.final.steps * config.batch.rows * config.batch.row_tokens
  epochs = budget / int(pool.tokens.pairs_N.sum())
  return Facts(
    max_weight=max(1.0, config.mixture.max_epochs / epochs),
    num_clusters=min(config.partition.num_clusters, len(chosen)),
    horizon=config.final.steps / config.search.window,
    sample_NE=pool.embedding_NE[chosen],
    sample_mass_N=(mass_N / mass_N.sum()).astype(np.float32),
    target_NE=np.concatenate([one.embedding_NE for one in train]),
    target_mass_N=(target_mass / len(train)).astype(np.float32),
  )


def driving(data: prepare.Prepared, split: str) -> list[prepare.DocumentSet]:
  """A split of the targets that drive the search; others have test texts only."""
  return [
    splits[split] for splits in data.targets.values() if len(splits["train"])
  ]


def sample_rows(config: Any, num_documents: int) -> np.ndarray:
  """Documents that stand for the corpus where not all can be held."""
  rng = np.random.default_rng([config.seed, 0])
  size = min(config.partition.sample_documents, num_documents)
  return np.sort(rng.choice(num_documents, size, replace=False))


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
    return learn(method, job, data, facts, center_LE)

  def everything():
    yield from signals_of(data.pool, center_LE)
    targets = driving(data, "train")
    for train in targets:
      mass_N = (train.tokens.mass_N / len(targets)).astype(np.float32)
      for part, rows in zip(
        signals_of(train, center_LE),
        packing.chunks(len(train), search.CHUNK),
        strict=True,
      ):
        yield part._replace(
          mass_B=np.zeros_like(part.mass_B), target_mass_B=mass_N[rows]
        )

  weights = loops.pass_over_corpus(
    method, facts, everything(), batch=job.config.search.sample_documents
  )
  log_w_N = log_w_of(weights, data.pool, center_LE)
  return Found(weights, log_w_N, np.full(len(log_w_N), np.nan), Cost(), [])


def make_method(name: str, config: Any) -> Method:
  """A method with the options of its config block (`tree` is cmtree's)."""
  block = {"cmtree": "tree"}.get(name, name)
  options = dict(config[block]) if block in config else {}
  try:
    return METHODS[name](**options)
  except ValueError as error:
    raise UserError(f"config.{block}: {error}") from error


def signals_of(
  documents: prepare.DocumentSet, center_LE: np.ndarray
) -> Iterator[Signals]:
  """What a pass shows of pool documents, chunk by chunk."""
  mass_N = documents.tokens.mass_N
  for rows in packing.chunks(len(documents), search.CHUNK):
    embedding_BE = np.asarray(documents.embedding_NE[rows])
    mass_B = mass_N[rows].astype(np.float32)
    yield Signals(
      mass_B=mass_B,
      target_mass_B=np.zeros_like(mass_B),
      cluster_B=kmeans.assign(embedding_BE, center_LE),
      embedding_BE=embedding_BE,
    )


def log_w_of(
  weights: Weights, documents: prepare.DocumentSet, center_LE: np.ndarray
) -> np.ndarray:
  """Log-weights of all documents, float64."""
  return np.concatenate(
    [
      np.asarray(weights.log_w(signals), np.float64)
      for signals in signals_of(documents, center_LE)
    ]
  )


def learn(
  method: Method,
  job: Job,
  data: prepare.Prepared,
  facts: Facts,
  center_LE: np.ndarray,
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
  log_w_N = log_w_of(result.weights, data.pool, center_LE)
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
    data.pool.tokens, data.pool.key_N, row_tokens=row_tokens, seed=seed
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
  parts = driving(data, split)
  tokens = packing.join([part.tokens for part in parts])
  sizes = [len(part) for part in parts]
  pairs = [part.tokens.pairs_N.sum() for part in parts]
  num_bytes = [part.tokens.bytes_N.sum() for part in parts]
  weight_N = np.repeat([1.0 / p for p in pairs], sizes)
  scale_N = np.repeat(
    [p / (b * math.log(2)) for p, b in zip(pairs, num_bytes, strict=True)],
    sizes,
  )
  made = sampler.make(
    tokens,
    np.concatenate([part.key_N for part in parts]),
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
      splits["test"].key_N,
      max_tokens=config.evaluate.max_tokens,
      rows=config.evaluate.rows,
      row_tokens=batch.row_tokens,
    )
    for splits in data.targets.values()
  ]
  pool = sampler.make(
    data.pool.tokens,
    data.pool.key_N,
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
  source_N = data.documents.codes("source")
  if source_N.any():
    kept = sample_rows(config, len(data.pool))
    embedding_NE = np.asarray(data.pool.embedding_NE[kept])
    leaf_N = np.argmax(leaves.log_p_leaf(embedding_NE), axis=1)
    same = kmeans.fit(
      embedding_NE,
      num_clusters=math.prod(leaves.branching),
      seed=config.seed,
    )
    summary["nmi_source"] = {
      name: results.nmi(found_N, source_N[kept])
      for name, found_N in (
        (config.method, leaf_N),
        ("kmeans", kmeans.assign(embedding_NE, center_LE)),
        ("kmeans_same_leaves", kmeans.assign(embedding_NE, same.center_LE)),
      )
    }
  return summary
