"""The start by the density ratio: its optimum by hand, its limit, what may move."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.optimize

from cmtree_jax.tree import density_ratio, mixture, model, starts
from cmtree_jax.tree.density_ratio import Texts
from cmtree_jax.tree.mixture import Sample

NO_LIMIT = 1e9
ADAM = optax.adam(0.05)
STILL = optax.multi_transform(
  {"tilt": ADAM, "partition": optax.set_to_zero()},
  lambda theta: tuple(
    model.Level("partition", "partition", "partition", "tilt") for _ in theta
  ),
)


def documents(shares, seed, number=400):
  """Documents around three directions, so many in each; masses that sum to one."""
  rng = np.random.default_rng(seed)
  kind_N = np.repeat(
    np.arange(3), np.round(number * np.asarray(shares)).astype(int)
  )
  features = np.eye(4)[kind_N] + rng.normal(0, 0.03, (len(kind_N), 4))
  mass_N = rng.uniform(0.5, 1.5, len(kind_N))
  return features.astype(np.float32), mass_N / mass_N.sum(), kind_N


def tree(directions, targets=1):
  """One level of some leaves, sharp, with tilts for every target."""
  return (
    model.Level(
      jnp.eye(4),
      jnp.asarray(directions, jnp.float32)[None],
      jnp.log(jnp.float32(200.0)),
      jnp.zeros((targets, 1, len(directions))),
    ),
  )


# Leaves of the first kind, and of the two others together.
KNOWN = tree([[1, 0, 0, 0], [0, 1, 1, 0]])
CORPUS = documents((0.5, 0.3, 0.2), 0)
TARGET = documents((0.1, 0.7, 0.2), 1)

TEXTS = Texts(
  Sample(*CORPUS[:2]), (Sample(*TARGET[:2]),), (Sample(*TARGET[:2]),), {}
)


def fit(start, texts=TEXTS, *, max_weight, seed=0, **options):
  """The tree that is found, with its weights for tilts."""
  found = density_ratio.fit(
    jax.random.key(seed),
    start,
    texts,
    max_weight=max_weight,
    num_steps=150,
    batch=256,
    **options,
  )
  return starts.merged(found, texts.corpus, max_weight=max_weight)


def leaf_w(theta):
  """Weights of the leaves, of mean one over the corpus."""
  log_p_NL = model.log_p_leaf(theta, CORPUS[0])
  tilt_L = mixture.leaf_tilt(theta)
  return jnp.exp(
    mixture.weigh(tilt_L, log_p_NL, jnp.asarray(CORPUS[1]), max_weight=NO_LIMIT)
  )


def log_w(theta, documents):
  """Log-weights of documents."""
  log_p_BL = model.log_p_leaf(theta, documents[0])
  return mixture.document_log_w(log_p_BL, jnp.log(leaf_w(theta)))


def test_tilts_alone_find_the_ratio_of_masses():
  theta = fit(KNOWN, optimizer=STILL, max_weight=NO_LIMIT)
  for before, after in zip(KNOWN[0][:3], theta[0][:3], strict=True):
    np.testing.assert_array_equal(before, after)
  for kinds in ((0,), (1, 2)):
    mass = [one[1][np.isin(one[2], kinds)].sum() for one in (CORPUS, TARGET)]
    of_leaf = np.isin(CORPUS[2], kinds)
    found = np.exp(np.asarray(log_w(theta, CORPUS))[of_leaf])
    # The floor under held-out weights, .02, moves a small one by as much,
    np.testing.assert_allclose(found, mass[1] / mass[0], atol=0.04)
    # for the likeliest tree has the ratio with the floor under its weights.
    found = np.log(0.98 * found + 0.02)
    np.testing.assert_allclose(found, np.log(mass[1] / mass[0]), atol=0.05)


def test_a_partition_that_moves_finds_a_likelier_ratio():
  # The target wants the second kind, which this partition has hardly told apart: were
  # it not at all, rounding alone would say where to move.
  start = tree([[1, 0.56, 0, 0], [0, 0.5, 1, 0]])
  likelihood = {
    name: float(TARGET[1] @ log_w(theta, TARGET))
    for name, theta in {
      "start": starts.merged(start, TEXTS.corpus, max_weight=NO_LIMIT),
      "tilts": fit(start, optimizer=STILL, max_weight=NO_LIMIT),
      "all": fit(start, optimizer=ADAM, max_weight=NO_LIMIT),
    }.items()
  }
  assert likelihood["start"] == pytest.approx(0, abs=1e-6)
  assert likelihood["tilts"] < 0.05
  assert likelihood["all"] > 0.3


def test_one_leaf_that_scores_is_the_log_linear_density_ratio():
  # A level sees unit vectors.
  z_NE, z_ME = (
    one[0] / np.linalg.norm(one[0], axis=1, keepdims=True)
    for one in (CORPUS, TARGET)
  )
  masses = CORPUS[1], TARGET[1]

  def cost(s_E):
    f_N = z_NE @ s_E
    mean = np.log(masses[0] @ np.exp(f_N))
    w_N = masses[0] * np.exp(f_N - mean)
    return mean - masses[1] @ (z_ME @ s_E), w_N @ z_NE - masses[1] @ z_ME

  direct = scipy.optimize.minimize(cost, np.zeros(4), jac=True)
  start = model.with_scores(tree([[1, 1, 1, 1]]))
  theta = fit(start, optimizer=optax.adam(0.1), max_weight=NO_LIMIT)
  assert theta[0].score_MCP is not None
  found, _ = cost(np.asarray(theta[0].score_MCP, np.float64)[0, 0])
  gained = cost(np.zeros(4))[0] - direct.fun
  assert gained > 0.2
  # Every step draws documents anew, and small features want long slopes.
  assert found - direct.fun < 0.05 * gained
  # Tilt and score together are the weights, of mean one.
  f_N = mixture.score(model.place(theta, CORPUS[0]), theta[0].tilt_MC[0])
  assert masses[0] @ np.exp(f_N) == pytest.approx(1, rel=1e-4)


@pytest.mark.parametrize("limit", [1.2, 1.5])
def test_no_weight_is_above_the_bound_and_one_is_there(limit):
  theta = fit(KNOWN, optimizer=ADAM, max_weight=limit)
  log_w_N = log_w(theta, CORPUS)
  assert float(jnp.max(log_w_N)) == pytest.approx(np.log(limit), abs=1e-3)
  # The tilts are the weights, whatever the bound is later on.
  np.testing.assert_allclose(
    mixture.leaf_tilt(theta), np.log(leaf_w(theta)), atol=1e-4
  )
  share = mixture.effective_sample_size(log_w_N, CORPUS[1])
  assert 1 / limit <= float(share) < 1


def test_equal_keys_give_equal_trees_and_others_do_not():
  arguments = dict(optimizer=ADAM, max_weight=3.0)
  first, again = (fit(KNOWN, **arguments) for _ in range(2))
  jax.tree.map(np.testing.assert_array_equal, first, again)
  other = fit(KNOWN, seed=1, **arguments)
  assert not np.array_equal(first[0].prototype_MCP, other[0].prototype_MCP)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("moves", ["tilts", "all"])
def test_the_likeliest_tree_of_what_is_held_out_is_kept(moves, seed):
  # Two texts say the second kind, those that are held out the first.
  few = Sample(CORPUS[0][CORPUS[2] == 1][:2], np.full(2, 0.5))
  others = Sample(*(x[CORPUS[2] == 0] for x in CORPUS[:2]))
  start, optimizer = KNOWN, STILL
  if moves == "all":
    # A cut as sharp as that has next to no gradient, so that with Adam rounding
    # decides where it goes; that of a softer tree has one.
    start = (KNOWN[0]._replace(log_kappa=jnp.log(jnp.float32(10.0))),)
    optimizer = optax.adam(0.01)
  arguments = dict(seed=seed, optimizer=optimizer, max_weight=NO_LIMIT)
  sure = fit(
    start, TEXTS._replace(targets=(few,), held_out=(few,)), **arguments
  )
  # It would have gone on: towards all of the weight on the half of the corpus that
  # has the kind's leaf, a gain of log 2, or on less of it.
  assert float(jnp.mean(log_w(sure, few))) > 0.5
  stopped = fit(
    start, TEXTS._replace(targets=(few,), held_out=(others,)), **arguments
  )
  for before, after in zip(start[0][:3], stopped[0][:3], strict=True):
    np.testing.assert_array_equal(before, after)
  # The read-out of the start, whose tilts are zero.
  np.testing.assert_allclose(leaf_w(stopped), 1.0, atol=1e-6)


def test_a_target_in_a_tiny_leaf_keeps_its_share_of_the_tokens():
  """What the cap takes from it goes to what is next like it, not to others."""
  # Most texts of the first target are of a kind that one in two hundred documents
  # has, some of a kind like it; the two others want the last kind.
  corpus = Sample(*documents((0.005, 0.2, 0.795), 2, number=4000)[:2])
  wanted = (0.9, 0.1, 0.0), (0.0, 0.0, 1.0), (0.0, 0.1, 0.9)
  targets = tuple(
    Sample(*documents(shares, seed)[:2]) for seed, shares in enumerate(wanted)
  )
  kinds = np.eye(4)[:3]
  _, _, kind_N = documents((0.005, 0.2, 0.795), 2, number=4000)

  partition = (tree(kinds)[0]._replace(tilt_MC=jnp.zeros((1, 3))),)

  def share(groups):
    """Of the first two kinds, with tilts for every group of targets."""
    together = [
      Sample(
        np.concatenate([targets[i].features for i in group]),
        np.concatenate([targets[i].mass_N for i in group]),
      )
      for group in groups
    ]
    each = [
      starts.with_similarity_tilts(partition, corpus, one) for one in together
    ]
    start = mixture.stacked(each)
    texts = Texts(corpus, tuple(together), tuple(together), {})
    theta = fit(start, texts, optimizer=ADAM, max_weight=20.0)
    log_p_NL = model.log_p_leaf(theta, corpus.features)
    log_w_L = mixture.weigh(
      mixture.leaf_tilt(theta),
      log_p_NL,
      jnp.asarray(corpus.mass_N),
      max_weight=20.0,
    )
    w_N = np.exp(mixture.document_log_w(log_p_NL, log_w_L))
    assert w_N.max() < 20.001
    return (corpus.mass_N * w_N)[kind_N < 2].sum()

  # A third is the first target's, and a thirtieth the last one's.
  assert share([(0,), (1,), (2,)]) > 0.3
  assert share([(0, 1, 2)]) < 0.25
