"""A job on runs that a person has: the published methods' optimum, and how sure."""

import json
from typing import Any

import numpy as np
import pytest

from cmtree_jax import main
from cmtree_jax.config import load
from cmtree_jax.data.read.mixture_runs import Runs
from cmtree_jax.jobs import build, from_runs
from tests import corpora
from tests.methods import planted_runs

FEW = ["--config.from_runs.draws=6", "--config.from_runs.left_out=4"]
DOMAINS = ("useful", "noise", "copy", "other")
Q = planted_runs.Q[:4]


def runs(number: int) -> Runs:
  """Of the planted world, without the domain that has no text."""
  mixture_RK = np.random.default_rng(0).dirichlet(8 * Q, number)
  padded_RK = np.pad(mixture_RK, [(0, 0), (0, 1)])
  loss_RT = np.stack([planted_runs.loss_T(one) for one in padded_RK])
  return Runs(DOMAINS, ("x", "y"), mixture_RK, loss_RT)


def written(folder, number: int) -> str:
  found, path = runs(number), folder / "runs.csv"
  head = [f"mixture.{d}" for d in DOMAINS] + ["loss.x", "loss.y"]
  table = np.hstack([found.mixture_RK, found.loss_RT])
  np.savetxt(
    path, table, delimiter=",", header=",".join(head), comments="", fmt="%.9f"
  )
  return str(path)


def fit(folder, number: int, *more: str) -> int:
  file = written(folder, number)
  arguments = ["--config", f"configs/from_runs.py:{file}", *FEW, *more]
  return main.main([*arguments, "--workdir", str(folder / "w")])


def test_the_best_mixture_is_found_with_its_interval(tmp_path):
  assert fit(tmp_path, 32) == 0
  found = json.loads((tmp_path / "w" / "mixture.json").read_text())
  assert set(found["fits"]) == {"olmix", "regmix", "mixing_laws"}
  for one in found["fits"].values():
    share = one["mixture"]
    assert sum(share.values()) == pytest.approx(1)
    # What is useful, or its copy, and not the noise that is two fifths of all.
    assert share["useful"] + share["copy"] > 0.6
    assert share["noise"] < 0.15
    assert one["predicted_gain"] > 0
    for name in DOMAINS:
      assert one["low"][name] <= one["high"][name]
    assert one["leave_one_out"]["rmse"] < one["leave_one_out"]["rmse_of_mean"]
  weights = found["fits"][found["method"]]["mixture"]
  assert found["train_domain_weights"] == weights
  assert found["method"] in ("olmix", "mixing_laws")  # the world has their form
  text = (tmp_path / "w" / "table.md").read_text()
  assert text.startswith("32 runs, 2 targets. ")
  for name in (*DOMAINS, "leave-one-out error"):
    assert f"| {name} |" in text


@pytest.mark.parametrize("name", ["olmix", "regmix", "mixing_laws"])
def test_a_method_makes_of_a_table_what_it_makes_of_its_own_runs(name):
  """The fit is the method's own, on the same runs."""
  sizes = {"olmix": "runs", "regmix": "runs", "mixing_laws": "num_mixtures"}
  config = load(
    "configs/from_runs.py:x.csv",
    [f"{name}.{sizes[name]}=16", "from_runs.max_weight=20"],
  )
  method = build.make_method(name, config)
  facts = from_runs.facts_of(Q, 2, 20.0)
  state = method.init(from_runs.jax.random.key(config.seed), facts)
  found = runs(16)
  trials = state.trials
  assert len(trials.mixture_RK) == 16
  state = state._replace(trials=trials._replace(mixture_RK=found.mixture_RK))
  for mixture_K in found.mixture_RK:
    loss_T = planted_runs.loss_T(np.append(mixture_K, 0))
    signals = planted_runs.Signals(
      mixture_K=mixture_K, target_loss_T=loss_T, size=0
    )
    state, _ = method.step(state, signals)
  weights: Any = method.finalize(state)
  own_K = Q * np.exp(np.asarray(weights.log_w_K, np.float64))
  solve = from_runs.solver(name, found, Q, config)
  np.testing.assert_allclose(
    solve(found.mixture_RK, found.loss_RT), own_K / own_K.sum(), rtol=1e-6
  )


def test_caps_and_the_natural_mixture_may_be_given(tmp_path):
  natural = ",".join(map(str, Q))
  more = [f"--config.from_runs.natural={natural}"]
  more += [
    "--config.from_runs.max_weight=2",
    "--config.from_runs.methods=olmix",
  ]
  assert fit(tmp_path, 16, *more) == 0
  found = json.loads((tmp_path / "w" / "mixture.json").read_text())
  share_K = np.array([found["train_domain_weights"][name] for name in DOMAINS])
  assert (share_K <= 2 * Q * (1 + 1e-4)).all()
  assert share_K[0] == pytest.approx(0.2, rel=1e-3)


def test_trees_that_cannot_split_are_left_out(tmp_path, capsys):
  assert fit(tmp_path, 9) == 0
  assert "regmix is left out" in capsys.readouterr().err
  found = json.loads((tmp_path / "w" / "mixture.json").read_text())
  assert set(found["fits"]) == {"olmix", "mixing_laws"}


@pytest.mark.parametrize(
  ("number", "more", "words"),
  [
    (4, [], ["runs.csv, line 5", "4 runs", "at least 5", "4 domains"]),
    (16, ["from_runs.methods=crisp"], ["from_runs.methods", "crisp"]),
    (16, ["from_runs.draws=1"], ["from_runs.draws"]),
    (16, ["olmix.kl=-1"], ["config.olmix", "kl"]),
    (16, ["from_runs.max_weight=.5"], ["from_runs.max_weight"]),
    (16, ["from_runs.natural=.5,.5"], ["from_runs.natural", "4 shares"]),
    (16, ["from_runs.loss=bpb_"], ["line 1", "'bpb_'", "loss.x"]),
    (16, ["mixing_laws.extrapolate=true"], ["extrapolate", "curves"]),
    (9, ["from_runs.methods=regmix"], ["too few runs for regmix"]),
  ],
)
def test_wrong_settings_end_with_one_line(
  number, more, words, tmp_path, capsys
):
  status = fit(tmp_path, number, *(f"--config.{one}" for one in more))
  corpora.assert_one_line(status, 2, words, capsys)
