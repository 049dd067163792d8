"""Quota: sums and prefixes of every domain, what lacks tokens, and every scorer."""

import functools
import json
from typing import Any

import jax
import numpy as np
import pytest

from cmtree_jax import config
from cmtree_jax.jobs import build, variants
from cmtree_jax.methods import METHODS, classifier, quota, scoring
from cmtree_jax.methods.base import Documents
from cmtree_jax.types import UserError
from tests.methods import world

K, N = 5, 400
RNG = np.random.default_rng(0)
DOMAIN_N = RNG.choice(K, N, p=[0.5, 0.2, 0.15, 0.1, 0.05])
POOL = Documents(
  RNG.permutation(N).astype(np.uint64),
  RNG.integers(20, 200, N),
  np.zeros((N, 1), np.float32),
  DOMAIN_N,
)
SCORE_N = RNG.normal(size=N).round(1)  # some are equal
Q_N = POOL.tokens_N / POOL.tokens_N.sum()
Q_K = np.bincount(DOMAIN_N, Q_N)
MIXTURE_K = np.array([0.1, 0.4, 0.2, 0.2, 0.1])


def weigh(mixture_K=MIXTURE_K, pool=POOL, score_N=SCORE_N, **more):
  options = dict(share=0.2, max_weight=4.0) | more
  found = quota.weigh(score_N, pool, mixture_K, **options)
  return found, np.exp(np.float64(found.log_w_N))


def told(found, name):
  return np.array([row[name] for row in found.history])


def test_every_domain_gets_its_quota_and_gives_its_best():
  found, w_N = weigh(max_weight=20.0)
  np.testing.assert_allclose(
    np.bincount(DOMAIN_N, Q_N * w_N), MIXTURE_K, rtol=1e-6
  )
  kept_N = w_N > 1e-3
  for k in range(K):
    inside_N = np.equal(DOMAIN_N, k)
    # Equal weights, for the best alone; ties by id.
    assert np.ptp(w_N[inside_N & kept_N]) < 1e-4
    order_N = np.lexsort((POOL.key_N, -SCORE_N))
    own = order_N[inside_N[order_N]]
    count = kept_N[own].sum()
    assert kept_N[own[:count]].all()
    # The shortest prefix that reaches the share.
    held = np.cumsum(Q_N[own])
    wanted = 0.2 * MIXTURE_K[k]
    assert held[count - 1] >= min(wanted, Q_K[k]) > held[count - 2]
  np.testing.assert_allclose(told(found, "quota"), MIXTURE_K)
  np.testing.assert_array_equal(
    told(found, "kept"), np.bincount(DOMAIN_N[kept_N])
  )
  np.testing.assert_array_equal(
    told(found, "tokens"),
    np.bincount(DOMAIN_N, POOL.tokens_N * kept_N).astype(int),
  )
  assert not told(found, "lacks_tokens").any()
  json.dumps(found.history)  # as recipe.json keeps it


def test_a_domain_that_is_too_small_is_told_and_repeated():
  mixture_K = np.array([0.02, 0.02, 0.02, 0.02, 0.92])
  found, w_N = weigh(mixture_K, share=0.2, max_weight=100.0)
  last_N = DOMAIN_N == 4
  # All of it stays, with one weight.
  np.testing.assert_allclose(w_N[last_N], 0.92 / Q_K[4], rtol=1e-6)
  lacks = (0.2 * 0.92 - Q_K[4]) * POOL.tokens_N.sum()
  np.testing.assert_allclose(
    told(found, "lacks_tokens"), [0, 0, 0, 0, lacks], atol=0.5
  )
  assert lacks > 1000
  # Under the cap it gives up what it cannot repeat, to the others alike.
  _, w_N = weigh(mixture_K, share=0.2, max_weight=3.0)
  flow_K = np.bincount(DOMAIN_N, Q_N * w_N)
  assert w_N.max() <= 3 * (1 + 1e-6)
  np.testing.assert_allclose(flow_K[4], 3 * Q_K[4], rtol=1e-6)
  np.testing.assert_allclose(flow_K[:4], (1 - flow_K[4]) / 4, rtol=1e-6)


def test_no_document_is_repeated_too_often_whatever_the_share():
  for share, max_weight in ((1e-6, 2.0), (0.01, 4.0), (1.0, 1.5)):
    _, w_N = weigh(share=share, max_weight=max_weight)
    assert w_N.max() <= max_weight * (1 + 1e-6)
    np.testing.assert_allclose(Q_N @ w_N, 1, rtol=1e-6)
  _, w_N = weigh(Q_K, share=1.0)
  np.testing.assert_allclose(w_N, 1, rtol=1e-6)


def test_the_order_of_documents_says_nothing():
  order = np.random.default_rng(1).permutation(N)
  pool = POOL._replace(
    key_N=POOL.key_N[order],
    tokens_N=POOL.tokens_N[order],
    domain_N=DOMAIN_N[order],
  )
  _, one = weigh()
  _, two = weigh(pool=pool, score_N=SCORE_N[order])
  np.testing.assert_allclose(two, one[order], rtol=1e-5)


def test_equal_scores_leave_the_choice_to_the_ids():
  _, w_N = weigh(score_N=np.zeros(N))
  for k in range(K):
    inside_N = k == DOMAIN_N
    kept_N = inside_N & (w_N > 1e-3)
    assert POOL.key_N[kept_N].max() < POOL.key_N[inside_N & ~kept_N].min()


def test_empty_domains_and_quotas_of_nothing():
  # Domain 5 has no documents; domain 0 gets nothing.
  mixture_K = np.array([0.0, 0.4, 0.2, 0.2, 0.1, 0.1])
  found, w_N = weigh(mixture_K, max_weight=20.0)
  flow_K = np.bincount(DOMAIN_N, Q_N * w_N)
  np.testing.assert_allclose(w_N[DOMAIN_N == 0], scoring.LEAST, rtol=1e-5)
  np.testing.assert_allclose(flow_K[1:], mixture_K[1:5] / 0.9, rtol=1e-5)
  assert told(found, "documents")[5] == told(found, "kept")[5] == 0


def facts() -> Any:
  """Of the shared documents, with a target that is in two domains alone."""
  known = world.facts(max_weight=4.0)
  return known._replace(earlier_log_w_K=np.log([2.0, np.nan, 0.5, 0.25]))


def flow(method, known):
  state = method.init(jax.random.key(0), known)
  pool = known.pool
  w_N = np.exp(np.float64(method.finalize(state).log_w_N))
  q_N = pool.tokens_N / pool.tokens_N.sum()
  return np.bincount(pool.domain_N, q_N * w_N, minlength=world.K)


def test_the_mixture_is_natural_that_of_the_targets_or_an_earlier_one():
  known = facts()
  q_K = known.domain_mass_K / known.domain_mass_K.sum()
  make = functools.partial(quota.make, scorer="random_documents", share=0.5)
  np.testing.assert_allclose(
    flow(make(mixture="natural"), known), q_K, rtol=1e-5
  )
  target_K = 0.999 * known.target_domain_TK.mean(axis=0) + 0.001 * q_K
  np.testing.assert_allclose(
    flow(make(mixture="crisp"), known), target_K, rtol=1e-4
  )
  # A domain that is new since weighs one.
  earlier = make(mixture="recipe:runs/one")
  expected_K = q_K * [2.0, 1.0, 0.5, 0.25]
  np.testing.assert_allclose(
    flow(earlier, known), expected_K / expected_K.sum(), rtol=1e-5
  )
  assert earlier.extends == "runs/one" and make(mixture="crisp").extends == ""
  assert [make(mixture=x).targeted for x in ("natural", "crisp")] == [0, 1]
  assert quota.make(mixture="natural").targeted  # the classifier is
  bare = known._replace(target_domain_TK=np.zeros((0, world.K)))
  with pytest.raises(UserError, match="came no target: set config.data.target"):
    make(mixture="crisp").init(jax.random.key(0), bare)


SCORERS = [
  name
  for name, module in METHODS.items()
  if name
  not in ("quota", "associated")  # the second has an order, and no score
  and (made := module.make()).weighs == "documents"
  and made.loop in ("none", "look")
]


@pytest.mark.parametrize("name", SCORERS)
def test_every_scorer_can_choose_within_quotas(name):
  inner = METHODS[name].make(**METHODS[name].PLANTED.options)
  method = quota.make(scorer=inner, mixture="natural", share=0.4)
  for field in ("loop", "features", "look", "curate", "signals", "targeted"):
    assert getattr(method, field) == getattr(inner, field)
  known = world.measured_facts(method, facts())
  np.testing.assert_allclose(
    flow(method, known), known.domain_mass_K, rtol=1e-4, atol=1e-6
  )


def test_the_files_of_a_scorer_are_read_for_it():
  for name, options in (
    ("metaclip", {"entries": "words.txt"}),
    ("quality", {"labels": "labels.jsonl"}),
  ):
    inner = METHODS[name].make(**options)
    method = quota.make(scorer=inner, mixture="natural")
    for field in ("entries", "labels"):
      assert getattr(method, field) == getattr(inner, field)


def test_reasons_say_where_a_document_stands_in_its_domain():
  method = quota.make(scorer="random_documents", mixture="natural", share=0.3)
  known = facts()
  state = method.init(jax.random.key(0), known)
  found = method.reasons(state)
  assert found is not None
  inside = np.flatnonzero(np.equal(known.pool.domain_N, 1))
  first = int(inside[np.argmax(state.score_N[inside])])
  assert found.text(first, {}) == (
    f"place 1 of the {len(inside)} documents of domain 1, whose quota keeps "
    f"{state.history[1]['kept']}"
  )


def test_the_scorer_has_the_options_of_its_own_block():
  loaded = config.load(
    "configs/default.py",
    ["quota.scorer=random_documents", "random_documents.share=0.25"],
  )
  made = build.make_method("quota", loaded)
  assert made is build.make_method("quota", loaded)
  with loaded.unlocked():
    loaded.random_documents.share = 2.0
  with pytest.raises(UserError, match="config.random_documents: share"):
    build.make_method("quota", loaded)
  loaded.quota.scorer = "quota"
  with pytest.raises(UserError, match="config.quota: Unknown scorer 'quota'"):
    build.make_method("quota", loaded)
  loaded.quota.scorer = "dsri"
  with pytest.raises(UserError, match="Unknown scorer 'dsri'. Known: betr"):
    build.make_method("quota", loaded)


def test_a_variant_may_set_the_options_of_its_scorer():
  loaded = config.load("configs/compare.py", [])
  mine = ["quota", "quota.scorer=dsir", "dsir.share=0.25"]
  with loaded.unlocked():
    loaded.variants.mine = tuple(mine)
    loaded.variants.other = (*mine[:2], "classifier.share=0.25")
  assert variants.config_of("mine", loaded).dsir.share == 0.25
  with pytest.raises(UserError, match="'classifier.share=0.25'; a variant may"):
    variants.config_of("other", loaded)


@pytest.mark.parametrize(
  ("options", "message"),
  [
    (dict(share=0.0), "share = 0.0 must be above 0"),
    (dict(share=1.5), "share = 1.5 must be from 0 to 1"),
    (dict(mixture="uniform"), "Unknown mixture 'uniform'. Known: crisp, nat"),
    (dict(mixture="recipe:"), "Unknown mixture 'recipe:'"),
    (dict(scorer="crisp"), "Unknown scorer 'crisp'. Known: betr, cit"),
    (dict(scorer="cmtree"), "Unknown scorer 'cmtree'. Known: betr, cit"),
  ],
)
def test_nonsense_is_told(options, message):
  with pytest.raises(ValueError, match=message):
    quota.make(**options)


def test_within_a_domain_the_scorer_alone_decides():
  known = facts()
  inner = classifier.make(share=0.4)
  score_N = inner.init(jax.random.key(0), known).score_N
  method = quota.make(scorer=inner, mixture="crisp", share=0.4)
  state = method.init(jax.random.key(0), known)
  kept_N = np.exp(np.float64(state.log_w_N)) > 1e-3
  for k in range(world.K):
    inside_N = np.equal(known.pool.domain_N, k)
    left = score_N[inside_N & ~kept_N]
    if len(left):
      assert score_N[inside_N & kept_N].min() >= left.max()
