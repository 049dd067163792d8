"""Published relations: one real run on a tiny corpus, verdicts of made-up rows."""

import numpy as np
import pytest

from cmtree_jax.config import load
from cmtree_jax.evaluate.results import NATURAL
from cmtree_jax.evaluate.statistics import Interval
from cmtree_jax.jobs import plan
from cmtree_jax.jobs.command import command
from configs.relations import SIZES
from experiments import claims, published, relations
from experiments.published import Claim, Seen
from tests import corpora

_TARGETS = {"arithmetic": "sums", "programs": "code"}


@pytest.mark.parametrize("scale", SIZES)
def test_every_relation_is_told_by_what_its_parts_compare(scale):
  config = load(f"relations:{scale}", [])
  assert {*config.relations.wanted} == {*published.CLAIMS}
  told = set()
  for relation, of_relation in published.CLAIMS.items():
    for part in published.parts_of(relation):
      own = relations.of_part(config, part)
      plan.check_comparison(own)
      (target,) = own.compare.targets
      places = {one.searched for one in plan.of_comparison(own).places}
      assert places <= {*own.data.targets}
      for one in of_relation:
        for seen in (*one.more, *one.less):
          if seen.part == part:
            assert seen.method in (NATURAL, *own.compare.methods)
            told.add((part, seen.method))
            if seen.of in (published.ABSENT, published.UNNAMED):
              assert ">" in target and own.data.bed
  compared = {
    (part, method)
    for part in config.relations.parts
    for method in relations.of_part(config, part).compare.methods
  }
  assert compared == told - {("absent", NATURAL)}, "trained and not read"


def test_other_configs_and_unknown_relations_are_told(tmp_path, capsys):
  workdir = f"--workdir={tmp_path}"
  status = relations.main(["--config=claims:toy", workdir])
  corpora.assert_one_line(status, 2, ["block `relations`"], capsys)
  status = relations.main(
    ["--config=relations:toy", workdir, "--config.relations.wanted=crisp,"]
  )
  corpora.assert_one_line(status, 2, ["crisp", "hermes"], capsys)


_SET = "a+readmes+a>b"
_NOISE = (0.01, -0.02, 0.03)  # of seeds; it is in all that is trained with them


def _found(part, bpb):
  """Results whose methods have these bits per byte on each target; tests add .1."""
  config = relations.of_part(
    load("relations:toy", ["compare.seeds=3", "compare.search_seeds=3"]), part
  )
  rows = [
    {
      **{"method": method, "target_set": _SET, "target": target},
      **{"split": split, "seed": seed, "fraction": 1.0},
      "bpb": value + noise + (0.1 if split == "test" else 0.0),
    }
    for method, of_target in bpb.items()
    for target, value in zip(_SET.split("+"), of_target, strict=True)
    for split in ("validation", "test")
    for seed, noise in enumerate(_NOISE)
  ]
  return claims.Results(config, None, None, rows)  # type: ignore


def _difference(more, less, *parts):
  claim = Claim("x", more, less, sign=1, published="")
  return published.difference(claim, dict(parts))


def test_what_is_read_is_what_it_is_called():
  found = _found("absent", {NATURAL: (3, 3, 3), "one": (2, 3.5, 4.5)})
  for of, wanted in (
    (published.MEAN, 1 / 3),
    (published.WORST, 0.5),  # whom nobody named does not count
    (published.ABSENT, 0.5),
    (published.UNNAMED, 1.5),
    (published.GAP, 0.0),
  ):
    here = _difference(
      (Seen("absent", "one", of),),
      (Seen("absent", NATURAL, of),),
      ("absent", found),
    )
    np.testing.assert_allclose(here, wanted, atol=1e-12, err_msg=of)


def test_a_gain_that_the_test_lacks_is_a_gap():
  found = _found("few_texts", {NATURAL: (3, 3, 3), "one": (3, 3, 3)})
  rows = [
    row | {"bpb": row["bpb"] - 0.2 * (row["split"] == "validation")}
    if row["method"] == "one"
    else row
    for row in found.rows
  ]
  here = _difference(
    (Seen("few_texts", "one", published.GAP),),
    (Seen("few_texts", NATURAL, published.GAP),),
    ("few_texts", found._replace(rows=rows)),
  )
  np.testing.assert_allclose(here, 0.2, atol=1e-12)


def test_differences_of_differences_are_paired_over_corpora():
  few = _found("few_texts", dict(by_similarity=(2, 2, 2), by_dga=(3, 3, 3)))
  every = _found("all_texts", dict(by_similarity=(1, 1, 1), by_dga=(2.9,) * 3))
  of_dga = {one.what: one for one in published.CLAIMS["dga"]}
  claim = of_dga["the same - what few texts cost DGA"]
  here = published.difference(claim, {"few_texts": few, "all_texts": every})
  np.testing.assert_allclose(here, 1 - 0.1, atol=1e-12)


@pytest.mark.parametrize(
  ("sign", "interval", "word"),
  [
    (-1, (-0.2, -0.3, -0.1), "seen"),
    (-1, (-0.2, -0.5, 0.1), "not seen"),
    (-1, (0.2, 0.1, 0.3), "opposite"),
    (1, (0.2, 0.1, 0.3), "seen"),
    (0, (0.2, -0.1, 0.5), "nothing, as published"),
    (0, (0.2, 0.1, 0.3), "something"),
    (1, (0.2, np.nan, np.nan), "one search"),
  ],
)
def test_a_verdict_wants_the_whole_interval_on_one_side(sign, interval, word):
  assert published.verdict(sign, Interval(*interval)) == word


@pytest.mark.slow
def test_relations_are_told_one_after_another(tmp_path):
  corpora.write_job_corpus(tmp_path, _TARGETS)
  both, one = (
    "compare.targets=arithmetic+programs",
    "compare.targets=arithmetic",
  )
  bed = "data.targets=arithmetic,programs,latin"

  def run(config, workdir, **flags):
    parts = config.relations.parts
    with config.unlocked():
      for name, more in (
        ("views", (both,)),
        ("absent", ("data.bed=absent:latin", bed)),
        ("few_texts", ("data.bed=tiny:4", one)),
      ):
        parts[name] = (*parts[name], *more)
      parts.absent = (
        *parts.absent,
        "compare.targets=arithmetic+latin+arithmetic>programs",
      )
      parts.some_texts = parts.few_texts
      parts.all_texts = (*parts.all_texts, one)
    return relations.run(config, workdir, **flags)

  arguments = corpora.arguments(
    *("relations:toy", tmp_path, tmp_path / "run", _TARGETS),
    *("data.targets=", "compare.seeds=1", "budget.epochs=1.0"),
    *("relations.wanted=weborganizer,grape,dga", "online.unroll=2"),
    *("online.every=2", "online.outer_rows=8", "online.probe_rows=8"),
    *("dga.every=4", "grape.every=4"),
  )
  assert command("test", "A test.", run, arguments) == 0
  folder = tmp_path / "run"
  # Those of fewer relations are found again.
  times = {
    one: one.stat().st_mtime_ns for one in folder.glob("*/cells/*/*.json")
  }
  again = [*arguments, "--config.relations.wanted=grape,"]
  assert command("test", "A test.", run, again) == 0
  for one in folder.glob("*/cells/*/*.json"):
    assert one.stat().st_mtime_ns == times[one], f"{one} was done again"
  for relation in ("weborganizer", "grape", "dga"):
    told = (folder / f"{relation}.md").read_text()
    for claim in published.CLAIMS[relation]:
      assert f"| {claim.what} |" in told
    assert told.count("| one search |") == len(published.CLAIMS[relation])
  recipes = (folder / "absent" / "compared" / "recipes.md").read_text()
  assert "| mean | arithmetic | latin | arithmetic>programs |" in recipes
