"""Learns a recipe by any method: what each loop needs of config and corpus."""

import contextlib
import functools
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from cmtree_jax import sharding
from cmtree_jax.data.build import workers
from cmtree_jax.data.build.prepare import DocumentSet, Prepared
from cmtree_jax.data.draw import packing, sampler, strata
from cmtree_jax.data.draw.batch import stack_rows
from cmtree_jax.evaluate import sets as frozen_sets
from cmtree_jax.jobs import build as settings
from cmtree_jax.loops import final as loops
from cmtree_jax.loops import runs as swarm
from cmtree_jax.loops import steer
from cmtree_jax.loops import values as search
from cmtree_jax.loops.checkpoint import Checkpointer, StopFlag
from cmtree_jax.methods.base import Facts, Method, Signals, Weights
from cmtree_jax.proxy import engine, optim
from cmtree_jax.proxy.ledger import Cost
from cmtree_jax.recipe import domains
from cmtree_jax.recipe.domains import Domains
from cmtree_jax.report.progress import Reporter
from cmtree_jax.signals import domains as signals


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


class Found(NamedTuple):
  """A method's result on the pool."""

  weights: Weights
  log_w_N: np.ndarray  # float64
  value_N: np.ndarray  # mean measured value of a document, NaN if never probed
  cost: Cost  # of the search
  history: list[dict[str, Any]]  # one row per round, observation or run


class Learner(NamedTuple):
  """One method on one corpus, ready for its loop."""

  method: Method
  job: Job
  data: Prepared
  domains: Domains
  facts: Facts
  seed: int
  checkpointer: Callable[[], Checkpointer]  # to be closed


def partitions(
  names: list[str], job: Job, data: Prepared
) -> dict[str, Domains]:
  """The frozen partitions that methods of these names stand on, by their kind."""
  config = job.config
  wanted = {
    settings.make_method(name, config).partition: None for name in names
  }
  block = config.partition
  return {
    name: domains.make(
      block.kind if name == "given" else name,
      data,
      sample_rows(config, len(data.pool)),
      num_clusters=block.num_clusters,
      fine_clusters=block.fine_clusters,
      candidates=tuple(block.candidates),
      seed=config.seed,
    )
    for name in {"given": None, **wanted}
  }


def weigh(
  name: str,
  job: Job,
  data: Prepared,
  parts: Mapping[str, Domains],
  *,
  seed: int,
  stage: str,
) -> Found:
  """Runs one method by the loop that it declares.

  Args:
    name: of the method.
    job: config and workdir.
    data: the corpus; its targets drive the search.
    parts: of `partitions`.
    seed: of the search.
    stage: names its checkpoints.
  """
  method = settings.make_method(name, job.config)
  placed = parts[method.partition]
  learner = Learner(
    method,
    job,
    data,
    placed,
    facts_of(method, job.config, data, placed),
    seed,
    lambda: job.checkpointer(stage),
  )
  job.reporter.advance(0, f"search of {name}")
  return _LOOPS[method.loop](learner)


def _from_facts(learner: Learner) -> Found:
  """What needs no loop."""
  state = learner.method.init(jax.random.key(learner.seed), learner.facts)
  return _found(learner, learner.method.finalize(state))


def _pass(learner: Learner) -> Found:
  """One look at every document of pool and targets."""
  weights = loops.pass_over_corpus(
    learner.method,
    learner.facts,
    _all_signals(learner.data, learner.domains),
    batch=learner.job.config["values"].sample_documents,
  )
  return _found(learner, weights)


def _train(learner: Learner) -> Found:
  """Values of documents from proxies in training."""
  config, job = learner.job.config, learner.job
  proxy = settings.proxy_of(
    config.proxy.preset, config, learner.data.vocab_size
  )
  optimizer = settings.optimizer_of(config, total_steps=None)
  options = settings.estimator_options(
    config, proxy, optimizer, job.reporter.say
  )
  with contextlib.closing(learner.checkpointer()) as checkpointer:
    result = search.train_proxy(
      learner.method,
      learner.facts,
      search_data(config, learner.data, learner.domains),
      settings.search_plan(config, **options),
      _search_engine(
        proxy,
        tuple(config.optimizer.items()),
        sharding.make_mesh(**config.mesh),
        config.hypergradient.estimator,
        tuple(options.items()),
      ),
      seed=learner.seed,
      flops_per_token=proxy.flops_per_token(config.batch.row_tokens),
      checkpointer=checkpointer,
      stop=job.stop,
      advance=job.reporter.advance,
    )
  return _found(
    learner,
    result.weights,
    cost=result.cost,
    history=result.history,
    value_N=result.value_N,
  )


@functools.lru_cache(maxsize=2)  # searches of one comparison compile once
def _search_engine(proxy, optimizer, mesh, estimator, options) -> engine.Engine:
  return engine.make(
    proxy,
    optim.adamw(total_steps=None, **dict(optimizer)),
    mesh=mesh,
    estimator=estimator,
    options=dict(options),
  )


def _steer(learner: Learner) -> Found:
  """One proxy on a mixture of domains that the method steers."""
  config, job = learner.job.config, learner.job
  proxy = settings.proxy_of(
    config.proxy.preset, config, learner.data.vocab_size
  )
  targets, target_weight_N, _ = _targets(learner.data, "train", config)
  with contextlib.closing(learner.checkpointer()) as checkpointer:
    result = steer.run(
      learner.method,
      learner.facts,
      steer.SteerData(
        pool=pool_sampler(learner.data, config, seed=learner.seed),
        domain_N=learner.domains.domain_N,
        targets=targets,
        target_weight_N=target_weight_N,
        view=_view(learner),
      ),
      settings.steer_plan(config),
      engine.make(
        proxy,
        settings.optimizer_of(config, total_steps=None),
        mesh=settings.final_mesh(config),
      ),
      seed=learner.seed,
      flops_per_token=proxy.flops_per_token(config.batch.row_tokens),
      checkpointer=checkpointer,
      stop=job.stop,
      advance=job.reporter.advance,
    )
  history = [{"mixture": row.tolist()} for row in result.mixture_OK]
  return _found(learner, result.weights, cost=result.cost, history=history)


def _swarm(learner: Learner) -> Found:
  """Whole runs of proxies on mixtures that the method asks for."""
  config, job = learner.job.config, learner.job

  def size(preset: str) -> swarm.Size:
    proxy = settings.proxy_of(preset, config, learner.data.vocab_size)
    optimizer = settings.optimizer_of(
      config, total_steps=config.runs.steps if config.runs.decay else None
    )
    made = engine.make(proxy, optimizer, mesh=settings.final_mesh(config))
    return swarm.Size(made, proxy.flops_per_token(config.batch.row_tokens))

  with contextlib.closing(learner.checkpointer()) as checkpointer:
    result = swarm.run(
      learner.method,
      learner.facts,
      swarm.SwarmData(
        pool=pool_sampler(learner.data, config, seed=learner.seed),
        domain_N=learner.domains.domain_N,
        view=_view(learner),
      ),
      settings.swarm_plan(config),
      [lambda preset=preset: size(preset) for preset in config.runs.presets],
      seed=learner.seed,
      checkpointer=checkpointer,
      stop=job.stop,
      advance=job.reporter.advance,
    )
  return _found(
    learner, result.weights, cost=result.cost, history=result.history
  )


_LOOPS = {
  "none": _from_facts,
  "look": _pass,
  "values": _train,
  "steer": _steer,
  "runs": _swarm,
}


def _found(
  learner: Learner,
  weights: Weights,
  *,
  cost: Cost = Cost(),  # noqa: B008
  history: list[dict[str, Any]] | None = None,
  value_N: np.ndarray | None = None,
) -> Found:
  log_w_N = log_w_of(weights, learner.data.pool, learner.domains)
  if value_N is None:
    value_N = np.full(len(log_w_N), np.nan)
  return Found(weights, log_w_N, value_N, cost, history or [])


def facts_of(
  method: Method, config: Any, data: Prepared, placed: Domains
) -> Facts:
  """What a method may know beforehand."""
  pool, chosen = data.pool, sample_rows(config, len(data.pool))
  mass_N = pool.tokens.mass_N[chosen]
  train = driving(data, "train")
  target_NE, target_mass_N = _document_features(train)
  held_out_NE, held_out_mass_N = _document_features(driving(data, "validation"))
  facts = Facts(
    max_weight=max_weight(config, pool.tokens),
    horizon=config.final.steps / config["values"].unroll,
    sample_NE=pool.embedding_NE[chosen],
    sample_mass_N=(mass_N / mass_N.sum()).astype(np.float32),
    target_NE=target_NE,
    target_mass_N=target_mass_N,
    held_out_NE=held_out_NE,
    held_out_mass_N=held_out_mass_N,
    domain_mass_K=placed.mass_K,
    target_domain_TK=np.stack([placed.shares(one) for one in train]),
    final_steps=config.final.steps,
  )
  if method.loop == "steer":
    return facts._replace(steps=config.steer.steps)
  if method.loop != "runs":
    return facts
  tokens_M, target_M = signals.documents_of(
    frozen_sets.texts(
      train, settings.set_plan(config, max_tokens=config.observe.max_tokens)
    )
  )
  size = {
    preset: settings.proxy_of(preset, config, data.vocab_size).num_parameters
    for preset in (*config.runs.presets, config.final.preset)
  }
  return facts._replace(
    steps=config.runs.steps,
    sizes=tuple(size[preset] for preset in config.runs.presets),
    final_size=size[config.final.preset],
    curve_steps=settings.curve_steps(config),
    document_tokens_M=tokens_M,
    document_target_M=target_M,
  )


def _document_features(targets: list[DocumentSet]):
  """(features, masses) of all documents; every target weighs the same."""
  mass_N = np.concatenate([one.tokens.mass_N for one in targets])
  features_NE = np.concatenate([one.embedding_NE for one in targets])
  return features_NE, (mass_N / len(targets)).astype(np.float32)


def max_weight(config: Any, tokens: packing.TokenStore) -> float:
  """R: the weight whose documents are repeated as often as is allowed."""
  budget = config.final.steps * config.batch.rows * config.batch.row_tokens
  epochs = budget / int(tokens.pairs_N.sum())
  return max(1.0, config.mixture.max_epochs / epochs)


def driving(data: Prepared, split: str) -> list[DocumentSet]:
  """A split of the targets that drive the search; others have test texts only."""
  return [
    splits[split] for splits in data.targets.values() if len(splits["train"])
  ]


def sample_rows(config: Any, num_documents: int) -> np.ndarray:
  """Documents that stand for the corpus where not all can be held."""
  rng = np.random.default_rng([config.seed, 0])
  size = min(config.partition.sample_documents, num_documents)
  return np.sort(rng.choice(num_documents, size, replace=False))


def _all_signals(data: Prepared, placed: Domains) -> Iterator[Signals]:
  """What a pass shows: the pool, then the targets' training documents."""
  yield from signals_of(data.pool, placed, placed.domain_N)
  train = driving(data, "train")
  for one in train:
    mass_N = (one.tokens.mass_N / len(train)).astype(np.float32)
    domain_N = placed.of(np.asarray(one.embedding_NE))
    for part, rows in zip(
      signals_of(one, placed, domain_N),
      packing.chunks(len(one), search.CHUNK),
      strict=True,
    ):
      yield part._replace(
        mass_B=np.zeros_like(part.mass_B), target_mass_B=mass_N[rows]
      )


def signals_of(
  documents: DocumentSet, placed: Domains, domain_N: np.ndarray
) -> Iterator[Signals]:
  """What a pass shows of pool documents, chunk by chunk."""
  mass_N = documents.tokens.mass_N
  for rows in packing.chunks(len(documents), search.CHUNK):
    mass_B = mass_N[rows].astype(np.float32)
    yield Signals(
      mass_B=mass_B,
      target_mass_B=np.zeros_like(mass_B),
      domain_B=domain_N[rows],
      key_B=sampler.unit_keys(documents.key_N[rows]),
      embedding_BE=np.asarray(documents.embedding_NE[rows]),
    )


def log_w_of(
  weights: Weights, pool: DocumentSet, placed: Domains
) -> np.ndarray:
  """Log-weights of the pool's documents, float64."""
  return np.concatenate(
    [
      np.asarray(weights.log_w(one), np.float64)
      for one in signals_of(pool, placed, placed.domain_N)
    ]
  )


def pool_sampler(data: Prepared, config: Any, *, seed: int) -> sampler.Sampler:
  """Draws of the pool; the seed fixes the arrival points of its documents."""
  return sampler.make(
    data.pool.tokens,
    data.pool.key_N,
    row_tokens=config.batch.row_tokens,
    seed=seed,
  )


def _view(learner: Learner) -> signals.View:
  """What the loops `steer` and `runs` look at proxies with."""
  config, data = learner.job.config, learner.data
  train = driving(data, "train")
  targets, _, scale_N = _targets(data, "train", config)
  part_N = np.repeat(np.arange(len(train)), [len(one) for one in train])
  first_T = np.searchsorted(part_N, np.arange(len(train)))
  block = config.observe
  domain_rows = strata.make(
    pool_sampler(data, config, seed=learner.seed),
    learner.domains.domain_N,
    num_parts=learner.facts.num_domains,
  )
  return signals.View(
    domains=domain_rows,
    targets=strata.make(targets, part_N, num_parts=len(train)),
    eval_sets=frozen_sets.texts(
      train, settings.set_plan(config, max_tokens=block.max_tokens)
    ),
    bits_T=scale_N[first_T],
    rows=block.rows,
    target_rows=block.target_rows,
    frozen=domain_rows.rows(0, block.frozen_rows),
    chunk_rows=config.evaluate.rows,
  )


def search_data(
  config: Any, data: Prepared, placed: Domains
) -> search.SearchData:
  """Samplers and frozen sets of a search."""
  pool = pool_sampler(data, config, seed=config.seed)
  train, train_weight_N, train_scale_N = _targets(data, "train", config)
  held, held_weight_N, held_scale_N = _targets(data, "validation", config)
  begin = held.start(held.init(), held_weight_N)
  _, rows = held.draw(begin, config["values"].validation_rows)
  batches = stack_rows(rows, config.batch.rows)
  scale = held_scale_N[batches.document_BT] / batches.document_BT.size
  return search.SearchData(
    pool=pool,
    embedding_NE=data.pool.embedding_NE,
    domain_N=placed.domain_N,
    mass_N=data.pool.tokens.mass_N,
    sample_size=config["values"].sample_documents,
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
