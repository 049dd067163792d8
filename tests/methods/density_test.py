"""Density-based pruning: the authors' complexities, quotas, what is planted."""

import json
import pathlib

import jax
import numpy as np
import pytest

from cmtree_jax.methods import density
from cmtree_jax.methods.base import Documents
from cmtree_jax.selection import kmeans
from cmtree_jax.selection.kmeans import Clusters
from cmtree_jax.types import UserError
from tests.methods import measured, world

CASES = pathlib.Path(__file__).parent / "cases"
CASE = np.load(CASES / "dbp_io.npz")
COUNTS = json.loads((CASES / "dbp_counts.json").read_text())
# A dense concept, a wide one, and a small one of the same width.
SIZES, E = (50, 50, 12), 12
N = sum(SIZES)
CONCEPT_N = np.repeat(np.arange(3), SIZES)


def pool() -> Documents:
  rng = np.random.default_rng(0)
  width_N1 = np.where(CONCEPT_N == 0, 0.05, 0.5)[:, None]
  noise_NE = width_N1 * rng.normal(size=(N, E))
  return Documents(
    rng.integers(2**63, size=N, dtype=np.uint64),
    rng.integers(20, 90, N),
    (2 * np.eye(3, E)[CONCEPT_N] + noise_NE).astype(np.float32),
    CONCEPT_N,
  )


POOL = pool()
TOKENS_K = np.bincount(CONCEPT_N, POOL.tokens_N)


def found(documents=POOL, *, max_weight=100.0, **options):
  known = world.facts(max_weight)._replace(
    pool=documents, train=(), validation=()
  )
  return density.make(**options).init(jax.random.key(0), known)


def kept(state) -> np.ndarray:
  return state.log_w_N > -1


def held(state) -> np.ndarray:
  """Tokens that the concepts keep."""
  return np.bincount(CONCEPT_N, POOL.tokens_N * kept(state), minlength=3)


def given() -> Clusters:
  cosine_N = np.einsum(
    "ne,ne->n", CASE["embeddings"], CASE["centroids"][CASE["labels"]]
  )
  return Clusters(CASE["centroids"], CASE["labels"], cosine_N)


def test_the_authors_code_gives_the_same_complexities():
  """amro-kamal/effective_pruning at 42c8e54, three neighbors of each center."""
  found_L = density.complexity(given(), nearest=int(CASE["num_NNs"]))
  np.testing.assert_allclose(found_L, CASE["complexity"], rtol=1e-5)


@pytest.mark.parametrize("name", COUNTS)
def test_the_authors_chances_and_the_exact_quotas(name):
  case = COUNTS[name]
  settings = dict(part.split("=") for part in name.split("|"))
  p_L = density.chances(CASE["complexity"], float(settings["T"]))
  np.testing.assert_allclose(p_L, case["probs"], rtol=1e-5)
  size_L, total = CASE["cluster_sizes"], case["target"]
  # They round the least quota down, and let no cluster be kept whole by it.
  least = max(case["lb"])
  quota_L = density.quotas(
    p_L, size_L, total=total, balance=least * len(p_L) / total
  )
  assert quota_L.sum() == pytest.approx(total)
  assert (quota_L >= np.minimum(least, size_L) - 1e-9).all()
  assert (quota_L <= size_L + 1e-9).all()
  np.testing.assert_allclose(
    quota_L, case["exact_counts"], rtol=1e-5, atol=least > 1
  )


@pytest.mark.parametrize("share", [0.2, 0.5, 0.9])
@pytest.mark.parametrize("keep", density.duplicates.KEEP)
def test_a_share_of_the_tokens_is_met(share, keep):
  tokens_N = POOL.tokens_N[kept(found(share=share, keep=keep))]
  wanted = share * POOL.tokens_N.sum()
  assert wanted <= tokens_N.sum() < wanted + POOL.tokens_N.max()


def test_a_dense_concept_shrinks_and_a_wide_one_stays():
  state = found(share=0.5, within="domains")
  share_K = held(state) / TOKENS_K
  assert share_K[0] < 0.6 < share_K[1]
  assert share_K[2] > 0.9  # as complex, and small: its part is all that it has
  (row,) = state.history
  assert row["clusters"] == 3
  assert 2 < row["clusters_of_equal_quota"] < 3


def test_concepts_keep_their_quotas():
  """Within the middle of a document."""
  options = {"share": 0.4, "temperature": 0.3, "within": "domains"}
  clusters = density.clustered.of(POOL, within="domains", clusters=0, seed=0)
  p_K = density.chances(density.complexity(clusters), 0.3)
  quota_K = density.quotas(
    p_K, TOKENS_K, total=0.4 * TOKENS_K.sum(), balance=0.5
  )
  np.testing.assert_allclose(
    held(found(**options)), quota_K, atol=POOL.tokens_N.max()
  )


def test_a_quota_is_rounded_to_the_nearest_document():
  even = POOL._replace(tokens_N=np.full(N, 10))
  groups = [np.arange(4), np.arange(4, 6)]
  place_N = density.places(groups, even, np.array([24.0, 16.0]))
  assert (place_N[:6] < 1).tolist() == [True, True, False, False, True, True]


def test_a_hot_temperature_gives_equal_quotas_and_a_cold_one_the_least():
  options = {"share": 0.25, "within": "domains"}
  total = 0.25 * TOKENS_K.sum()
  most = float(POOL.tokens_N.max())
  equal_K = held(found(temperature=1e6, **options))
  np.testing.assert_allclose(equal_K, total / 3, atol=most)
  cold = found(temperature=1e-3, balance=0.6, **options)
  # One of the wide concepts takes what the least quotas leave.
  assert held(cold)[0] == pytest.approx(0.6 * total / 3, abs=most)
  assert cold.history[0]["clusters_of_equal_quota"] == pytest.approx(1.0)
  none = found(temperature=1e-3, balance=0.0, share=0.1, within="domains")
  assert held(none)[0] == 0


@pytest.mark.parametrize(("keep", "sign"), [("hard", 1), ("easy", -1)])
def test_of_a_concept_the_farthest_or_the_nearest_stay(keep, sign):
  kept_N = kept(found(share=0.4, keep=keep, within="domains"))
  clusters = density.clustered.of(POOL, within="domains", clusters=0, seed=0)
  for concept in range(2):
    here = concept == CONCEPT_N
    near_N = sign * clusters.cosine_N
    assert near_N[kept_N & here].max() <= near_N[~kept_N & here].min()


def test_the_order_of_documents_changes_nothing():
  order = np.random.default_rng(1).permutation(N)
  moved = measured.shuffled(POOL, order)
  for keep in density.duplicates.KEEP:
    np.testing.assert_array_equal(
      found(keep=keep).log_w_N[order], found(moved, keep=keep).log_w_N
    )


def test_one_concept_alone_keeps_its_share():
  """All documents equal: one cluster, no center to be far from."""
  same = POOL._replace(
    embedding_NE=np.ones((N, E), np.float32), tokens_N=np.full(N, 9)
  )
  assert kept(found(same, share=0.25)).sum() == N / 4
  clusters = kmeans.given(POOL.embedding_NE, np.zeros(N, int))
  assert np.isfinite(density.complexity(clusters)).all()
  alone = found(share=0.25, clusters=1)
  assert alone.history[0]["clusters_of_equal_quota"] == 1


def test_a_domain_without_documents_has_no_quota():
  gap = POOL._replace(domain_N=2 * CONCEPT_N)
  options = {"share": 0.5, "within": "domains"}
  np.testing.assert_array_equal(
    found(gap, **options).log_w_N, found(**options).log_w_N
  )


def test_a_document_says_how_much_its_cluster_keeps():
  state = found(share=0.5, within="domains")
  out = int(np.flatnonzero(~kept(state) & (CONCEPT_N == 0))[0])
  assert state.reasons is not None
  told = state.reasons.text(out, {})
  kept_share = held(state)[0] / TOKENS_K[0]
  assert told.startswith("its cluster of 50 documents keeps ")
  percent = float(told.split("keeps ")[1].split("%")[0])
  assert percent == pytest.approx(100 * kept_share, abs=3)


def test_more_clusters_than_documents_are_refused():
  with pytest.raises(UserError, match=f"Cannot make 1000 clusters of {N}"):
    found(clusters=1000)


@pytest.mark.parametrize(
  "options",
  [
    {"share": 0.0},
    {"temperature": 0.0},
    {"balance": 1.5},
    {"keep": "soft"},
    {"within": "sources"},
    {"clusters": -1},
  ],
)
def test_options_out_of_range_are_refused(options):
  with pytest.raises(ValueError, match=r"must be|Known"):
    density.make(**options)
