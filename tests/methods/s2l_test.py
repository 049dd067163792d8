"""S2L: kinds of trajectories, and equal draws from each."""

import jax
import numpy as np
import pytest
from sklearn.metrics import adjusted_rand_score

from cmtree_jax.methods import s2l
from cmtree_jax.types import UserError
from tests.methods import measured

# How losses fall: at once, late, never; and how many do so.
SHAPES = np.array([[9, 3, 2, 2], [9, 8, 7, 3], [9, 9, 9, 9]], float)
COUNTS = (90, 24, 6)
KIND_N = np.repeat(range(3), COUNTS)
RNG = np.random.default_rng(0)
POOL = measured.documents(
  loss_ON=SHAPES[KIND_N].T + RNG.normal(0, 0.2, (4, len(KIND_N)))
)
FACTS = measured.known(POOL)
Q_N = POOL.tokens_N / POOL.tokens_N.sum()


def held(share, **options) -> np.ndarray:
  """Tokens that are kept of each kind, as shares of the pool's."""
  method = s2l.make(share=share, clusters=3, checkpoints=4, **options)
  kept = measured.kept(method, FACTS)
  return np.bincount(KIND_N[kept], Q_N[kept], minlength=3)


def test_kinds_of_trajectories_are_told_apart():
  cluster_N = s2l.alike(POOL, clusters=3, seed=0)
  assert adjusted_rand_score(KIND_N, cluster_N) == 1


@pytest.mark.parametrize("share", [0.1, 0.2, 0.4])
def test_small_kinds_are_kept_whole_and_others_alike(share):
  size_K = np.bincount(KIND_N, Q_N)
  level = min(
    np.linspace(0, 1, 10_001),
    key=lambda c: abs(np.minimum(size_K, c).sum() - share),
  )
  np.testing.assert_allclose(
    held(share), np.minimum(size_K, level), atol=1.5 * Q_N.max()
  )


def test_the_whole_share_is_the_whole_pool():
  np.testing.assert_allclose(held(1.0), np.bincount(KIND_N, Q_N))


def test_budget_and_order():
  method = s2l.make(share=0.3, clusters=3, checkpoints=4)
  measured.assert_budget(method, FACTS, 0.3)
  measured.assert_order_is_nothing(method, FACTS)


def test_a_larger_share_holds_a_smaller_one():
  some, more = (
    set(measured.kept(s2l.make(share=share, clusters=3), FACTS))
    for share in (0.2, 0.5)
  )
  assert some < more


def test_one_cluster_draws_at_random():
  """Then the method is random documents, and another key draws others."""
  method = s2l.make(share=0.3, clusters=1)
  drawn = [
    np.exp(method.init(jax.random.key(seed), FACTS).log_w_N) > 0.1
    for seed in range(40)
  ]
  # Each is drawn with the same probability: five deviations of 40 draws.
  np.testing.assert_allclose(np.mean(drawn, axis=0), 0.3, atol=0.36)
  assert len({one.tobytes() for one in drawn}) == 40


def test_clusters_are_fitted_on_a_part_and_read_in_chunks(monkeypatch):
  whole_N = s2l.alike(POOL, clusters=3, seed=0)
  monkeypatch.setattr(s2l.scoring, "CHUNK", 7)
  np.testing.assert_array_equal(s2l.alike(POOL, clusters=3, seed=0), whole_N)
  monkeypatch.setattr(s2l, "_FITTED", 60)
  some_N = s2l.alike(POOL, clusters=3, seed=0)
  assert adjusted_rand_score(KIND_N, some_N) == 1


def test_equal_trajectories_are_one_kind():
  equal = measured.known(measured.documents(loss_ON=np.ones((4, 30))))
  with pytest.warns(match="distinct clusters"):
    measured.assert_budget(s2l.make(share=0.4, clusters=3), equal, 0.4)


def test_more_clusters_than_documents_are_refused():
  with pytest.raises(UserError, match=r"200 clusters of 120 .*s2l\.clusters"):
    measured.found(s2l.make(clusters=200), FACTS)


@pytest.mark.parametrize(
  "options", [{"share": 0.0}, {"clusters": 0}, {"checkpoints": 0}]
)
def test_options_out_of_range_are_refused(options):
  with pytest.raises(ValueError, match="must be"):
    s2l.make(**options)
