"""The report's page: what it tells is true, and nothing that others wrote is markup."""

import base64
import hashlib
import html.parser
import json
import pathlib
import re
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cmtree_jax.report import __main__ as command
from cmtree_jax.report import tables
from cmtree_jax.report.html import (
  asked,
  documents,
  facts,
  looks,
  nodes,
  notebook,
  page,
  report,
  results,
  rounds,
  tree,
  values,
)
from cmtree_jax.types import UserError
from tests.report import workdirs

plotly = pytest.importorskip("plotly.graph_objects")


@pytest.fixture(scope="module")
def hostile(tmp_path_factory) -> pathlib.Path:
  """A workdir where every name and text wants to be more than that."""
  folder = tmp_path_factory.mktemp("runs") / workdirs.HOSTILE[1].replace(
    "/", ""
  )
  return workdirs.make(folder, names=workdirs.HOSTILE)


@pytest.fixture(scope="module")
def plain(tmp_path_factory) -> pathlib.Path:
  return workdirs.make(tmp_path_factory.mktemp("runs") / "plain")


class _Tags(html.parser.HTMLParser):
  """Which elements and attributes a page has, and what stands in its scripts."""

  def __init__(self):
    super().__init__()
    self.found: set[tuple[str, str]] = set()
    self.links: set[str] = set()
    self.scripts: list[str] = []
    self._in_script = False

  def handle_starttag(self, tag, attrs):
    self._in_script = tag == "script"
    if self._in_script:
      self.scripts.append("")
    self.found |= {(tag, ""), *((tag, name) for name, _ in attrs)}
    self.links |= {value for name, value in attrs if name in ("href", "src")}

  def handle_endtag(self, tag):
    self._in_script = self._in_script and tag != "script"

  def handle_data(self, data):
    if self._in_script:
      self.scripts[-1] += data


def test_nothing_that_others_wrote_is_markup(hostile, plain):
  tags = [_Tags(), _Tags()]
  for tag, folder in zip(tags, (hostile, plain), strict=True):
    tag.feed(report.build([results.load(folder)]))
  # The same elements and attributes as where all names are plain.
  assert tags[0].found == tags[1].found
  assert tags[0].links == tags[1].links
  assert all(link.startswith("#") for link in tags[0].links)
  assert tags[0].scripts[1:] == tags[1].scripts[1:]
  assert len(tags[0].scripts) == 3  # figures, plotly, the page's own


def test_a_browser_runs_nothing_else_and_asks_no_network(hostile):
  built = report.build([results.load(hostile)])
  (policy,) = re.findall('Content-Security-Policy" content="(.*?)"', built)
  rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
  assert rules["default-src"] == "'none'" and "connect-src" not in rules
  assert "unsafe-inline" not in rules["script-src"]
  for script in (page.plotly(), page._file("page.js")):
    digest = hashlib.sha256(script.encode()).digest()
    assert base64.b64encode(digest).decode() in rules["script-src"]


def test_nothing_is_hidden_or_turned(hostile):
  built = report.build([results.load(hostile)])
  for script in (page.plotly(), page._file("page.js")):
    built = built.replace(script, "")
  found = re.findall(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", built
  )
  assert found == []
  assert r"\u202egnitrw" in built and r"\x1b[31mred" in built


def test_figures_are_what_plotly_knows(hostile):
  for name, one in _figures(hostile).items():
    for trace in one["data"]:
      trace.pop("leaf", None)
    text = json.dumps({"data": one["data"], "layout": one["layout"]})
    text = re.sub(r'"--[a-z]+"', '"#123456"', text)
    plotly.Figure(json.loads(text))  # refuses a property that it does not know
    assert one["data"], name


def _figures(folder: pathlib.Path) -> dict:
  built = report.build([results.load(folder)])
  (text,) = re.findall(r'id="figures">(.*?)</script>', built, re.DOTALL)
  return json.loads(text)


def test_a_page_of_many_documents_is_small_enough(tmp_path):
  wide = "文字 <&> \x1b" * 60
  folder = workdirs.make(
    tmp_path / "run", size=30_000, text=wide, width=16, names=("名前 <&>" * 5,)
  )
  found = results.load(folder)
  assert found.documents is not None
  assert len(found.documents.sample) == documents.MOST
  assert len(report.build([found]).encode()) < 6e6
  assert len(report.build([found] * 3).encode()) < 6e6


def test_sums_are_those_of_the_documents(plain):
  found = results.load(plain).documents
  assert found is not None
  total = found.all
  assert (total.documents, total.tokens) == (80, 800)
  assert found.out == 8 and found.counts.sum() == 72
  assert found.at_most == pytest.approx(4.0 * 0.5)
  assert found.flows.sum() == pytest.approx(total.flow, rel=1e-5)
  leaf = found.leaves["0.0"]
  assert (leaf.documents, leaf.valued) == (20, 7)
  assert 0 < leaf.mean_value <= 0.4
  # Every document of the sample is the one of its row.
  assert all(one.id.startswith(f"{i} ") for i, one in enumerate(found.sample))
  assert {one.path for one in found.sample} == set(workdirs.PATHS)


def test_a_sample_of_other_documents_tells_nothing(tmp_path):
  folder = workdirs.make(tmp_path / "run")
  other = workdirs.make(tmp_path / "other", names=("else",))
  (folder / documents.SAMPLE_FILE).write_bytes(
    (other / documents.SAMPLE_FILE).read_bytes()
  )
  found = results.load(folder).documents
  assert found is not None and found.sample == ()


def test_a_node_shows_documents_of_its_own_leaves(plain):
  found = {one.node.path: one for one in nodes.looks(results.load(plain))}
  assert {one.path for one in found["0"].typical} == {"0.0", "0.1"}
  near = [one.near for one in found["1.1"].typical]
  assert near == sorted(near, reverse=True) and len(near) == 5
  assert found["0"].sums.documents == 40


def test_the_root_has_one_name(plain):
  looked = nodes.looks(results.load(plain))
  shown = [
    tree.figure(looked, "Tree-0")["data"][0]["labels"][0],
    *re.findall('class="path">([a-z]+)<', tree.listed(looked, "Tree-0")),
    str(tables.tree([one.node for one in looked]).label).split()[0],
    *re.findall(
      '"row">([a-z]+)<',
      values.section(results.load(plain), looked, "Values-0"),
    ),
  ]
  assert shown == ["root"] * 4
  (hover, *_) = tree.figure(looked, "Tree-0")["data"][0]["hovertext"]
  assert hover.startswith("root: ")


def test_what_splits_bought_adds_up_to_what_the_mixture_bought(plain):
  found = nodes.looks(results.load(plain))
  whole = sum(
    (one.node.mixture - one.node.mass) * one.sums.mean_value
    for one in values.leaves(found)
  )
  # Inner nodes have the mean of their documents: here as many in every leaf.
  bought = values.splits(found)
  assert [one.path for one in bought] == ["", "0", "1"]
  assert sum(one.gain for one in bought) == pytest.approx(whole, rel=0.1)


def test_seeds_that_natural_alone_has_are_not_compared(tmp_path):
  folder = workdirs.make(tmp_path / "run")
  table = pq.read_table(folder / "results.parquet").to_pylist()
  more = [{**one, "seed": 2} for one in table if one["method"] == "natural"]
  rows = pa.Table.from_pylist([*table, *more])
  pq.write_table(rows, folder / "results.parquet")
  best, *_ = results.load(folder).standings
  assert (best.method, best.seeds) == ("cmtree", 2)
  assert best.to_natural.mean == pytest.approx(-0.5)


def test_a_histogram_has_every_document_once(plain):
  found = results.load(plain).documents
  assert found is not None
  bars = looks.figure(found, 0.5)["data"]
  assert sum(bars[0]["y"]) == pytest.approx(1)
  assert sum(bars[1]["y"]) == pytest.approx(1, rel=1e-5)
  assert bars[0]["y"][0] == pytest.approx(0.1)  # left out


def test_a_map_is_the_plane_of_most_variance():
  rng = np.random.default_rng(1)
  plane_N2 = rng.normal(size=(50, 2)) * [3, 1]
  turned, _ = np.linalg.qr(rng.normal(size=(5, 5)))
  x_N, y_N = documents.flat(plane_N2 @ turned[:2])
  plane_N2 -= plane_N2.mean(axis=0)
  _, _, axes = np.linalg.svd(plane_N2, full_matrices=False)
  for found_N, axis in zip((x_N, y_N), axes, strict=True):
    wanted_N = plane_N2 @ axis
    assert abs(np.corrcoef(found_N, wanted_N)[0, 1]) == pytest.approx(1)
    assert np.abs(found_N).max() == pytest.approx(1)
  assert documents.flat(np.ones((2, 1)))[1].tolist() == [0, 0]


def test_a_sample_does_not_depend_on_the_order():
  key_N = np.random.default_rng(0).permutation(25_000).astype(np.uint64)
  row_S = documents.rows(key_N)
  assert len(row_S) == documents.MOST and (np.diff(row_S) > 0).all()
  assert set(key_N[row_S]) == set(range(documents.MOST))


def test_a_mixture_over_time_is_constant_between_events():
  rows = [
    {"stage": 0, "begin": 0, "end": 4, "leaf": "leaf_0_a-b", "mixture": 0.25},
    {"stage": 0, "begin": 0, "end": 4, "leaf": "leaf_1_c", "mixture": 0.75},
    {"stage": 1, "begin": 4, "end": 9, "leaf": "leaf_0_a-b", "mixture": 0.5},
    {"stage": 1, "begin": 4, "end": 9, "leaf": "leaf_1_c", "mixture": 0.5},
  ]
  first, second = rounds.over_time(rows)["data"]
  assert first["name"] == "0 a b"
  assert first["x"] == second["x"] == [0, 4, 4, 9]
  assert first["y"] == [0.25, 0.25, 0.5, 0.5]
  assert second["y"] == [0.75, 0.75, 0.5, 0.5]


def test_commands_give_what_differs_from_the_defaults(plain):
  told = facts.commands(results.load(plain))
  assert f"--config.recipe.apply={plain}" in told
  assert "--config.data.source=plain" in told
  assert "--config.budget.epochs=0.5" in told
  assert "--config.export.formats=jsonl,levanter" in told
  assert "max_epochs" not in told


def test_a_comparison_tells_of_its_budget_and_of_every_set(tmp_path):
  folder = workdirs.make(tmp_path / "run")
  for name in set(workdirs.FILES) - {"config.json", "results.parquet"}:
    (folder / name).unlink()
  told = list(asked.sentences(results.load(folder)))
  assert "which of 3 methods" in told[0]
  assert "0.5 epochs of the pool, and no document more than 4 times" in told[0]
  assert told[1].startswith("plain, mean: Best on the validation split: cmtree")
  assert "Nothing" not in report.build([results.load(folder)])


def test_the_time_is_not_that_of_a_whole_job_that_was_resumed(plain):
  told = asked.cards(results.load(plain))
  assert "time since the job was last started or resumed" in told


def test_jobs_stand_side_by_side(plain, tmp_path):
  other = workdirs.make(tmp_path / "other", names=("else",))
  built = report.build([results.load(one) for one in (plain, other)])
  assert built.count('<div class="beside"') >= 8
  _, _, differ = built.partition('id="Differences"')
  assert (
    "data.source" in differ and "method" not in differ.split("</section>")[0]
  )


def test_the_command_makes_a_page_from_files_alone(plain, tmp_path, capsys):
  assert command.main([str(plain)]) == 0
  assert (plain / report.FILE).read_text().startswith("<!doctype html>")
  path = tmp_path / "both.html"
  assert command.main([str(plain), str(plain), "--output", str(path)]) == 0
  assert capsys.readouterr().out.splitlines()[-1] == f"wrote {path}"


@pytest.mark.parametrize(
  ("damage", "words"),
  [
    (lambda one: (one / "config.json").unlink(), ["No config.json"]),
    (lambda one: (one / "config.json").write_text("{}"), ["config.json", "{}"]),
    (lambda one: (one / "recipe.json").write_text("{"), ["line 1"]),
    (lambda one: (one / "recipe.json").write_text("{}"), ["recipe.json", "{}"]),
    (lambda one: (one / "recipe.json").write_text("[]"), ["recipe.json", "[]"]),
    (
      lambda one: (one / "recipe.json").write_text('{"method": "a"}'),
      ["recipe.json", "no 'targets'", "--overwrite"],
    ),
    (
      lambda one: pq.write_table(
        pa.table({"row": [0]}), one / documents.SAMPLE_FILE
      ),
      ["sample.parquet", "document_id", "Remove it"],
    ),
    (lambda one: (one / "summary.json").write_text("3"), ["summary.json", "3"]),
  ],
)
def test_a_workdir_that_cannot_be_read_is_told(damage, words, tmp_path, capsys):
  folder = workdirs.make(tmp_path / "run")
  damage(folder)
  status = command.main([str(folder)])
  told = capsys.readouterr().err
  assert status == 2 and told.count("\n") == 1
  assert all(word in told for word in words)


@pytest.mark.parametrize("name", workdirs.FILES)
@pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
def test_a_file_that_is_cut_off_is_told_in_a_line(
  name, share, tmp_path, capsys
):
  folder = workdirs.make(tmp_path / "run")
  whole = (folder / name).read_bytes()
  (folder / name).write_bytes(whole[: int(share * len(whole))])
  assert command.main([str(folder)]) == 2
  told = capsys.readouterr().err
  assert told.count("\n") == 1 and f"{folder / name} is damaged" in told
  assert not (folder / report.FILE).exists()


@pytest.mark.parametrize(
  ("name", "section"),
  [
    ("sample.parquet", "Map"),
    ("documents.parquet", "Repeats"),
    ("summary.json", "Costs"),
    ("comparison.json", "Results"),
    ("metrics.jsonl", "Search"),
  ],
)
def test_what_the_page_does_without_is_told(name, section, tmp_path, capsys):
  folder = workdirs.make(tmp_path / "run")
  wanted = f"{folder / name} is missing"
  if name == "metrics.jsonl":
    good = '{"loop": "a", "run": "b", "step": 1}\n'
    (folder / name).write_text(f"{good}what\n{good[:9]}")
    wanted = f"{folder / name} is damaged in line 2: Expecting value"
  else:
    (folder / name).unlink()
  assert command.main([str(folder)]) == 0
  told = capsys.readouterr().err
  assert told.count("\n") == 1 and wanted in told
  built = (folder / report.FILE).read_text()
  _, _, inside = built.partition(f'<section id="{section}"')
  assert wanted in inside.partition("</section>")[0]


def test_a_whole_workdir_lacks_nothing(plain):
  assert results.load(plain).lacks == ()


def test_one_round_is_told_in_a_sentence(tmp_path):
  folder = workdirs.make(tmp_path / "run")
  told = json.loads((folder / "recipe.json").read_text())
  told["history"] = told["history"][:1]
  (folder / "recipe.json").write_text(json.dumps(told))
  assert not any(name.startswith("Search-0-h") for name in _figures(folder))
  built = report.build([results.load(folder)])
  assert (
    "The search had one round, of which it tells: loss.plain 3, gain 0, "
    "effective sample size 0.5." in built
  )


def test_a_job_without_results_is_told(tmp_path):
  (tmp_path / "config.json").write_text('{"method": "cmtree"}')
  with pytest.raises(UserError, match="no results yet"):
    results.load(tmp_path)


def test_without_plotly_a_line_says_what_to_install(plain, monkeypatch, capsys):
  page.plotly.cache_clear()
  monkeypatch.setitem(sys.modules, "plotly", None)
  assert command.main([str(plain)]) == 2
  assert "pip install cmtree_jax[report]" in capsys.readouterr().err


def test_a_notebook_shows_recipes_and_results(hostile, plain):
  for folder in (hostile, plain):
    shown = results.load(folder)._repr_html_()
    told = notebook.of_recipe(json.loads((folder / "recipe.json").read_text()))
    for one in (shown, told):
      assert "<script" not in one and "<img" not in one and "\x1b" not in one
      assert one.count("<div") == one.count("</div>")
    assert shown.count("<tbody") == 3 and told.count("data-node") == 7
