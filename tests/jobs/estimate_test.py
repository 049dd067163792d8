"""Estimates: the FLOPs that the ledger charges in the end, and what is compiled."""

import jax
import numpy as np
import pytest

from cmtree_jax import main
from cmtree_jax.jobs import build, estimate, measured, search
from cmtree_jax.proxy import engine as engines
from cmtree_jax.proxy import lowering
from cmtree_jax.report import estimates
from cmtree_jax.report.estimates import Estimate, Part
from tests import corpora, toy
from tests.jobs.search_test import corpus, job

__all__ = ["corpus"]  # a fixture

SMALL = """
values.rounds=2 values.population=4 values.max_age=12 values.min_age=8
values.steps_between_rounds=4 values.lookahead=4 values.outer_rows=8
values.probe_rows=8 values.validation_rows=8 hypergradient.estimator=difference
cmtree.branching=2,2 cmtree.start.angle_dim=4 cmtree.start.steps=5
cmtree.step.solver_steps=5 cmtree.replay.size=256 proxy.preset=0.1m
runs.presets=0.1m, runs.steps=6 steer.steps=13
look.steps=4 look.steps_per_call=2
""".split()


def learner_of(name, one, data):
  method = build.make_method(name, one.config)
  placed = search.partitions([name], one, data)[method.partition]
  facts = estimate.known.facts_of(method, one.config, data, placed)
  plans = build.plans(one.config)
  return search.Learner(
    method, one, data, placed, plans, facts._replace(seed=0)
  )


@pytest.mark.parametrize(
  ("name", "settings", "less"),
  [
    # A reference model, and excess losses of rows that both read.
    ("doremi", [], 0.0),
    # Gradients of domains and targets.
    pytest.param("dga", ["dga.every=3"], 0.0, marks=pytest.mark.slow),
    ("mixing_laws", ["mixing_laws.num_mixtures=2"], 0.0),
    # Rows of single documents are not full, which an estimate takes them for.
    ("perplexity", [], 0.1),
    pytest.param("grand", ["grand.longest=8"], 0.6, marks=pytest.mark.slow),
  ],
)
def test_flops_are_those_that_the_ledger_charges(
  name, settings, less, corpus, tmp_path
):
  with job(corpus, tmp_path, *SMALL, *settings) as (one, data):
    parts = [*search_parts(name, one, data)]
    found = search.weigh(
      name, one, data, search.partitions([name], one, data), seed=0, stage="x"
    )
  told = sum(part.total for part in parts)
  assert not any(part.at_most for part in parts)
  assert (1 - less) * found.cost.flops <= told
  assert told <= found.cost.flops * (1 + 1e-9)


def search_parts(name, one, data):
  return estimate.of_search(learner_of(name, one, data), name)


def test_a_search_by_values_takes_at_most_what_is_told(
  corpus, tmp_path, monkeypatch
):
  called = {}
  call = engines.Program.__call__

  def spy(self, *args):
    called[id(self)] = [jax.tree.map(np.shape, one) for one in args]
    return call(self, *args)

  with job(corpus, tmp_path, *SMALL) as (one, data):
    learner = learner_of("cmtree", one, data)
    (part,) = estimate.of_search(learner, "cmtree")
    _, _, name, size = estimate.valuing_program(learner)
    parts = search.partitions(["cmtree"], one, data)
    monkeypatch.setattr(engines.Program, "__call__", spy)
    found = search.weigh("cmtree", one, data, parts, seed=0, stage="x")
    engine = search.valuing_model(learner).engine
  stepped = sum(row["gain"] != 0 for row in found.history if "gain" in row)
  judged = engine.proxy.config.flops_per_token(16) * 16
  judged *= 2 * 2 * (4 * 4 * 3 + 8)  # of a round without a step
  assert part.at_most
  assert part.total == pytest.approx(
    found.cost.flops + (2 - stepped) * judged, rel=1e-9
  )
  # And the program whose memory is told is the one that ran.
  args = lowering.PROGRAMS[name](lowering.Arguments(engine, size))
  wanted = [jax.tree.map(lambda x: x.shape, given) for given in args]
  assert called[id(engine.unroll)] == wanted


def test_memory_holds_what_goes_in_and_out():
  size, engine = lowering.Size(rows=toy.ROWS, row_tokens=toy.T), toy.engine()
  one, two = (
    measured.device_bytes(
      measured.Program("x", engine, "train", size._replace(members=members))
    )
    for members in (1, 2)
  )
  phi = lowering.Arguments(engine, size).phi
  held = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(phi))
  # The results take phi over, so it is there once, beside the gradient.
  assert one > 1.3 * held
  assert two - one >= held


def test_a_job_is_told_without_a_trace(corpus, tmp_path, capsys):
  arguments = corpora.arguments(
    "configs/smoke.py", corpus, tmp_path / "w", ["arithmetic"], *SMALL
  )
  assert main.main([*arguments, "--estimate"]) == 0
  told = capsys.readouterr().out
  assert not (tmp_path / "w").exists()
  for words in (
    *("cmtree: 2 rounds of 4 proxies", "trials: ", "final: trainings of 12"),
    *("FLOPs per second, measured", "MiB, in ", "GiB with the corpus"),
  ):
    assert words in told


def test_a_recipe_that_is_not_there_is_no_estimate(corpus, tmp_path, capsys):
  none = tmp_path / "none"
  arguments = corpora.arguments(
    "configs/smoke.py", corpus, tmp_path / "w", [], f"recipe.apply={none}"
  )
  assert main.main([*arguments, "--estimate"]) == 2
  assert (
    f"No recipe.json in {none}, for there is no such" in capsys.readouterr().err
  )


def test_time_is_flops_by_the_rate_of_their_model():
  parts = [
    Part("a", "x", "small", 2, 50.0),
    Part("b", "y", "large", 1, 300.0, at_most=True),
  ]
  one = Estimate(
    parts, {"small": 10.0, "large": 5.0}, [("p", 2**20)], 2**30, "d"
  )
  assert [one.seconds(part) for part in parts] == [10, 60]
  text = estimates.lines(one)
  assert text[0].startswith("At most 4.00e+02 FLOPs and about 70 s on this")
  assert "1.0 MiB, in p" in text[2]
