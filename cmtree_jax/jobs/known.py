"""What a method may know of corpus, targets and budget before its search."""

from pathlib import Path
from typing import Any

import numpy as np

from cmtree_jax.data import mirror
from cmtree_jax.data.build import prepare, texts
from cmtree_jax.data.build.prepare import DocumentSet, Prepared
from cmtree_jax.data.draw import sampler
from cmtree_jax.data.draw.packing import TokenStore
from cmtree_jax.data.read import entries, labels
from cmtree_jax.embed import grams
from cmtree_jax.embed.grams import Grams
from cmtree_jax.evaluate import sets
from cmtree_jax.jobs import build
from cmtree_jax.jobs.job import Job
from cmtree_jax.methods.base import Documents, Facts, Labelled, Method
from cmtree_jax.recipe import domains, policies
from cmtree_jax.recipe.domains import Domains
from cmtree_jax.report import describe
from cmtree_jax.signals.documents import documents_of


def facts_of(
  method: Method, config: Any, data: Prepared, placed: Domains
) -> Facts:
  """What a method may know beforehand."""
  pool, chosen = data.pool, sample_rows(config, data)
  mass_N = pool.tokens.mass_N[chosen]
  train = driving(data, "train")
  width = pool.embedding_NE.shape[1]
  targets = _document_features(train, width)
  held_out = _document_features(driving(data, "validation"), width)
  plans, budget = build.plans(config), build.budget(config, data)
  tokens_per_step = config.batch.rows * config.batch.row_tokens
  facts = Facts(
    max_weight=budget.max_weight,
    epochs=budget.epochs,
    r_star=budget.r_star,
    horizon=plans.final.steps / plans.values.unroll,
    sample_NE=pool.embedding_NE[chosen],
    sample_mass_N=(mass_N / mass_N.sum()).astype(np.float32),
    target_NE=targets[0],
    target_mass_N=targets[1],
    target_of_N=targets[2],
    held_out_NE=held_out[0],
    held_out_mass_N=held_out[1],
    held_out_of_N=held_out[2],
    domain_mass_K=placed.mass_K,
    target_domain_TK=np.array([placed.shares(one) for one in train]).reshape(
      len(train), len(placed.mass_K)
    ),
    blocks=data.blocks,
    sample_index_N=chosen,
    num_documents=len(pool),
    num_proxies=plans.values.population,
    final_steps=max(1, round(budget.tokens / tokens_per_step)),
    final_size=budget.parameters,
  )
  if method.extends:
    earlier_log_w_K = domains.earlier_log_w(
      mirror.reading(method.extends), placed
    )
    facts = facts._replace(earlier_log_w_K=earlier_log_w_K)
  if method.policy:
    facts = facts._replace(policy=policies.load(method.policy))
  if method.entries:
    facts = facts._replace(entries=entries.read(Path(method.entries)))
  if method.labels:
    facts = facts._replace(labelled=_labelled(method.labels, config, data))
  if method.loop == "steer":
    return facts._replace(steps=plans.steer.steps)
  if method.loop == "runs":
    return _with_sizes(facts, config, data, plans)
  return facts


def with_documents(
  facts: Facts, method: Method, job: Job, data: Prepared, placed: Domains
) -> Facts:
  """With every document, and what the method wants to know of each.

  What a method draws by keys of the pool is drawn anew for every seed of a search.
  """
  text = texts_of(job, data)
  counts: dict[str, Grams] = {}
  if "grams" in method.features:
    plan = grams.Plan(**job.config.grams)
    # The small ones first: workers start processes where much is left to do.
    counts = {name: grams.count(text[name], plan) for name in reversed(text)}

  def documents(
    name: str, one: DocumentSet, domain_N: np.ndarray | None = None
  ) -> Documents:
    if domain_N is None:
      domain_N = placed.of(np.asarray(one.embedding_NE))
    return Documents(
      one.key_N,
      one.tokens.pairs_N,
      one.embedding_NE,
      domain_N,
      grams=counts.get(name),
      text=text[name] if "text" in method.features else None,
    )

  train, validation = (
    tuple(
      documents(f"{name}.{split}", splits[split])
      for name, splits in data.targets.items()
      if len(splits["train"])
    )
    for split in ("train", "validation")
  )
  pool = documents(texts.POOL, data.pool, placed.domain_N)
  pool = pool._replace(key_N=sampler.keys_of_seed(pool.key_N, facts.seed))
  if "original_N" in method.features:
    pool = pool._replace(original_N=data.documents.labels("original")[0])
  return facts._replace(
    pool=pool,
    train=train,
    validation=validation,
  )


def texts_of(job: Job, data: Prepared) -> dict[str, texts.Texts]:
  """The texts of pool and targets, which the job's workers measure."""
  return texts.load(
    data,
    tokenizer=job.config.tokenizer.kind,
    cache_dir=build.cache_dir(job.config),
    workers=job.workers,
  )


def _labelled(path: str, config: Any, data: Prepared) -> Labelled:
  """Labelled texts, where the corpus's own embedder puts them."""
  embedder = prepare.load_embedder(
    data.folder / prepare.EMBEDDER_FILE, cache_dir=build.cache_dir(config)
  )
  keys, places, scores = [], [], []
  for some in labels.read(Path(path)):
    keys.append(some.key_M)
    places.append(embedder(some.texts))
    scores.append(some.score_M)
  return Labelled(*(np.concatenate(x) for x in (keys, places, scores)))


def _with_sizes(
  facts: Facts, config: Any, data: Prepared, plans: build.Plans
) -> Facts:
  """With what a method of the loop `runs` may know."""
  models = (
    build.proxy_of(preset, config, data.vocab_size)
    for preset in plans.runs.presets
  )
  plan = build.set_plan(config, max_tokens=plans.observe.max_tokens)
  tokens_M, target_M = documents_of(sets.texts(driving(data, "train"), plan))
  return facts._replace(
    steps=plans.runs.steps,
    sizes=tuple(model.num_non_embedding for model in models),
    curve_steps=plans.runs.curve_steps,
    document_tokens_M=tokens_M,
    document_target_M=target_M,
  )


def _document_features(targets: list[DocumentSet], width: int):
  """(features, masses, target) of all documents; every target weighs the same."""
  if not targets:
    features_NE = np.zeros((0, width), np.float32)
    return features_NE, np.zeros(0, np.float32), numbered(targets)
  mass_N = np.concatenate([one.tokens.mass_N for one in targets])
  features_NE = np.concatenate([one.embedding_NE for one in targets])
  mass_N = (mass_N / len(targets)).astype(np.float32)
  return features_NE, mass_N, numbered(targets)


def numbered(targets: list[DocumentSet]) -> np.ndarray:
  """The number of every document's target."""
  sizes = np.array([len(one) for one in targets], int)
  return np.repeat(np.arange(len(targets)), sizes)


def driving(data: Prepared, split: str) -> list[DocumentSet]:
  """A split of the targets that drive the search; others have test texts only."""
  return [
    splits[split] for splits in data.targets.values() if len(splits["train"])
  ]


def driving_names(data: Prepared) -> tuple[str, ...]:
  """Names of the targets that drive the search."""
  return tuple(
    name for name, splits in data.targets.items() if len(splits["train"])
  )


def looked_at(method: Method, data: Prepared) -> tuple[TokenStore, ...]:
  """What models measure: the pool, and the targets' texts if the method asks for them."""
  train = driving(data, "train") if method.targeted else []
  return tuple(one.tokens for one in (data.pool, *train))


def sample(config: Any, data: Prepared) -> describe.Sample:
  """Documents that leaves are described by."""
  rows = sample_rows(config, data)
  mass_N = data.pool.tokens.mass_N[rows]
  columns = data.documents.rows(rows, "text", "id", "source")
  return describe.Sample(
    np.asarray(data.pool.embedding_NE[rows]),
    mass_N / mass_N.sum(),
    *columns.values(),
  )


def sample_rows(config: Any, data: Prepared) -> np.ndarray:
  """Documents that stand for the corpus where not all can be held."""
  size = config.partition.sample_documents
  return sampler.some(data.pool.key_N, size, config.seed)
