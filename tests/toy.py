"""Three domains, a target and tiny proxies: what the loops of domains work on."""

import collections
import contextlib
import dataclasses
import functools
import pathlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from cmtree_jax import budget, sharding
from cmtree_jax.data.draw import packing, sampler, strata
from cmtree_jax.data.draw.subpool import Subpools
from cmtree_jax.embed import grams
from cmtree_jax.evaluate import perplexity
from cmtree_jax.loops import fleet
from cmtree_jax.loops.checkpoint import Checkpointer, StopFlag
from cmtree_jax.methods.base import Documents, Facts
from cmtree_jax.proxy import engine as engines
from cmtree_jax.proxy import optim
from cmtree_jax.proxy.model import ProxyConfig
from cmtree_jax.signals import View
from cmtree_jax.signals.documents import documents_of
from tests.listed import Listed

K, T, V, ROWS, STEPS = 4, 8, 12, 4, 6
CONFIG = ProxyConfig(vocab_size=V, width=8, layers=1, heads=2)
FLOPS = 100.0  # per token of a forward pass, as the ledger is told
# Every training sees the whole corpus, and no cap changes a weight.
BUDGET = budget.make(
  budget.Plan(max_epochs=1e9, min_documents=10**6),
  prepared_tokens=1000,
  parameters=1,
)


class Corpus(NamedTuple):
  """What the loops of domains read."""

  world: fleet.World
  facts: Facts

  @property
  def view(self) -> View:
    """What proxies are looked at with."""
    assert self.world.view is not None
    return self.world.view

  @property
  def goal(self) -> sampler.Sampler:
    """The target's documents."""
    assert self.world.targets is not None
    return self.world.targets


@functools.cache
def corpus() -> Corpus:
  """Documents of words 1-4, 5-8 and any; domain 3 is empty; the target reads 1-4."""
  rng = np.random.default_rng(0)
  words = [(1, 5), (5, 9), (1, 12)]
  domain_N = np.repeat([0, 1, 2], 8)

  def text(span):
    return rng.integers(span[0], span[1], rng.integers(5, 30))

  return build(
    [text(words[k]) for k in domain_N],
    domain_N,
    [text((1, 5)) for _ in range(6)],
    target_K=[1.0, 0.0, 0.0, 0.0],
  )


def build(texts, domain_N, goal, *, target_K, steps=STEPS) -> Corpus:
  """What the loops of domains need of texts and one target.

  Args:
    texts: of the pool, as numbers of words.
    domain_N: of each.
    goal: texts of the target.
    target_K: shares of the target in the domains.
    steps: of a proxy.
  """
  num_domains = len(target_K)
  pool, keys = _documents(texts, "pool")
  tokens, goal_keys = _documents(goal, "goal")
  pool_sampler = sampler.make(pool, keys, row_tokens=T, seed=0)
  goal_sampler = sampler.make(tokens, goal_keys, row_tokens=T, seed=0)
  frozen = perplexity.eval_set(
    tokens, goal_keys, max_tokens=60, rows=ROWS, row_tokens=T
  )
  domain_rows = strata.make(pool_sampler, domain_N, num_parts=num_domains)
  view = View(
    domains=domain_rows,
    targets=strata.make(goal_sampler, np.zeros(len(goal), int), num_parts=1),
    eval_sets=(frozen,),
    bits_T=np.array([tokens.pairs_N.sum() / tokens.bytes_N.sum() / np.log(2)]),
    rows=1,
    target_rows=2,
    frozen=domain_rows.rows(0, 2),
    chunk_rows=ROWS,
  )
  tokens_M, target_M = documents_of((frozen,))
  facts = Facts(
    max_weight=100.0,
    epochs=0.0,
    r_star=15.0,
    horizon=1.0,
    sample_NE=np.zeros((1, 1)),
    sample_mass_N=np.ones(1),
    target_NE=np.zeros((1, 1)),
    target_mass_N=np.ones(1),
    target_of_N=np.zeros(1, int),
    held_out_NE=np.zeros((1, 1)),
    held_out_mass_N=np.ones(1),
    held_out_of_N=np.zeros(1, int),
    domain_mass_K=np.bincount(domain_N, pool.mass_N, minlength=num_domains),
    target_domain_TK=np.array([target_K]),
    steps=steps,
    final_steps=10 * steps,
    sizes=(CONFIG.num_parameters,),
    final_size=CONFIG.num_parameters,
    curve_steps=(steps // 2, steps),
    document_tokens_M=tokens_M,
    document_target_M=target_M,
    num_documents=len(texts),
    pool=scored(texts, keys)._replace(domain_N=domain_N),
    train=(scored(goal, goal_keys),),
    validation=(scored(goal, goal_keys),),
  )
  return Corpus(
    fleet.World(
      model=fleet.Model(engine(), FLOPS),
      pool=pool_sampler,
      rows=ROWS,
      subpools=Subpools(keys, domain_N, pool.pairs_N, BUDGET),
      domain_N=domain_N,
      targets=goal_sampler,
      target_weight_N=np.ones(len(goal)),
      embedding_NE=np.eye(num_domains, dtype=np.float32)[domain_N],
      mass_N=pool.mass_N,
      target_names=("goal",),
      target_of_N=np.zeros(len(goal), int),
      target_scale_N=np.ones(len(goal)),
      view=view,
    ),
    facts,
  )


def scored(texts, key_N) -> Documents:
  """Documents for methods that score them; a word is written as its number.

  Their features are the counts of their words.
  """
  written = Listed(" ".join(map(str, text)) for text in texts)
  counts = [np.bincount(text, minlength=V) for text in texts]
  return Documents(
    key_N,
    np.array([len(text) + 1 for text in texts]),
    np.array(counts, np.float32),
    np.zeros(len(texts), int),
    grams=grams.count(written, grams.Plan(buckets=2**16)),
    text=written,
  )


@contextlib.contextmanager
def session(
  folder: pathlib.Path, stop: StopFlag | None = None, seed: int = 0
) -> Iterator[fleet.Session]:
  """A loop's session that saves in a folder; `told` has what it measured."""

  def tell(step, values, run="", part=""):
    finite = {name: float(value) for name, value in values.items()}
    TOLD[folder].append((run, part, step, finite))

  with contextlib.closing(Checkpointer(folder)) as checkpointer:
    yield fleet.Session(
      seed, checkpointer, stop or StopFlag(), lambda work, text: None, tell
    )


# Of every session's folder: (run, part, step, values), as they came.
TOLD = collections.defaultdict(list)


def told(folder: pathlib.Path, run: str = "", part: str = "") -> dict[int, Any]:
  """What a loop measured of one of its runs: step -> values."""
  return {row[2]: row[3] for row in TOLD[folder] if row[:2] == (run, part)}


def _documents(texts, name):
  tokens = packing.store(texts, [3 * len(t) for t in texts], end_of_text=0)
  keys = sampler.document_keys([f"{name}{i}" for i in range(len(texts))])
  return tokens, keys


@functools.cache
def engine(width: int = CONFIG.width, **mesh: int) -> engines.Engine:
  """Of tiny proxies; on one device unless a mesh says otherwise."""
  config = dataclasses.replace(CONFIG, width=width)
  optimizer = optim.adamw(
    3e-2, warmup_steps=2, total_steps=None, weight_decay=0.01, eps_root=1e-8
  )
  return engines.make(
    config, optimizer, mesh=sharding.make_mesh(**mesh) if mesh else None
  )


def mixture(*shares) -> jnp.ndarray:
  """Of four domains."""
  return jnp.asarray(shares, jnp.float32)
