"""The table of fits: names of a person's file stay in their cells."""

import numpy as np

from cmtree_jax.data.read.mixture_runs import Runs
from cmtree_jax.methods.laws.refit import Error
from cmtree_jax.report import fits
from cmtree_jax.report.fits import Fit

RUNS = Runs(("a|b", "c\nd"), ("x",), np.full((4, 2), 0.5), np.ones((4, 1)))
SHARE_K = np.array([0.25, 0.75])


def fit(name, rmse):
  error = Error(4, rmse, 0.5, np.nan)
  return Fit(name, SHARE_K, SHARE_K - 0.1, SHARE_K + 0.1, 0.02, error)


def test_a_name_breaks_no_table():
  text = fits.markdown([fit("olmix", 0.1)], RUNS, SHARE_K)
  lines = [one for one in text.splitlines() if one.startswith("|")]
  assert len(lines) == 2 + 2 + 3  # heading, domains, what is told of the law
  assert {one.replace("\\|", "").count("|") for one in lines} == {4}
  assert "| 25.0% | 25.0% [15.0%, 35.0%] |" in lines[2]
  assert lines[-1].endswith("| - |")  # no rank of equal losses


def test_the_law_that_predicts_best_is_chosen():
  made = [fit("regmix", 0.2), fit("olmix", 0.1), fit("mixing_laws", 0.3)]
  assert fits.best(made).method == "olmix"
  told = fits.to_json(made, RUNS)
  assert told["method"] == "olmix"
  assert told["fits"]["olmix"]["leave_one_out"]["rank_correlation"] is None


def test_a_narrow_screen_cuts_nothing(monkeypatch, capsys):
  monkeypatch.setenv("COLUMNS", "80")
  domains = ("a" * 30 + "z" * 60, "code")
  made = [fit(name, 0.1) for name in ("olmix", "regmix", "mixing_laws")]
  fits.show(made, RUNS._replace(domains=domains), SHARE_K)
  told = capsys.readouterr().out
  assert max(map(len, told.splitlines())) <= 80
  assert "…" not in told
  assert told.count("z") >= 180
  for text in (
    "[15.0%, 35.0%]",
    "[65.0%, 85.0%]",
    "0.1000 (0.5000)",
    "+0.0200",
  ):
    assert told.count(text) == 3
  titles = {line.strip() for line in told.splitlines()}
  assert titles >= {"olmix", "regmix", "mixing_laws"}
  assert told.count("predicted gain in mean loss") == 3
