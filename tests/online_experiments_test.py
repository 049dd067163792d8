"""Experiments on online runs: what an event costs, and two skills with a composition."""

import json
import pathlib

import pytest

from cmtree_jax.config import load
from cmtree_jax.jobs.command import config_arguments
from experiments import compositions, online_cost
from tests import corpora

SIZES = dict(symbols=5, documents=40, composed=20, lines=4)
SHORT = """
mesh.data=1 evaluate.max_tokens=300 optimizer.warmup_steps=2 embedding.dim=4
embedding.max_features=50 batch.rows=4 batch.row_tokens=16 observe.rows=2
budget.min_documents=20 final.steps=12 final.steps_per_call=4 ordered.every=2
ordered.rho=1.0 ordered.latest=1.0 compare.seeds=1
compare.methods=ordered_online
""".split()


def facts(folder: pathlib.Path) -> dict[str, set[tuple[str, ...]]]:
  """Every line of the pool without its first word, by that word."""
  pool, exam = compositions.write_corpus(folder, **SIZES)
  found: dict[str, set[tuple[str, ...]]] = {}
  for path in (pool, exam):
    for row in map(json.loads, path.read_text().splitlines()):
      for line in row["text"].splitlines():
        word, *symbols = line.split()
        found.setdefault(word, set()).add(tuple(symbols))
  return found


def test_a_composition_is_of_the_two_skills(tmp_path):
  told = facts(tmp_path / "a")
  first, second = ({x: y for x, y in told[word]} for word in "fg")
  assert len(first) == len(second) == SIZES["symbols"]
  assert {x: (y, z) for x, y, z in told["fg"]} == {
    x: (y, second[y]) for x, y in first.items()
  }
  assert facts(tmp_path / "b") == told


@pytest.mark.slow
def test_the_order_is_told_by_the_shares_of_the_composition(tmp_path, capsys):
  settings = [f"cache_dir={tmp_path / 'cache'}", *SHORT]
  arguments = [
    "--config=compositions:toy",
    f"--workdir={tmp_path}",
    *(f"--config.{one}" for one in settings),
    *(f"--config.compositions.{name}={x}" for name, x in SIZES.items()),
  ]
  assert compositions.main(arguments) == 0
  (line,) = (
    line
    for line in capsys.readouterr().out.splitlines()
    if line.startswith("| ordered_online |")
  )
  _, _, _, mean, *shares, _ = (cell.strip() for cell in line.split("|"))
  assert len(shares) == 6
  assert float(mean) == pytest.approx(sum(map(float, shares)) / 6, abs=0.01)
  assert 0 < float(mean) < 1


@pytest.mark.slow
def test_an_event_costs_what_it_reads(tmp_path):
  corpora.write_job_corpus(tmp_path, {"arithmetic": "sums"})
  arguments = corpora.arguments(
    *("configs/online.py", tmp_path, tmp_path / "run", ["arithmetic"]),
    *("data.targets=", "online.outer_rows=8", "online.probe_rows=8"),
    *("cmtree.branching=2,2", "cmtree.start.angle_dim=4"),
    *("cmtree.start.steps=20", "cmtree.step.solver_steps=5"),
  )
  overrides, (config, *_) = config_arguments(arguments)
  loaded = load(config.removeprefix("--config="), overrides)
  took = online_cost.measure("0.1m", 2, loaded)
  # Two steps of 4 rows are differentiated at three passes, 8 rows of targets and 8
  # probed at as many: six steps of 4 rows.
  assert took.flops == pytest.approx(6.0)
  assert took.time > 0 and took.peak_bytes > 0
  path = online_cost.show({("0.1m", 2): took}, tmp_path)
  assert f"| {took.parameters:,} | 2 | 6.0 |" in path.read_text()
