"""The tree before the first round, as the options of `cmtree` ask for it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cmtree_jax import embed
from cmtree_jax.tree import mixture, model
from cmtree_jax.types import UserError
from tests.methods.world import SAMPLE, assert_equal, facts, make


def start(seed=0, known=None, *, kind, max_weight=33.0, **options):
  first = dict(kind=kind, max_weight=max_weight)
  method = make("cmtree", start=first, **options)
  return method.init(jax.random.key(seed), known or facts()).theta


def partition(theta):
  return [(level.angle_PE, level.prototype_MCP) for level in theta]


@pytest.mark.parametrize("oblivious", [False, True])
@pytest.mark.parametrize("projection", ["per_level", "shared"])
@pytest.mark.parametrize("kind", ["kmeans", "random"])
def test_weights_have_mean_one_and_no_leaf_is_empty(
  kind, projection, oblivious
):
  method = make(
    "cmtree", start=dict(kind=kind), projection=projection, oblivious=oblivious
  )
  state = method.init(jax.random.key(0), facts())
  log_p_NL = model.log_p_leaf(state.theta, jnp.asarray(SAMPLE["sample_NE"]))
  mass_N = SAMPLE["sample_mass_N"]
  log_w_N = mixture.document_log_w(log_p_NL, state.log_w_L)
  np.testing.assert_allclose(mass_N @ np.exp(log_w_N), 1.0, rtol=1e-5)
  assert np.ptp(log_w_N) > 0.1  # tilted towards the target
  assert (mass_N @ np.exp(log_p_NL)).min() > 0.02
  root, below = state.theta
  for level in (root, below):
    np.testing.assert_allclose(
      level.angle_PE @ level.angle_PE.T, np.eye(3), atol=1e-5
    )
    np.testing.assert_allclose(np.exp(level.log_kappa), 4.0, rtol=1e-6)
  same = bool((root.angle_PE == below.angle_PE).all())
  assert same == (projection == "shared")


def test_a_shared_angle_is_that_of_the_root():
  np.testing.assert_array_equal(
    start(kind="kmeans", projection="shared")[1].angle_PE,
    start(kind="kmeans")[0].angle_PE,
  )


VIEWS = (embed.Block("first", 0, 2), embed.Block("second", 2, 6))


@pytest.mark.parametrize("penalty", [0.0, 0.1])
@pytest.mark.parametrize("kind", ["kmeans", "ratio"])
def test_levels_take_turns_at_views(kind, penalty):
  """The density ratio moves them on, if nobody is charged for it."""
  known = facts()._replace(blocks=VIEWS)
  first = dict(kind=kind, angles="views", steps=20)
  method = make("cmtree", start=first, step=dict(view_penalty=penalty))
  root, below = method.init(jax.random.key(0), known).theta
  # A view of two features has no three directions.
  assert root.angle_PE.shape == (2, 6) and below.angle_PE.shape == (3, 6)
  left = [np.abs(root.angle_PE[:, 2:]), np.abs(below.angle_PE[:, :2])]
  if kind == "kmeans":
    assert not np.any(left[0]) and not np.any(left[1])
  else:
    assert all((x.max() > 0.01) == (penalty == 0) for x in left)
  one = facts()._replace(blocks=(embed.Block("all", 0, 6),))
  assert_equal(
    start(known=one, kind="kmeans"), make_start(one, angles="views"), rtol=0
  )


def make_start(known, **first):
  method = make("cmtree", start=dict(kind="kmeans", **first))
  return method.init(jax.random.key(0), known).theta


@pytest.mark.parametrize(
  ("settings", "words"),
  [
    (dict(start=dict(kind="random", angles="views")), "Leave one of the two"),
    (dict(start=dict(angles="sideways")), "sideways"),
    (dict(start=dict(angles="views"), projection="shared"), "per_level"),
    (dict(step=dict(view_penalty=-1.0)), "view_penalty"),
  ],
)
def test_what_says_nothing_of_views_is_refused(settings, words):
  with pytest.raises(ValueError, match=words):
    make("cmtree", **settings)


@pytest.mark.slow
def test_the_density_ratio_makes_the_target_likelier_than_kmeans_does():
  known = facts()._replace(max_weight=100.0)

  def likelihood(theta):
    log_w_L = mixture.weigh(
      mixture.leaf_tilt(theta),
      model.log_p_leaf(theta, jnp.asarray(known.sample_NE)),
      jnp.asarray(known.sample_mass_N),
      max_weight=known.max_weight,
    )
    assert np.exp(log_w_L).max() <= 4.0 * 1.001
    log_p_BL = model.log_p_leaf(theta, jnp.asarray(known.target_NE))
    log_w_B = mixture.document_log_w(log_p_BL, log_w_L)
    return float(np.asarray(known.target_mass_N) @ np.asarray(log_w_B))

  options = dict(kind="ratio", max_weight=4.0, step=dict(partition_rate=0.02))
  joint = start(0, known, **options)
  frozen = start(0, known, mode="frozen", **options)
  assert likelihood(joint) > likelihood(frozen) + 0.05
  assert_equal(
    partition(frozen), partition(start(0, known, kind="kmeans")), rtol=0
  )
  one, two = start(projection="shared", **options)
  np.testing.assert_array_equal(one.angle_PE, two.angle_PE)


def test_where_leaves_score_the_budget_does_not_bound_the_density_ratio():
  # It caps documents afterwards; below so small a bound scores would not move.
  one, two = (
    start(known=facts(R), kind="ratio", scores=True) for R in (1.5, 100.0)
  )
  assert_equal(one, two, rtol=0)
  score_MCP = one[-1].score_MCP
  assert score_MCP is not None
  assert np.linalg.norm(score_MCP, axis=-1).min() > 0.1
  assert one[0].score_MCP is None


def test_leaves_score_as_one_leaf_does_and_not_worse():
  """Where one direction of many tells, each leaf alone would look for it anew."""
  rng = np.random.default_rng(0)

  def drawn(count, tilt):
    x_NE = rng.normal(size=(20 * count, 32))
    x_NE /= np.linalg.norm(x_NE, axis=1, keepdims=True)
    p_N = np.exp(tilt * x_NE[:, 0])
    chosen = rng.choice(len(x_NE), count, replace=False, p=p_N / p_N.sum())
    return x_NE[chosen].astype(np.float32)

  mass_N = np.full(1000, 1e-3, np.float32)
  few_N, one_N = np.full(100, 1e-2, np.float32), np.zeros(100, int)
  known = facts()._replace(
    sample_NE=drawn(1000, 0),
    sample_mass_N=mass_N,
    target_NE=drawn(100, 12),
    target_mass_N=few_N,
    target_of_N=one_N,
    held_out_NE=drawn(100, 12),
    held_out_mass_N=few_N,
    held_out_of_N=one_N,
  )

  def likelihood(branching):
    method = make(
      "cmtree",
      branching=branching,
      scores=True,
      mode="frozen",
      start=dict(kind="ratio", angle_dim=32, steps=60),
    )
    theta = method.init(jax.random.key(0), known).theta
    placed_N = model.place(theta, known.sample_NE)
    tilt_L = mixture.leaf_tilt(theta)
    log_w_L = mixture.normalized(tilt_L, placed_N, mass_N, max_weight=33.0)
    placed_B = model.place(theta, known.held_out_NE)
    return float(jnp.mean(mixture.log_w(placed_B, log_w_L, max_weight=33.0)))

  assert likelihood((16,)) > likelihood((1,)) - 0.05 > 0.5


def test_random_prototypes_are_projected_documents():
  for level in start(kind="random"):
    z_NP = model.normalize(SAMPLE["sample_NE"] @ level.angle_PE.T)
    for prototype_P in level.prototype_MCP.reshape(-1, 3):
      assert np.abs(z_NP - prototype_P).max(axis=1).min() < 1e-5


def test_chance_is_a_matter_of_the_key_and_not_of_the_target():
  one, two = start(0, kind="random"), start(1, kind="random")
  assert_equal(one, start(0, kind="random"), rtol=0)
  assert np.abs(one[0].angle_PE - two[0].angle_PE).max() > 0.1
  other = facts()._replace(target_NE=np.roll(facts().target_NE, 1, 1))
  moved = start(0, other, kind="random")
  assert_equal(partition(one), partition(moved), rtol=0)
  assert np.abs(one[0].tilt_MC - moved[0].tilt_MC).max() > 0.1
  # k-means sees the target.
  moved = start(0, other, kind="kmeans")
  assert (
    np.abs(start(kind="kmeans")[0].angle_PE - moved[0].angle_PE).max() > 0.01
  )


@pytest.mark.parametrize(
  ("option", "known"),
  [
    (dict(start=dict(kind="ward")), "kmeans, random, ratio"),
    (dict(projection="both"), "per_level, shared"),
    (dict(mode="fixed"), "frozen, joint"),
  ],
)
def test_unknown_words_are_refused(option, known):
  with pytest.raises(ValueError, match=f"Unknown .* Known: {known}"):
    make("cmtree", **option)


@pytest.mark.parametrize(
  ("branching", "scores"), [((1,), False), ((1, 2), True), ((), True)]
)
def test_a_level_of_one_child_is_refused_but_for_one_leaf_that_scores(
  branching, scores
):
  with pytest.raises(ValueError, match="at least 2 children, or be one leaf"):
    make("cmtree", branching=branching, scores=scores)


@pytest.mark.parametrize("kind", ["kmeans", "random"])
def test_more_children_than_documents_are_refused(kind):
  with pytest.raises(UserError, match=r"fewer.*config\.cmtree\.branching"):
    start(kind=kind, branching=(5, 40))


def test_no_bound_is_below_the_mean_of_all_weights():
  with pytest.raises(ValueError, match="max_weight 0.5 must be at least 1"):
    make("cmtree", start=dict(max_weight=0.5))
