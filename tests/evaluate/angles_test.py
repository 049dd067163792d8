"""What levels separate, on trees whose leaves and labels are known."""

import math

import jax.numpy as jnp
import numpy as np
import pytest

from cmtree_jax.evaluate import angles
from cmtree_jax.tree import model

N = 4000


def signs(seed=0):
  """Documents of two independent signs, and a third dimension of noise."""
  rng = np.random.default_rng(seed)
  sign_N2 = rng.choice([-1.0, 1.0], (N, 2))
  noise_N1 = rng.normal(0, 0.1, (N, 1))
  return np.concatenate([sign_N2, noise_N1], axis=1).astype(np.float32)


def tree(*, oblivious=True, second=1):
  """The first level cuts by the first sign, the second by dimension `second`."""

  def level(dimension, nodes, prototypes):
    angle_PE = np.zeros((1, 3))
    angle_PE[0, dimension] = 1.0
    direction_C1 = np.array([[1.0], [-1.0]])
    return model.Level(
      angle_PE=jnp.asarray(angle_PE),
      # Node 1 numbers its children the other way round.
      prototype_MCP=jnp.asarray(
        [direction_C1 * (-1) ** node for node in range(prototypes)]
      ),
      log_kappa=jnp.log(20.0),
      tilt_MC=jnp.zeros((nodes, 2)),
    )

  return level(0, 1, 1), level(second, 2, 1 if oblivious else 2)


FEATURES = signs()
ONE_N, TWO_N = (FEATURES[:, i] > 0 for i in (0, 1))
MASS_N = np.random.default_rng(1).uniform(0.5, 1.5, N)
LABELS = {
  "first": ONE_N.astype(int),
  "second": 7 - 3 * TWO_N,  # any integers
  "both": 2 * ONE_N + TWO_N,
  "neither": np.random.default_rng(2).integers(0, 5, N),
}
# A few times the standard error of an estimate of a few cells.
NOISE = 10 / N


def found(theta):
  rows = angles.separations(theta, FEATURES, MASS_N, LABELS)
  return {(row.level, row.label): row for row in rows}


@pytest.mark.parametrize("oblivious", [False, True])
def test_every_level_tells_what_it_cuts_by(oblivious):
  rows = found(tree(oblivious=oblivious))
  expected = {  # (node, added) in bits, by level and label
    (0, "first"): (1, 1),
    (0, "second"): (0, 0),
    (0, "both"): (1, 1),
    (0, "neither"): (0, 0),
    (1, "first"): (1, 0),
    (1, "second"): (1, 1),
    (1, "both"): (2, 1),
    (1, "neither"): (0, 0),
  }
  assert rows.keys() == expected.keys()
  for place, row in rows.items():
    np.testing.assert_allclose(
      (row.node, row.added), expected[place], atol=NOISE
    )
  assert rows[1, "both"].entropy == pytest.approx(2, abs=NOISE)
  assert rows[1, "neither"].entropy == pytest.approx(math.log2(5), abs=NOISE)


def test_a_label_that_is_the_leaf_is_told_whole():
  rows = found(tree())
  assert rows[1, "both"].node == pytest.approx(rows[1, "both"].entropy)
  assert rows[0, "both"].added_share == pytest.approx(0.5, abs=NOISE)


def test_numbers_of_children_mean_something_in_oblivious_levels_alone():
  assert found(tree())[1, "second"].child == pytest.approx(1, abs=NOISE)
  assert found(tree())[1, "first"].child == pytest.approx(0, abs=NOISE)
  assert found(tree())[0, "first"].child == pytest.approx(1, abs=NOISE)
  assert math.isnan(found(tree(oblivious=False))[1, "second"].child)


def test_a_level_that_cuts_as_the_one_above_adds_nothing():
  rows = found(tree(second=0))
  assert rows[1, "first"].node == pytest.approx(1, abs=NOISE)
  assert rows[1, "first"].added == pytest.approx(0, abs=1e-9)


def test_only_masses_count():
  # A document of mass two is two documents; their number enters the correction.
  rng = np.random.default_rng(3)
  one_N, two_N = rng.integers(0, 3, (2, 50))
  weight_N = rng.integers(0, 3, 50)
  one_M, two_M = twice = [np.repeat(x, weight_N) for x in (one_N, two_N)]
  plain = angles.information(one_M, two_M, np.ones(len(one_M)))
  weighted = angles.information(one_N, two_N, weight_N / 7)
  used = [len(set(x.tolist())) for x in twice]
  cells = len(set(zip(*(x.tolist() for x in twice), strict=True)))
  freedom = (cells - used[0] - used[1] + 1) / 2 / math.log(2)
  size = [1 / weight_N.sum(), (weight_N**2).sum() / weight_N.sum() ** 2]
  assert plain + freedom * size[0] == pytest.approx(
    weighted + freedom * size[1]
  )


def test_another_implementation_agrees_but_for_the_correction():
  import sklearn.metrics

  one_N, two_N = LABELS["both"], LABELS["neither"]
  plain = sklearn.metrics.mutual_info_score(one_N, two_N)
  bits = angles.information(one_N, two_N, np.ones(N))
  freedom = (4 - 1) * (5 - 1) / (2 * N)  # all cells are occupied
  assert bits * math.log(2) == pytest.approx(plain - freedom, abs=1e-12)


def test_chance_is_no_information_on_the_mean():
  # Without the correction the mean is 4 * 4 / 2n nats, with n = 300: 0.04 bits.
  rng = np.random.default_rng(4)
  mass_N = rng.uniform(0, 2, 400)
  bits = []
  for _ in range(40):
    one_N, two_N = rng.integers(0, 5, (2, 400))
    bits.append(angles.information(one_N, two_N, mass_N))
  # Four standard errors of the mean: an estimate spreads by 0.0125.
  assert abs(np.mean(bits)) < 0.008


def test_overlaps_of_pairs():
  first, second = tree()
  pairs = angles.overlaps((first, second, first))
  assert pairs == {
    (0, 1): pytest.approx(0),
    (0, 2): pytest.approx(1),
    (1, 2): pytest.approx(0),
  }


def test_bins_have_equal_mass_and_keep_the_order():
  x_N = np.random.default_rng(5).lognormal(size=N)
  bin_N = angles.quantile_bins(x_N, MASS_N, 8)
  share = np.bincount(bin_N, MASS_N) / MASS_N.sum()
  np.testing.assert_allclose(share, 1 / 8, atol=2 * MASS_N.max() / N)
  assert (np.diff(bin_N[np.argsort(x_N)]) >= 0).all()


def test_equal_numbers_share_a_bin():
  assert angles.quantile_bins([3, 3, 3, 3], np.ones(4), 4).tolist() == [2] * 4
  bin_N = angles.quantile_bins([1, 1, 1, 2, 3], np.ones(5), 5)
  assert len(set(bin_N[:3].tolist())) == 1


@pytest.mark.parametrize(
  ("label", "words"),
  [(np.ones(3, int), "shape \\(3,\\)"), (np.ones(N), "float64")],
)
def test_labels_are_integers_of_documents(label, words):
  with pytest.raises(ValueError, match=words):
    angles.separations(tree(), FEATURES, MASS_N, {"length": label})


def test_no_bin_and_no_number():
  with pytest.raises(ValueError, match="0 bins"):
    angles.quantile_bins([1.0], [1.0], 0)
  with pytest.raises(ValueError, match="1 NaN"):
    angles.quantile_bins([1.0, math.nan], [1.0, 1.0], 2)
