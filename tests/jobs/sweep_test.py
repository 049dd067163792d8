"""Sweeps: which runs there are, their commands, and a table of those that ran."""

import os
import pathlib
import shlex

import pyarrow.parquet as pq
import pytest

from cmtree_jax import sweep
from cmtree_jax.config import load
from cmtree_jax.jobs import plan as plans
from cmtree_jax.jobs import sweep as jobs
from cmtree_jax.jobs import workdir as workdirs
from tests import corpora

_HEAD = "from configs import smoke\nget_config = smoke.get_config\n"
_TWO = """
def sweep(add):
  for branching in ((2, 2), (3,)):
    add(**{"cmtree.branching": branching, "data.text_field": "a b"})
"""


def written(folder: pathlib.Path, body: str) -> str:
  file = folder / "many.py"
  file.write_text(_HEAD + body)
  return str(file)


def commands(capsys) -> list[list[str]]:
  return [shlex.split(one) for one in capsys.readouterr().out.splitlines()]


def test_a_dry_run_prints_commands_that_read_the_same_settings(
  tmp_path, capsys
):
  file = written(tmp_path, _TWO)
  workdir = tmp_path / "work dir"
  arguments = ["--config", file, "--workdir", str(workdir)]
  arguments += ["--dry-run", "--config.final.steps=50"]
  assert sweep.main(arguments) == 0
  found = commands(capsys)
  assert not workdir.exists()
  assert [one[:3] for one in found] == [["python", "-m", "cmtree_jax.main"]] * 2
  folders = []
  for command, branching in zip(found, [(2, 2), (3,)], strict=True):
    prefix = "--config."
    own = [a[len(prefix) :] for a in command if a.startswith(prefix)]
    config = load(file, own)
    assert config.cmtree.branching == branching
    assert (config.data.text_field, config.final.steps) == ("a b", 50)
    folders.append(command[command.index("--workdir") + 1])
    assert folders[-1].endswith(workdirs.digest(config)[:8])
  assert len(set(folders)) == 2
  assert all(one.startswith(f"{workdir}/runs/branching-") for one in folders)


@pytest.mark.parametrize(
  "path",
  sorted((corpora.ROOT / "configs" / "sweeps").glob("[!_]*.py")),
  ids=str,
)
def test_every_run_of_a_shipped_sweep_is_accepted(path):
  runs = jobs.plan(str(path), "w", [])
  assert len(runs) > 1
  for run in runs:
    plans.check_recipe(run.config)


def test_shards_are_disjoint_and_together_all(tmp_path, capsys):
  body = "def sweep(add):\n  for seed in range(5): add(seed=seed)\n"
  arguments = ["--config", written(tmp_path, body), "--workdir", "w"]
  arguments.append("--dry-run")
  sweep.main(arguments)
  everything = commands(capsys)
  parts = []
  for shard in ("1/2", "2/2"):
    assert sweep.main([*arguments, "--shard", shard]) == 0
    parts.append(commands(capsys))
  assert [len(one) for one in parts] == [3, 2]
  assert sorted(parts[0] + parts[1]) == sorted(everything)


def test_a_dry_run_may_be_for_the_script_of_tpus(tmp_path, capsys):
  file = written(tmp_path, _TWO)
  arguments = ["--config", file, "--workdir", "w", "--config.seed=3"]
  assert sweep.main([*arguments, "--dry-run"]) == 0
  here = commands(capsys)
  assert sweep.main([*arguments, "--dry-run", "tpu"]) == 0
  for one, other in zip(commands(capsys), here, strict=True):
    name = other[-1].removeprefix("w/runs/")
    assert one[:3] == [f"RUN_ID={name}", "MODULE=cmtree_jax.main", "tpu/run.sh"]
    assert one[3:] == other[3:-2]  # all but the workdir


def test_a_comparison_is_run_by_its_own_command(tmp_path, capsys):
  (tmp_path / "many.py").write_text(
    "from configs import compare\nget_config = compare.get_config\n"
    "def sweep(add): add(**{'compare.seeds': 1})\n"
  )
  file = str(tmp_path / "many.py")
  assert sweep.main(["--config", file, "--workdir", "w", "--dry-run"]) == 0
  ((_, _, module, *_),) = commands(capsys)
  assert module == "cmtree_jax.compare"


@pytest.mark.parametrize(
  ("body", "more", "words"),
  [
    ("", [], ["no function sweep(add)"]),
    ("def sweep(add): pass", [], ["adds no run"]),
    (
      "def sweep(add): add(**{'cmtree.leafs': 3})",
      [],
      ["run 1", "'cmtree.leafs'"],
    ),
    ("def sweep(add): add(seed='x')", [], ["run 1", "config.seed", "'x'"]),
    (
      "def sweep(add):\n  add(seed=1)\n  add(seed=2)\n  add(seed=1)",
      [],
      ["runs 1 and 3", "equal settings", "seed=1"],
    ),
    ("def sweep(add): add(seed=1)", ["--config.seed=2"], ["--config.seed"]),
    ("def sweep(add): add(seed=1)", ["--shard", "3/2"], ["--shard", "3/2"]),
    ("def sweep(add): add(seed=1)", ["--shard", "0/2"], ["--shard", "0/2"]),
    ("def sweep(add): add(seed=1)", ["--shard", "half"], ["--shard", "half"]),
    ("def sweep(add): add(seed=1)", ["--parallel", "0"], ["--parallel"]),
    (
      "def sweep(add): add(seed=1)",
      ["--parallel", "0", "--dry-run"],
      ["--parallel"],
    ),
  ],
)
def test_bad_input_is_one_line(body, more, words, tmp_path, capsys):
  arguments = ["--config", written(tmp_path, body)]
  arguments += ["--workdir", str(tmp_path / "w"), *more]
  status = sweep.main(arguments)
  corpora.assert_one_line(status, 2, words, capsys)
  assert not (tmp_path / "w").exists()


def test_a_sweep_runs_once_and_ends_in_a_table(tmp_path, capsys, monkeypatch):
  monkeypatch.setenv("PYTHONPATH", str(corpora.ROOT))
  corpora.write_job_corpus(tmp_path, {"goal": "code"})
  body = """
def sweep(add):
  for method in ("uniform_sources", "temperature"):
    add(method=method)
  add(**{"method": "natural", "proxy.preset": "none"})
"""
  arguments = corpora.arguments(
    written(tmp_path, body),
    tmp_path,
    tmp_path / "w",
    ["goal"],
    "baselines=",
    "guard.on=false",
  )
  # The third run's own mistake is found by itself, and costs no other.
  assert sweep.main([*arguments, "--parallel", "2"]) == 2
  told = capsys.readouterr().err
  assert "ended with status 2" in told
  assert "config.proxy.preset 'none'" in told
  rows = pq.read_table(tmp_path / "w" / "runs.parquet").to_pylist()
  assert {row["method"] for row in rows} == {
    *("natural", "uniform_sources", "temperature")
  }
  text = (tmp_path / "w" / "table.md").read_text()
  assert text.startswith("2 of 3 runs are finished.")
  for row in rows:
    line = f"| {row['method']} | goal | {row['bpb']:.4f} |"
    assert (line in text) == (row["method"] != "natural")
  figure = (tmp_path / "w" / "runs.svg").read_text()
  for words in ("uniform_sources", "temperature", "− natural"):
    assert words in figure
  logs = sorted((tmp_path / "w" / "logs").iterdir())
  times = {
    one: os.stat(one).st_mtime_ns for one in logs if "natural" not in str(one)
  }
  assert sweep.main(arguments) == 2  # only what failed is done again
  assert times == {one: os.stat(one).st_mtime_ns for one in times}
  assert "2 of 3 runs were done before." in capsys.readouterr().err
