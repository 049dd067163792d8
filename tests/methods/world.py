"""Documents and facts that the tests of methods share; small and seeded."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from cmtree_jax.embed import grams
from cmtree_jax.methods import METHODS
from cmtree_jax.methods.base import (
  MEASURED,
  Documents,
  Facts,
  Labelled,
  Signals,
)
from tests.listed import Listed

POOL, TARGET, B, K, E, T, PROXIES = 60, 20, 40, 4, 6, 2, 4
MAX_WEIGHT = 1.5


# Along which directions documents are worth more, to each target.
VALUE_ET = np.array([[2, 1, 0, 0, 0, -1], [2, 0, 1, 0, 0, -1]]).T


def make(name, **settings):
  """A small method; a dict changes fields of an option that is a record."""
  method = METHODS[name]
  options = dict(method.PLANTED.options)
  for option, value in settings.items():
    if isinstance(value, dict):
      value = dataclasses.replace(options[option], **value)
    options[option] = value
  return method.make(**options)


def features(count, seed):
  return np.random.default_rng(seed).normal(size=(count, E)).astype(np.float32)


def all_signals():
  """Pool documents, then those of targets (without mass in the pool)."""
  rng = np.random.default_rng(0)
  embedding_BE = features(POOL + TARGET, 1)
  embedding_BE[POOL:, 0] += 1.5
  mass_B = np.pad(rng.dirichlet(np.full(POOL, 3.0)), (0, TARGET))
  # Target documents are in domains 0 and 1.
  domain_B = np.append(rng.integers(0, K, POOL), rng.integers(0, 2, TARGET))
  return Signals(
    mass_B=mass_B.astype(np.float32),
    domain_B=domain_B.astype(np.int32),
    embedding_BE=embedding_BE,
    index_B=np.arange(POOL + TARGET, dtype=np.int32),
    # Bounded, so that none is clipped.
    value_BT=np.tanh(embedding_BE @ VALUE_ET) / 50 + 0.3,
    proxy_B=np.arange(POOL + TARGET, dtype=np.int32) % PROXIES,
    target_weight_T=np.full(T, 1 / T, np.float32),
    log_proposal_B=rng.normal(0, 0.2, POOL + TARGET).astype(np.float32),
  )


def documents_of(texts, seed):
  """Texts as methods see them that score documents; features are random."""
  rng = np.random.default_rng(seed)
  return Documents(
    rng.integers(2**63, size=len(texts), dtype=np.uint64),
    np.array([len(text) + 1 for text in texts]),
    features(len(texts), seed),
    rng.integers(0, K, len(texts)),
    grams=grams.count(Listed(texts), grams.Plan(buckets=2**16)),
    text=Listed(texts),
  )


def measured(documents, method, seed=0):
  """With what the models of a method would measure; any numbers."""
  rng = np.random.default_rng(seed)
  shape = method.look.observations, len(documents.key_N)
  wanted = sorted(method.features & MEASURED)
  return documents._replace(
    **{
      name: rng.uniform(
        0.1, 0.9, (*shape, 6) if name[-1] != "N" else shape
      ).astype(np.float32)
      for name in wanted
    }
  )


def measured_facts(method, known):
  """The same of pool and targets."""
  return known._replace(
    rate_O=np.linspace(1, 2, method.look.observations),
    pool=measured(known.pool, method),
    train=tuple(measured(x, method, t) for t, x in enumerate(known.train, 1)),
  )


def some_documents(count, seed):
  """Short ones, of few words."""
  rng = np.random.default_rng(seed)
  words = np.array(["the", "a", "is", "of", "if", "x", "(", "+"])
  return documents_of(
    [" ".join(rng.choice(words, rng.integers(3, 60))) for _ in range(count)],
    seed,
  )


SIGNALS = all_signals()
TARGET_MASS_M = np.full(TARGET, 1 / TARGET, np.float32)
BY_ROW = {
  name
  for name, x in SIGNALS._asdict().items()
  if x is not None and len(x) == POOL + TARGET
}
SAMPLE = dict(
  sample_NE=SIGNALS.embedding_BE[:POOL],
  sample_mass_N=SIGNALS.mass_B[:POOL],
  sample_index_N=np.arange(POOL, dtype=np.int32),
)


def facts_of(mass_K, target_TK=None, *, max_weight=100.0, **more):
  """Of any domains; the target is spread like the corpus if None."""
  mass_K = np.asarray(mass_K, np.float64)
  return Facts(
    max_weight=max_weight,
    epochs=1.0,
    r_star=15.0,
    horizon=10.0,
    target_NE=SIGNALS.embedding_BE[POOL:],
    target_mass_N=TARGET_MASS_M,
    target_of_N=np.arange(TARGET) % T,
    held_out_NE=SIGNALS.embedding_BE[POOL:],
    held_out_mass_N=TARGET_MASS_M,
    held_out_of_N=np.arange(TARGET) % T,
    domain_mass_K=mass_K,
    target_domain_TK=np.atleast_2d(mass_K if target_TK is None else target_TK),
    num_documents=POOL,
    num_proxies=PROXIES,
    **SAMPLE,
    **more,
  )


def facts(max_weight=MAX_WEIGHT):
  """Of the documents above."""
  target_K = np.bincount(SIGNALS.domain_B[POOL:], TARGET_MASS_M, minlength=K)
  return facts_of(
    np.bincount(SIGNALS.domain_B, SIGNALS.mass_B, minlength=K),
    np.tile(target_K, (T, 1)),
    max_weight=max_weight,
    steps=60,
    final_steps=600,
    sizes=(1000, 4000, 16000),
    final_size=64000,
    curve_steps=(2, 4, 6),
    document_tokens_M=np.array([5, 9, 4, 7]),
    document_target_M=np.array([0, 0, 1, 1]),
    pool=some_documents(POOL, 10)._replace(
      tokens_N=SIGNALS.mass_B[:POOL],
      embedding_NE=SIGNALS.embedding_BE[:POOL],
      domain_N=SIGNALS.domain_B[:POOL],
    ),
    train=tuple(some_documents(TARGET // T, 20 + t) for t in range(T)),
    validation=tuple(some_documents(5, 30 + t) for t in range(T)),
    labelled=Labelled(np.arange(30, dtype=np.uint64), *labels(30)),
  )


def labels(count):
  """Features of texts, and scores that depend on them."""
  embedding_ME = features(count, 40)
  return embedding_ME, embedding_ME[:, 0] + 0.1 * features(count, 41)[:, 0]


def declared(method, signals):
  """What the method says that it reads; all else None."""
  return signals.only(method.signals)


def recipe(method, state, facts):
  """The mixture of domains that the method hands over."""
  every_B = Signals(domain_B=np.arange(facts.num_domains))
  log_w_K = np.asarray(method.finalize(state).log_w(every_B), np.float64)
  assert np.isfinite(log_w_K).all()
  return facts.domain_mass_K * np.exp(log_w_K)


def take(method, index, signals=SIGNALS):
  """The declared signals of some documents, and the sample; all else None."""
  columns = {
    name: None if x is None else jnp.asarray(x[index] if name in BY_ROW else x)
    for name, x in signals._asdict().items()
  }
  columns.update({name: jnp.asarray(x) for name, x in SAMPLE.items()})
  return declared(method, Signals(**columns))


# Two batches; each mixes documents of pool and target.
BATCHES = tuple(
  np.random.default_rng(2).permutation(POOL + TARGET).reshape(2, B)
)


def assert_equal(one, two, **tolerance):
  for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True):
    np.testing.assert_allclose(a, b, **tolerance)


# What observations of a proxy and whole runs show: any losses and products.


def observation(number, order=range(K)):
  """Signals of domains in a given order; equal for equal numbers."""
  rng = np.random.default_rng([7, number])
  loss_K = rng.uniform(3, 5, K)
  excess_K = rng.normal(0.2, 0.5, K)
  gradient_KP = rng.normal(size=(K, 6)) + 0.5
  target_P = rng.normal(size=6) + 0.5
  target_TP = target_P + rng.normal(size=(T, 6))
  hidden_KRH = rng.normal(size=(K, 1, 6)) + rng.normal(size=(K, 3, 6)) / 3
  gradient_KP, loss_K, excess_K, hidden_KRH = (
    x[list(order)] for x in (gradient_KP, loss_K, excess_K, hidden_KRH)
  )
  gram_KK = gradient_KP @ gradient_KP.T
  found = Signals(
    loss_K=loss_K,
    excess_K=np.maximum(excess_K, 0.1),
    tokens_K=np.full(K, 8.0),
    gram_KK=gram_KK,
    head_gram_KK=gram_KK / 2,
    target_dot_K=gradient_KP @ target_P,
    head_dot_K=gradient_KP @ target_P / 2,
    target_dot_TK=target_TP @ gradient_KP.T,
    domain_norm_K=np.linalg.norm(gradient_KP, axis=1),
    target_norm_T=np.linalg.norm(target_TP, axis=1),
    target_nats_T=rng.uniform(3, 5, T),
    target_loss_T=rng.uniform(2, 3, T),
    share_gain_K=(gradient_KP - gradient_KP.mean(axis=0)) @ target_P,
    late_hidden_KRH=hidden_KRH,
    target_late_hidden_TH=rng.normal(size=(T, 6)),
  )
  return jax.tree.map(jnp.float32, found)


def run_result(mixture_K, size):
  """Signals of a run whose losses fall with the shares of domains 0 and 1."""
  target_loss_T = 2 + np.exp(-2 * np.asarray(mixture_K)[:T])
  scale = 1 + 1 / np.array([2, 4, 6]) + 0.1 / (1 + size)
  return Signals(
    mixture_K=np.asarray(mixture_K),
    size=size,
    target_loss_T=target_loss_T,
    curve_CT=scale[:, None] * target_loss_T,
    loss_K=2 + np.exp(-2 * np.asarray(mixture_K)),
    document_nats_M=np.array([5.0, 9.0, 4.0, 7.0])
    * target_loss_T[[0, 0, 1, 1]],
  )
