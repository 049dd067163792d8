"""What repeats are worth: the fit on made-up losses, and one real run."""

import pathlib
import re

import numpy as np
import pytest

from experiments import repetition
from tests import corpora

_TARGETS = {"arithmetic": "sums"}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> pathlib.Path:
  """Three sources and a target."""
  folder = tmp_path_factory.mktemp("corpus")
  corpora.write_job_corpus(folder, _TARGETS)
  return folder


def _repeated(r_star: float, epochs: float, seed: int) -> repetition.Point:
  """A training of a thousand tokens that loses what R* says, and a little noise."""
  noise = 1e-3 * np.random.default_rng([seed, int(100 * epochs)]).normal()
  point = repetition.Point(
    *(epochs, 1.0, seed, epochs),
    *(np.array([epochs]), np.array([1000 / epochs]), {}),
  )
  worth = repetition.effective(point, r_star, repetition.beyond_first)
  bpb = 2 - 0.3 * np.log(worth / 1000) + noise
  return point._replace(bpb=dict.fromkeys(repetition.SPLITS, bpb))


def test_the_fit_finds_the_worth_of_repeats():
  """Of both recipes, though each sees other looks."""
  fresh = [
    repetition.Point(
      *(1 / 16, f, seed, 1 / 16),
      *(np.array([0.5]), np.array([2000 * f])),
      dict.fromkeys(repetition.SPLITS, 2 - 0.3 * np.log(f)),
    )
    for f in repetition.FRESH
    for seed in range(3)
  ]
  points = {
    recipe: fresh
    + [_repeated(r_star, n, seed) for n in (1, 2, 4, 16) for seed in range(3)]
    for recipe, r_star in zip(repetition.RECIPES, (10.0, 2.0), strict=True)
  }
  fit = repetition._fits(points, "test", np.inf, repetition.beyond_first)
  for recipe, r_star in zip(repetition.RECIPES, (10.0, 2.0), strict=True):
    assert fit.best[recipe] == pytest.approx(r_star, rel=0.1)
    low, high = np.quantile(fit.resampled[recipe], (0.025, 0.975))
    assert low / 1.1 < r_star < 1.1 * high
    bpb = [one.bpb["test"] for one in points[recipe]]
    np.testing.assert_allclose(fit.predicted[recipe], bpb, atol=0.02)
  assert 2 < fit.best[""] < 10
  assert fit.deviation[""] > 5 * fit.deviation["natural"]  # one serves neither


def test_a_document_is_drawn_whole_times():
  """Between one look and two the worth is a straight line."""

  def worth(looks):
    point = _repeated(1.0, looks, 0)
    return repetition.effective(point, 1.0, repetition.beyond_first) / 1000

  second = 1 - np.exp(-1)  # R* = 1
  np.testing.assert_allclose(worth(1.25), (1 + second / 4) / 1.25)
  np.testing.assert_allclose(worth(0.25), 1)


@pytest.mark.slow
def test_repetition_knows_what_its_trainings_saw(
  corpus, tmp_path, monkeypatch, capsys
):
  monkeypatch.setattr(repetition, "EPOCHS", (1 / 4, 4))
  monkeypatch.setattr(repetition, "FRESH", (0.5, 1.0))
  arguments = corpora.arguments(
    *("configs/claims.py:toy", corpus, tmp_path, _TARGETS),
    *("compare.seeds=1", "compare.noise_repeats=0", "data.targets="),
    *("compare.targets=arithmetic", "final.steps=20"),
    "final.steps_per_call=2",
  )
  assert repetition.main(arguments) == 0
  table = (tmp_path / "repetition/losses.arithmetic.md").read_text()
  (once,) = re.findall(r"\| natural \| 0.25 \| 1 \| (\S+) \| (\S+)", table)
  (often,) = re.findall(r"\| natural \| 4 \| 1 \| (\S+) \| (\S+) \|", table)
  assert float(once[0]) == pytest.approx(0.25, rel=0.1)
  assert float(once[1]) == 1
  assert 2 < float(often[0]) < 8  # a sub-pool of two documents or three
  assert float(often[1]) == pytest.approx(1 / float(often[0]), rel=0.02)
  arguments.append("--config.final.steps=300")
  status = repetition.main(
    [*arguments[:1], f"--workdir={tmp_path}/b", *arguments[2:]]
  )
  corpora.assert_one_line(status, 2, ["epochs of a corpus"], capsys)
