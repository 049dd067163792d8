"""SemDeDup: planted duplicates, shares, idempotence, clusters or domains, reasons."""

import jax
import numpy as np
import pytest

from cmtree_jax.methods import semdedup
from cmtree_jax.methods.base import Documents
from cmtree_jax.types import UserError
from tests.methods import measured, world

# Twenty topics of four documents each. The last eight documents repeat the first
# ones: four word for word, four nearly.
TOPICS, PER_TOPIC, E = 20, 4, 32
N = TOPICS * PER_TOPIC + 8
TWIN_OF = {80 + i: 4 * i for i in range(8)}
EXACT = (80, 81, 82, 83)


def pool() -> Documents:
  rng = np.random.default_rng(0)
  topic_N = np.append(np.repeat(np.arange(TOPICS), PER_TOPIC), range(8))
  embedding_NE = rng.normal(size=(TOPICS, E))[topic_N]
  embedding_NE += 0.4 * rng.normal(size=(N, E))
  for twin, first in TWIN_OF.items():
    noise_E = 0.0 if twin in EXACT else 0.02 * rng.normal(size=E)
    embedding_NE[twin] = 3 * (embedding_NE[first] + noise_E)
  return Documents(
    rng.integers(2**63, size=N, dtype=np.uint64),
    rng.integers(20, 90, N),
    embedding_NE.astype(np.float32),
    topic_N,
  )


POOL = pool()


def found(documents=POOL, *, max_weight=100.0, seed=0, **options):
  known = world.facts(max_weight)._replace(
    pool=documents, train=(), validation=()
  )
  method = semdedup.make(**options)
  return method.init(jax.random.key(seed), known)


def kept(state) -> np.ndarray:
  return state.log_w_N > -1


@pytest.mark.parametrize("within", semdedup.clustered.WITHIN)
@pytest.mark.parametrize("against", semdedup.AGAINST)
@pytest.mark.parametrize("keep", semdedup.duplicates.KEEP)
def test_one_of_two_that_say_the_same_is_left_out(within, against, keep):
  kept_N = kept(found(keep=keep, against=against, within=within, clusters=8))
  for twin, first in TWIN_OF.items():
    assert kept_N[twin] != kept_N[first]
  rest = np.setdiff1d(np.arange(N), [*TWIN_OF, *TWIN_OF.values()])
  assert kept_N[rest].all()


def test_what_is_kept_weighs_the_same():
  state = found()
  kept_N = kept(state)
  q_N = POOL.tokens_N / POOL.tokens_N.sum()
  np.testing.assert_allclose(
    np.exp(state.log_w_N[kept_N]), 1 / q_N[kept_N].sum(), rtol=1e-5
  )
  assert np.exp(state.log_w_N[~kept_N]).max() < 1e-5
  assert state.score_N[kept_N].min() > state.score_N[~kept_N].max()


def test_the_documents_say_what_they_repeat():
  state = found()
  left_out = np.flatnonzero(~kept(state))
  pairs = {frozenset(pair) for pair in TWIN_OF.items()}
  assert state.reasons is not None
  for one in left_out.tolist():
    (other,) = state.reasons.others(np.array([one])).tolist()
    assert {one, other} in pairs
    told = state.reasons.text(one, {other: "doc-x"})
    assert "to doc-x, which comes before it" in told
    if one in EXACT:
      assert told.startswith("cosine 1.000 ")


def test_a_larger_epsilon_leaves_out_more():
  before_N = np.ones(N, bool)
  for epsilon in (1e-6, 1e-3, 0.1, 0.3, 0.9):
    kept_N = kept(found(epsilon=epsilon))
    assert (before_N >= kept_N).all()
    before_N = kept_N
  assert before_N.sum() <= 2 * TOPICS


@pytest.mark.parametrize("share", [0.3, 0.7, 0.9])
def test_a_share_of_the_tokens_is_met(share):
  state = found(share=share)
  tokens_N = POOL.tokens_N[kept(state)]
  wanted = share * POOL.tokens_N.sum()
  assert wanted <= tokens_N.sum() < wanted + POOL.tokens_N.max()
  # An epsilon between the two would leave the same documents.
  assert state.why is not None
  cosine_N = state.why.number_N["cosine"]
  assert cosine_N[kept(state)].max() < cosine_N[~kept(state)].min() + 1e-6


def test_of_a_chain_every_other_one_stays_if_asked_for():
  """What is compared with all stays once; see the paper's text and its code."""
  angle_N = np.linspace(0, 1.5, N)
  chain_NE = np.pad(
    np.stack([np.cos(angle_N), np.sin(angle_N)]).T, [(0, 0), (0, 3)]
  )
  chain = POOL._replace(embedding_NE=chain_NE, domain_N=np.zeros(N, int))
  options = {"epsilon": 1 - np.cos(2.5 * angle_N[1]), "within": "domains"}
  assert (
    kept(found(chain, **options)).sum() <= 2
  )  # an end of the chain, or both
  state = found(chain, against="kept", **options)
  kept_N = kept(state)
  assert 0.3 * N < kept_N.sum() < 0.6 * N
  assert state.score_N[kept_N].min() > state.score_N[~kept_N].max()


def test_the_seed_chooses_the_clusters():
  states = [found(keep="random", epsilon=0.3, seed=seed) for seed in (0, 0, 1)]
  np.testing.assert_array_equal(states[0].log_w_N, states[1].log_w_N)
  assert not np.array_equal(states[0].log_w_N, states[2].log_w_N)


def test_of_what_was_kept_nothing_more_is_left_out():
  state = found(epsilon=0.2, within="domains")
  rows = np.flatnonzero(kept(state))
  assert len(rows) < N
  # In the order of the first pass: centers and distances are of all documents.
  clusters = semdedup.clustered.of(POOL, within="domains", clusters=0, seed=0)
  groups = semdedup.duplicates.in_order(
    clusters, POOL.key_N, keep="hard", seed=0
  )
  some = [np.array([i for i in one if i in set(rows)]) for one in groups]
  again = semdedup.duplicates.likeness(POOL.embedding_NE, some)
  assert (again.cosine_N[rows] <= 0.8).all()


def test_the_order_of_documents_changes_nothing():
  order = np.random.default_rng(1).permutation(N)
  moved = measured.shuffled(POOL, order)
  for options in ({}, {"share": 0.5}, {"keep": "random"}):
    one, two = found(**options), found(moved, **options)
    np.testing.assert_array_equal(one.log_w_N[order], two.log_w_N)


def test_duplicates_of_other_domains_stay_unless_clusters_are_asked_for():
  """The same page in two labelled sources."""
  other_N = np.arange(N) >= TOPICS * PER_TOPIC
  apart = POOL._replace(domain_N=other_N.astype(int))
  twins = list(TWIN_OF)
  assert kept(found(apart, within="domains"))[twins].all()
  kept_N = kept(found(apart))
  assert (kept_N[twins] != kept_N[list(TWIN_OF.values())]).all()


def test_equal_documents_are_one():
  same = POOL._replace(embedding_NE=np.ones((N, E), np.float32))
  assert kept(found(same)).sum() == 1
  capped = np.exp(found(same, max_weight=2.0).log_w_N)
  q_N = POOL.tokens_N / POOL.tokens_N.sum()
  assert capped.max() == pytest.approx(2.0)
  assert q_N @ capped == pytest.approx(1.0)


def test_more_clusters_than_documents_are_refused():
  with pytest.raises(UserError, match=f"Cannot make 1000 clusters of {N}"):
    found(clusters=1000)


@pytest.mark.parametrize(
  ("options", "told"),
  [
    ({"epsilon": 0.0}, "between 0 and 1"),
    ({"epsilon": 1.0}, "between 0 and 1"),
    ({"share": 1.5}, "from 0 to 1"),
    ({"keep": "soft"}, "Known: easy, hard, random"),
    ({"within": "tree"}, "Known: clusters, domains"),
    ({"against": "none"}, "Known: all, kept"),
    ({"clusters": -1}, "at least 0"),
    ({"share": 0.5, "against": "kept"}, "set share = 0 or against"),
  ],
)
def test_options_out_of_range_are_refused(options, told):
  with pytest.raises(ValueError, match=told):
    semdedup.make(**options)
