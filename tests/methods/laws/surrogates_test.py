"""Boosted trees: RegMix's published numbers, and what few runs give."""

import numpy as np
import pytest
import scipy.stats

from cmtree_jax.methods.laws import designs, surrogates
from tests import reference

# RegMix's notebook: rank correlation x 100 on 256 test mixtures, by column.
SPEARMAN = {
  "arxiv": 99.60,
  "freelaw": 99.71,
  "pubmed_central": 99.08,
  "wikipedia_en": 99.45,
  "dm_mathematics": 97.20,
  "github": 99.77,
  "stackexchange": 99.73,
  "gutenberg_pg_19": 99.18,
  "pile_cc": 98.92,
  "ubuntu_irc": 96.87,
  "hackernews": 98.51,
  "pubmed_abstracts": 99.19,
  "uspto_backgrounds": 99.12,
}
# Token shares of the Pile, from the same repository.
PILE = {
  "arxiv": 0.113285273,
  "freelaw": 0.079608651,
  "nih_exporter": 0.003913491,
  "pubmed_central": 0.185375901,
  "wikipedia_en": 0.051081359,
  "dm_mathematics": 0.015962925,
  "github": 0.101750772,
  "philpapers": 0.003707518,
  "stackexchange": 0.066529351,
  "enron_emails": 0.001750772,
  "gutenberg_pg_19": 0.027085479,
  "pile_cc": 0.236869207,
  "ubuntu_irc": 0.01184346,
  "europarl": 0.007929969,
  "hackernews": 0.008032956,
  "pubmed_abstracts": 0.038825953,
  "uspto_backgrounds": 0.046446962,
}


@pytest.fixture(scope="module")
def published():
  """Mixtures and losses of sail-sg/regmix b004d3a3: 512 runs, 256 to test on."""
  path = reference.folder("published", "regmix")

  def table(name, names, form):
    header = (path / name).read_text().splitlines()[0].split(",")
    assert header[1:] == [form.format(name) for name in names]
    return np.loadtxt(path / name, delimiter=",", skiprows=1)[:, 1:]

  return [
    table(f"{split}_{name}_1m.csv", names, form)
    for split in ("train", "test")
    for name, names, form in (
      ("mixture", PILE, "train_the_pile_{}"),
      ("pile_loss", SPEARMAN, "metric/the_pile_{}_val_loss"),
    )
  ]


@pytest.fixture(scope="module")
def as_published(published):
  """Stopped on the test mixtures, as the notebook does."""
  mixture, loss, *test = published
  return surrogates.fit(
    mixture, loss, surrogates.REGMIX, validation=tuple(test)
  )


def spearman(fitted, mixture_VK, loss_VT):
  predicted_VT = fitted.predict(mixture_VK)
  return np.array(
    [
      100 * scipy.stats.spearmanr(*columns).statistic
      for columns in zip(predicted_VT.T, loss_VT.T, strict=True)
    ]
  )


def test_regmix_ranks_unseen_mixtures_as_published(published, as_published):
  found_T = spearman(as_published, *published[2:])
  np.testing.assert_allclose(found_T, list(SPEARMAN.values()), atol=0.006)


def test_regmix_optimum_for_pile_cc_is_the_published_one(as_published):
  candidate_CK = designs.dirichlet(
    np.array([*PILE.values()]), 100_000, rng=np.random.RandomState(42)
  )
  column = [*SPEARMAN].index("pile_cc")
  one = surrogates.Surrogate(*(x[column : column + 1] for x in as_published))
  loss_C = one.predict(candidate_CK)[:, 0]
  best_K = surrogates.mean_of_best(candidate_CK, loss_C, 128)
  found = dict(zip(PILE, best_K.round(4), strict=True))
  assert found["pile_cc"] == 0.8909
  assert found["ubuntu_irc"] == 0.0614


def test_stopping_on_held_out_runs_ranks_as_well(published):
  # The leak is harmless at 512 runs; at 50, leaves of 20 runs are too large.
  mixture, loss, *test = published
  whole = surrogates.fit(mixture, loss, surrogates.REGMIX)
  assert spearman(whole, *test).min() > 96.5
  few = {
    settings: spearman(
      surrogates.fit(mixture[:50], loss[:50], settings), *test
    ).mean()
    for settings in (surrogates.REGMIX, surrogates.CLIMB)
  }
  assert few[surrogates.CLIMB] > 90 > 80 > few[surrogates.REGMIX]


def runs(count, seed=0):
  """Losses that fall with the first share, and rise with the second."""
  mixture_RK = np.random.default_rng(seed).dirichlet(np.ones(3), count)
  return mixture_RK, 2 + mixture_RK @ [[-0.1, 3], [0, 0], [0.05, -2]]


def test_each_target_has_its_own_trees():
  mixture_RK, loss_RT = runs(200)
  fitted = surrogates.fit(mixture_RK, loss_RT, surrogates.CLIMB)
  test_VK, truth_VT = runs(50, seed=1)
  assert spearman(fitted, test_VK, truth_VT).min() > 97
  error_T = np.abs(fitted.predict(test_VK) - truth_VT).mean(axis=0)
  assert (error_T < 0.25 * truth_VT.std(axis=0)).all()


def test_the_unit_of_the_loss_does_not_matter():
  # CLIMB's L1 penalty would else swallow differences of hundredths of a bit.
  mixture_RK, loss_RT = runs(60)
  one = surrogates.fit(mixture_RK, loss_RT, surrogates.CLIMB)
  small = surrogates.fit(mixture_RK, 1e-3 * loss_RT, surrogates.CLIMB)
  np.testing.assert_allclose(
    1e3 * small.predict(mixture_RK), one.predict(mixture_RK), rtol=1e-4
  )
  learned_T = one.predict(mixture_RK).std(axis=0) / loss_RT.std(axis=0)
  assert learned_T.min() > 0.8


@pytest.mark.parametrize("count", [1, 2, 9])
def test_too_few_runs_to_split_predict_their_mean(count):
  mixture_RK, loss_RT = runs(count)
  fitted = surrogates.fit(mixture_RK, loss_RT, surrogates.CLIMB)
  predicted_RT = fitted.predict(mixture_RK)
  assert (predicted_RT == predicted_RT[0]).all()
  assert (predicted_RT <= loss_RT.max(axis=0) + 1e-12).all()
  assert (predicted_RT >= loss_RT.min(axis=0) - 1e-12).all()


def test_no_run_is_refused():
  with pytest.raises(ValueError, match="at least one run"):
    surrogates.fit(np.zeros((0, 3)), np.zeros((0, 2)), surrogates.CLIMB)


def test_unknown_settings_are_refused():
  with pytest.raises(ValueError, match="Known: climb, regmix"):
    surrogates.named("xgboost")


def test_candidates_that_tie_with_the_last_of_the_best_count():
  mixture_CK = np.eye(4)
  loss_C = np.array([3.0, 1.0, 2.0, 2.0])
  np.testing.assert_allclose(
    surrogates.mean_of_best(mixture_CK, loss_C, 1), [0, 1, 0, 0]
  )
  np.testing.assert_allclose(
    surrogates.mean_of_best(mixture_CK, loss_C, 2), [0, 1 / 3, 1 / 3, 1 / 3]
  )
  np.testing.assert_allclose(
    surrogates.mean_of_best(mixture_CK, loss_C, 9), [0.25] * 4
  )
