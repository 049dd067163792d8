"""Sub-pools: nested, fair to every document, and repeating as the budget does."""

from typing import Any

import numpy as np
import pytest

from cmtree_jax import budget
from cmtree_jax.data.draw import sampler
from cmtree_jax.data.draw.subpool import Subpools

N = 2000


def make(epochs=1.0, size=N, strata=7, seed=0, least=0, **plan):
  """Documents of very different lengths, in strata of very different sizes."""
  rng = np.random.default_rng(seed)
  pairs_N = rng.integers(5, 400, size)
  stratum_N = np.sort(
    rng.choice(strata, size, p=rng.dirichlet(np.ones(strata)))
  )
  made = budget.make(
    budget.Plan(epochs=epochs, **{"min_documents": 10, **plan}),
    prepared_tokens=int(pairs_N.sum()),
    parameters=1,
  )
  keys = sampler.document_keys([f"{seed}-{i}" for i in range(size)])
  return Subpools(keys, stratum_N, pairs_N, made, least)


def tokens_of(pools, share):
  """Tokens of a training that stands for the whole by this share."""
  return round(share * pools.budget.tokens)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("least", [0, 2])
def test_a_shorter_training_sees_a_part_of_what_a_longer_one_sees(seed, least):
  pools = make(seed=seed, least=least)
  before_N = np.zeros(N, bool)
  for share in (1e-4, 0.003, 0.02, 0.1, 0.5, 0.9, 1.0, 3.0):
    inside_N = pools.of(tokens_of(pools, share), "final", seed).inside_N
    assert not (before_N & ~inside_N).any()
    before_N = inside_N
  assert before_N.all()


@pytest.mark.parametrize("epochs", [0.1, 1.0, 4.0, 8.0])
@pytest.mark.parametrize("share", [0.02, 0.3])
def test_it_is_seen_as_often_as_the_whole(epochs, share):
  pools = make(epochs)
  for seed in range(3):
    one = pools.of(tokens_of(pools, share), seed)
    assert one.epochs == pytest.approx(
      epochs, rel=0.25 if share < 0.1 else 0.05
    )
    held = pools.pairs_N[one.inside_N].sum()
    assert one.epochs == pytest.approx(tokens_of(pools, share) / held)
    np.testing.assert_allclose(one.mass_N.sum(), 1)
    np.testing.assert_allclose(
      one.mass_N, np.where(one.inside_N, pools.pairs_N, 0) / held
    )


def test_every_stratum_gives_its_share():
  pools = make(strata=5)
  whole_K = np.bincount(pools.stratum_N, pools.pairs_N)
  for seed in range(5):
    one = pools.of(tokens_of(pools, 0.3), seed)
    held_K = np.bincount(pools.stratum_N, pools.pairs_N * one.inside_N)
    # A document more or less of each.
    assert (np.abs(held_K - 0.3 * whole_K) < 400).all()


@pytest.mark.parametrize("size", [1, 2, 5])
def test_a_document_is_in_as_often_as_any_however_few_its_stratum_has(size):
  # Strata of one to five documents, one of them a hundred times the others.
  strata = 400
  stratum_N = np.repeat(np.arange(strata), size)
  pairs_N = np.full(strata * size, 10)
  pairs_N[::size] = 1000
  made = budget.make(
    budget.Plan(min_documents=1),
    prepared_tokens=int(pairs_N.sum()),
    parameters=1,
  )
  keys = sampler.document_keys([str(i) for i in range(len(pairs_N))])
  pools = Subpools(keys, stratum_N, pairs_N, made)
  inside_SN = np.array(
    [pools.of(round(0.2 * made.tokens), seed).inside_N for seed in range(25)]
  )
  for which in {0, size - 1}:  # the long one of every stratum, and a short one
    part_SN = inside_SN[:, which::size]
    error = np.sqrt(0.2 * 0.8 / part_SN.size)
    assert part_SN.mean() == pytest.approx(0.2, abs=4 * error)


def test_equal_numbers_are_equal_and_others_independent():
  pools = make()
  tokens = tokens_of(pools, 0.2)
  one = pools.of(tokens, "search", 3, 0)
  numbers: Any = (np.int64(3), np.int32(0))
  again = pools.of(tokens, "search", *numbers)
  np.testing.assert_array_equal(one.inside_N, again.inside_N)
  others: list[tuple[str | int, ...]]
  others = [("search", 3, 1), ("search", 4, 0), ("final", 3, 0), ("search", 30)]
  shares = [
    (one.inside_N & pools.of(tokens, *number).inside_N).mean()
    for number in others
  ]
  # Of independent draws of a fifth, a twenty-fifth are in both.
  np.testing.assert_allclose(shares, 0.04, atol=0.02)


def test_the_order_of_documents_does_not_matter():
  pools = make()
  order_N = np.random.default_rng(1).permutation(N)
  moved = Subpools(
    pools.key_N[order_N],
    pools.stratum_N[order_N],
    pools.pairs_N[order_N],
    pools.budget,
  )
  tokens = tokens_of(pools, 0.1)
  np.testing.assert_array_equal(
    moved.of(tokens, 0).inside_N, pools.of(tokens, 0).inside_N[order_N]
  )


def test_few_documents_are_filled_up_and_then_repeated_less():
  pools = make(min_documents=300)
  one = pools.of(tokens_of(pools, 0.01), 0)
  assert one.inside_N.sum() == 300
  assert one.epochs < 0.2
  # Its cap is the budget's, though the documents are repeated less often here.
  assert one.max_weight == pools.budget.max_weight == 4
  enough = pools.of(tokens_of(pools, 0.5), 0)
  assert enough.inside_N.sum() > 300
  assert not (one.inside_N & ~enough.inside_N).any()


@pytest.mark.parametrize("size", [1, 2, 30])
def test_a_corpus_smaller_than_the_least_is_seen_whole(size):
  pools = make(size=size, strata=1, min_documents=400)
  one = pools.of(10, 0)
  assert one.inside_N.all()
  w_N = one.weights(np.arange(size) + 1.0)
  np.testing.assert_allclose(one.mass_N @ w_N, 1)


def test_every_stratum_has_the_least_of_documents():
  pools = make(strata=40, least=2, min_documents=1)
  size_K = np.bincount(pools.stratum_N)
  one = pools.of(tokens_of(pools, 1e-3), 0)
  inside_K = np.bincount(pools.stratum_N, one.inside_N)
  assert (inside_K >= np.minimum(size_K, 2)).all()
  # Where the share gives more than that, nothing is added.
  large = pools.of(tokens_of(pools, 0.5), 0)
  plain = pools._replace(least=0).of(tokens_of(pools, 0.5), 0)
  assert large.inside_N.sum() <= plain.inside_N.sum() + 40


@pytest.mark.parametrize("epochs", [0.1, 1.0, 4.0, 8.0])
@pytest.mark.parametrize("share", [0.01, 0.3, 1.0, 2.0])
def test_no_document_is_seen_more_often_than_allowed(epochs, share):
  pools = make(epochs)
  rng = np.random.default_rng(0)
  for seed in range(3):
    one = pools.of(tokens_of(pools, share), seed)
    w_N = np.exp(3 * rng.normal(size=N)) * (rng.random(N) < 0.5)
    v_N = one.weights(w_N)
    assert (v_N[~one.inside_N] == 0).all()
    np.testing.assert_allclose(one.mass_N @ v_N, 1)
    # The natural mixture alone may repeat more; then nothing differs from it.
    most = max(pools.budget.max_epochs, one.epochs)
    assert v_N.max() * one.epochs <= most * (1 + 1e-9)
    assert v_N.max() <= max(1, pools.budget.max_weight) * (1 + 1e-9)


def test_a_sample_too_small_for_the_training_is_repeated_more():
  # A twentieth of the pool is prepared: a training of a tenth wraps round it.
  pools = make(sample_share=0.05)
  one = pools.of(tokens_of(pools, 0.1), 0)
  assert one.inside_N.all()
  assert one.epochs == pytest.approx(2, rel=1e-3)
  assert one.max_weight == pytest.approx(2, rel=1e-3)


def test_a_mixture_of_domains_is_kept_inside():
  pools = make()
  one = pools.of(tokens_of(pools, 0.2), 0)
  domain_N = np.arange(N) % 4
  mixture_K = np.array([0.7, 0.0, 0.3, 0.0])
  weight_N = one.mixed(mixture_K, domain_N)
  share_K = np.bincount(domain_N, one.mass_N * weight_N, 4)
  np.testing.assert_allclose(share_K, mixture_K)
  # A domain that is not in here is left out, and all of them are an error.
  absent_N = np.where(one.inside_N, domain_N, 4)
  both = np.array([0.5, 0, 0, 0, 0.5])
  share_K = np.bincount(absent_N, one.mass_N * one.mixed(both, absent_N), 5)
  np.testing.assert_allclose(share_K, [0.5, 0, 0, 0, 0])
  with pytest.raises(ValueError, match="min_documents"):
    one.mixed(np.array([0, 0, 0, 0, 1.0]), absent_N)


def test_documents_of_one_unit_are_in_together():
  apart = make(strata=1)
  unit_N = apart.key_N[np.arange(N) // 5]
  together = apart._replace(unit_N=unit_N)
  whole = []
  for pools in (apart, together):
    count_N = np.zeros(N)
    for number in range(60):
      inside_N = pools.of(tokens_of(pools, 0.2), number).inside_N
      count_N += inside_N
      of_unit = inside_N.reshape(-1, 5).sum(axis=1)
      whole.append(((of_unit == 5) | (of_unit == 0)).mean())
    # Each document is in as often as by itself.
    assert np.mean(count_N) / 60 == pytest.approx(0.2, abs=0.01)
    assert np.var(count_N) < 1.2 * 60 * 0.2 * 0.8
  # A sub-pool begins and ends within a unit.
  assert min(whole[60:]) > 0.99 and max(whole[:60]) < 0.5
  order = np.random.default_rng(0).permutation(N)
  moved = Subpools(
    together.key_N[order],
    together.stratum_N[order],
    together.pairs_N[order],
    together.budget,
    unit_N=unit_N[order],
  )
  tokens = tokens_of(together, 0.2)
  np.testing.assert_array_equal(
    moved.of(tokens, 0).inside_N, together.of(tokens, 0).inside_N[order]
  )
