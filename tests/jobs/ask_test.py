"""Questions: a target's presence, what changed, and a leaf's documents."""

import io
import json

import numpy as np
import pyarrow.parquet as pq
import pytest
import zstandard

from cmtree_jax import ask, main
from cmtree_jax.report import __main__ as report
from tests import corpora

SETTINGS = (
  *("baselines=", "guard.on=false", "final.seeds=1", "trial.preset=0.1m"),
  *("final.preset=0.1m", "partition.kind=sources"),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  """A corpus, and two jobs on it: `even`, and `warm` with an address for a workdir."""
  folder = tmp_path_factory.mktemp("asked")
  corpora.write_job_corpus(folder, {"goal": "code", "other": "latin"})
  settings = ("method=temperature", "temperature.temperature=3")
  assert main.main(arguments(folder, "even", "method=uniform_sources")) == 0
  with pytest.MonkeyPatch.context() as patched:
    patched.setenv("CMTREE_CACHE", str(folder / "cache"))
    warm = f"--workdir=file://{folder}/warm"
    assert main.main([*arguments(folder, "none", *settings), warm]) == 0
  return folder


def arguments(folder, name, *settings):
  return corpora.arguments(
    "configs/smoke.py", folder, folder / name, ["goal"], *SETTINGS, *settings
  )


def asked(folder, *settings):
  """The arguments without a workdir."""
  return [
    one
    for one in arguments(folder, "none", *settings)
    if not one.startswith("--workdir")
  ]


def test_a_target_of_the_pool_is_found_there(folder, capsys):
  assert ask.main(["pool", *asked(folder, "partition.kind=kmeans")]) == 0
  told = capsys.readouterr()
  assert "goal is represented" in told.out
  assert "config.final" not in told.err + told.out  # nothing is trained
  assert not (folder / "none").exists()


def test_what_changed_between_recipes_is_told(folder, capsys):
  even, warm = folder / "even", folder / "warm"
  assert ask.main(["recipes", str(even), str(warm)]) == 0
  told = capsys.readouterr().out
  assert "method: uniform_sources -> temperature" in told
  assert "2 settings differ: method 'uniform_sources' -> 'temperature'" in told
  assert "Tokens by source: " in told
  assert "Weights of leaves, which are the same: " in told
  tables = [
    pq.read_table(one / "documents.parquet").to_pydict() for one in (even, warm)
  ]
  tokens_N = np.array(tables[0]["tokens"])
  share_2N = [tokens_N * np.array(one["weight"]) for one in tables]
  share_2N = [one / one.sum() for one in share_2N]
  moved = np.abs(share_2N[0] - share_2N[1]).sum() / 2
  assert moved > 0.001
  assert f"{moved:.1%} of the training tokens go to other documents" in told
  assert "of the 120 that both weigh" in told
  assert ask.main(["recipes", str(even), str(even)]) == 0
  told = capsys.readouterr().out
  assert "0 settings differ." in told
  assert "0.0% of the training tokens" in told


def lines_of(path):
  if path.suffix == ".jsonl":
    return list(map(json.loads, path.read_text().splitlines()))
  with zstandard.ZstdDecompressor().stream_reader(path.open("rb")) as reader:
    return list(map(json.loads, io.TextIOWrapper(reader, encoding="utf-8")))


@pytest.mark.parametrize(
  ("path", "name"), [("1", "leaf.jsonl"), ("all", "leaf.jsonl.zst")]
)
def test_a_leaf_becomes_a_file(folder, tmp_path, path, name, capsys):
  output = tmp_path / name
  job = arguments(folder, "even", "method=uniform_sources")
  assert ask.main(["leaf", path, *job, f"--output={output}"]) == 0
  found = lines_of(output)
  table = pq.read_table(folder / "even" / "documents.parquet").to_pylist()
  wanted = [row for row in table if path in ("all", row["path"])]
  assert 0 < len(wanted) <= 120
  assert [one["id"] for one in found] == [x["document_id"] for x in wanted]
  assert [one["weight"] for one in found] == [x["weight"] for x in wanted]
  pool = map(json.loads, (folder / "pool.jsonl").read_text().splitlines())
  text_of = {one["id"]: one["text"] for one in pool}
  assert all(one["text"] == text_of[one["id"]] for one in found)
  told = capsys.readouterr()
  assert f"{len(wanted)} documents" in told.out
  assert "Budget: " in told.err
  assert "config.final" not in told.err + told.out  # nothing is trained


def test_bad_questions_end_with_one_line(folder, tmp_path, capsys):
  job = arguments(folder, "even", "method=uniform_sources")
  output = f"--output={tmp_path}/x.jsonl.zst"
  for given, words in (
    (["recipes", str(folder / "even"), "nowhere"], ["nowhere", "recipe.json"]),
    (["leaf", "7", *job, output], ["'7'", "Known: 0, 1, 2"]),
    (["leaf", "1", *job, "--output=x.txt"], ["x.txt", ".jsonl or .jsonl.zst"]),
    (
      ["leaf", "1", *job, f"--output={tmp_path}/absent/x.jsonl"],
      ["absent", "make it first"],
    ),
    (
      ["leaf", "1", *job, "--config.data.max_documents=50", output],
      ["corpus is not that of", "wanted"],
    ),
    (
      ["pool", *asked(folder, "data.target_files=", "data.targets=")],
      ["wants a target"],
    ),
  ):
    status = ask.main(given)
    corpora.assert_one_line(status, 2, words, capsys)


def test_a_job_at_an_address_leaves_all_there(folder):
  even, warm = folder / "even", folder / "warm"
  names = {path.name for path in even.iterdir()}
  assert {path.name for path in warm.iterdir()} == names
  assert not list((folder / "cache" / "twins").iterdir())
  for path in warm.rglob("*"):
    assert path.is_dir() or b"/twins/" not in path.read_bytes()


def test_all_that_is_left_is_read_at_an_address(folder, tmp_path, capsys):
  even, warm = f"file://{folder}/even", f"file://{folder}/warm"
  assert ask.main(["recipes", even, warm]) == 0
  assert "2 settings differ" in capsys.readouterr().out
  (folder / "warm" / "report.html").unlink()
  assert report.main([warm]) == 0
  assert capsys.readouterr().out == f"wrote {warm}/report.html\n"
  page = (folder / "warm" / "report.html").read_text()
  assert f"--config.recipe.apply={warm}" in page and "/twins/" not in page
  output = tmp_path / "leaf.jsonl"
  given = ["leaf", "all", *asked(folder, "method=temperature")]
  assert ask.main([*given, f"--workdir={warm}", f"--output={output}"]) == 0
  assert len(output.read_text().splitlines()) == 120
  applied = arguments(
    folder, "none", f"recipe.apply={warm}", "export.formats=jsonl,levanter"
  )
  place = f"file://{tmp_path}/applied"
  assert main.main([*applied, f"--workdir={place}"]) == 0
  capsys.readouterr()
  both = [
    pq.read_table(one / "documents.parquet")["weight"].to_pylist()
    for one in (folder / "warm", tmp_path / "applied")
  ]
  assert both[0] == both[1]
  told = (tmp_path / "applied/export/levanter.yaml").read_text()
  assert f"{place}/export" in told and f"tokenizer: {place}/tok" in told
