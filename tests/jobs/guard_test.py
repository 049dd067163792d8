"""The guard and its trials on made-up scores: what is tried, chosen and handed over."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest

from cmtree_jax.evaluate.results import NATURAL
from cmtree_jax.jobs import cells, guard, trials
from cmtree_jax.jobs.cells import Version
from cmtree_jax.jobs.trials import Tried
from cmtree_jax.loops.final import TrialPlan
from cmtree_jax.proxy.ledger import Cost

SEEDS = (0.3, -0.2, 0.1)  # shift all scores of a seed
OWN = (0.002, -0.001, -0.001)  # of a version alone, turned by its name's length
RIVALS = ("crisp_16", "dsir")
TABLE = ("cmtree", NATURAL, "crisp_64")
LEAVES = {"kind": "tree"}
CANDIDATES = {"start": LEAVES, "round_1": LEAVES, "": LEAVES}


class _Versions(NamedTuple):
  """Every method but natural keeps .3 of the corpus, or what it is brought to."""

  def shares(self, search, candidate, exponents):
    del candidate
    return () if search.method == NATURAL else (0.5, 0.8)[: len(exponents)]

  def share(self, search, version):
    return version.share or (1.0 if search.method == NATURAL else 0.3)


class _Training(NamedTuple):
  """Scores cells by a table instead of training."""

  bpb: dict[str, float]  # difference to natural of "cmtree start", "dsir@0.5"
  done: list[cells.Trial]
  versions: Any = _Versions()

  def train(self, todo, plan, folder):
    for cell in todo:
      if folder.scored(cell, ("a", "b")) is None:
        self.done.append(cell)
        folder.save_scored(cell, self._facts(cell))

  def _facts(self, cell):
    name = Tried(cell.search.method, "a+b", cell.version).name
    own = OWN[(cell.seed + len(name)) % 3]
    mean = 3 + SEEDS[cell.seed] + own + self.bpb.get(name, 0.0)
    apart = 1 + self.bpb.get(f"{name} apart", 0.0)  # of two targets
    return {
      "bpb": {"a": mean - apart, "b": mean + apart},
      "tokens": 10,
      "flops": 100,
    }


@pytest.fixture
def make(tmp_path) -> Callable[..., trials.Trials]:
  """Trials of searches that are done, with scores by name."""

  def made(
    methods=(*TABLE, *RIVALS),
    exponents=(0.5, 0.25),
    target_weights="equal",
    **bpb,
  ):
    plan = cells.Plan(
      methods=methods,
      target_sets={"a+b": tuple(map(cells.Place.of, "ab"))},
      untargeted=frozenset({NATURAL}),
      seeds=2,
      search_seeds=1,
      fractions=(1.0,),
      natural_multiples=(),
      noise_repeats=0,
    )
    folder = cells.Folder(tmp_path).make()
    for search in plan.searches():
      partitions: dict[str, Any] = {
        "": None if search.method == "dsir" else LEAVES
      }
      if search.method == "cmtree":
        partitions = dict(CANDIDATES)
      facts = cells.Found(Cost(), [], [search.method], partitions)
      path = tmp_path / "search" / f"{search.name}.json"
      if not path.exists():
        folder.save_found(search, facts, {}, np.full(1, np.nan))
    settings = TrialPlan(exponents=exponents)
    scores = {name.replace("__", " "): x for name, x in bpb.items()}
    training: Any = _Training(scores, [])
    return trials.Trials(plan, settings, training, folder, target_weights)

  return made


PLAN = guard.Plan(rivals=RIVALS)


def _judge(made, *, plan=PLAN, leaves_only=False):
  return guard.judge(made, plan, TABLE, leaves_only=leaves_only)


def test_the_method_is_handed_over_at_its_best(make):
  made = make(
    cmtree__start=-0.1,
    cmtree__round_1=-0.3,
    cmtree=-0.2,
    **{"cmtree__round_1@0.5": -0.35, "crisp_16": -0.1, "crisp_64@0.8": -0.05},
  )
  found = _judge(made)
  assert found.verdict
  set_ = "a+b"
  assert found.handed == found.own
  assert found.handed == Tried("cmtree", set_, Version("round_1", 0.5))
  # The best rival at its own concentration is tried at others, as is what stands
  # in the table.
  assert found.choice.kept == {
    ("cmtree", set_): Version("round_1", 0.5),
    ("crisp_16", set_): Version(),
    ("crisp_64", set_): Version("", 0.8),
  }
  assert found.rival == Tried("crisp_16", set_)
  names = list(found.verdict.rows)
  assert {"natural", "cmtree start", "cmtree", "dsir"} <= set(names)
  assert "dsir@0.5" not in names and "cmtree@0.5" not in names
  # Three seeds of three candidates and two more concentrations.
  assert found.choice.cost["cmtree", set_] == Cost(150, 1500)
  assert found.cost == Cost(30 * len(names), 300 * len(names))
  # What is done is not done again.
  before = len(made.training.done)
  assert before == 3 * len(names)
  assert _judge(made) == found and len(made.training.done) == before


def test_rounds_that_trials_cannot_tell_apart_are_left_as_the_search_wants(
  make,
):
  made = make(cmtree__start=-0.2001, cmtree__round_1=-0.1, cmtree=-0.2)
  assert _judge(made).own.version.candidate == ""


def test_a_rival_that_is_better_is_handed_over_at_its_best(make):
  made = make(cmtree=-0.1, dsir=-0.15, **{"dsir@0.5": -0.25, "crisp_64": -0.5})
  found = _judge(made)
  assert found.handed == Tried("dsir", "a+b", Version("", 0.5))
  assert found.own.method == "cmtree"
  assert "cmtree is worse than dsir@0.5 by 0.15" in found.why
  told = found.to_json(made)
  assert told["fired"]
  assert told["asked"]["method"] == "cmtree"
  assert told["handed_over"] == {
    "method": "dsir",
    "candidate": "",
    "kept_share": 0.5,
    "effective_sample_size": 0.5,
  }
  # crisp_64 is in the table and no rival: it was tried, but is not handed over.
  assert told["rows"][0]["name"] == "crisp_64"
  assert found.choice.kept["dsir", "a+b"] == found.handed.version


def test_weights_of_documents_are_barred_where_leaves_are_needed(make):
  made = make(cmtree=-0.1, dsir=-0.5, crisp_16=-0.3)
  found = _judge(made, leaves_only=True)
  assert found.handed.method == "crisp_16"
  (told,) = found.told
  assert "dsir" in told and "mixes leaves" in told
  assert not any(cell.search.method == "dsir" for cell in made.training.done)


def test_natural_is_handed_over_where_nothing_is_better(make):
  found = _judge(make(cmtree=0.2))
  assert found.handed == Tried(NATURAL, "any")


def test_a_guard_that_is_off_only_chooses_concentrations(make):
  made = make(
    methods=TABLE, cmtree=0.4, **{"cmtree@0.5": 0.2, "cmtree@0.8": 0.4}
  )
  found = _judge(made, plan=guard.Plan(on=False))
  assert found.handed == found.own == Tried("cmtree", "a+b", Version("", 0.5))
  assert "The guard is off" in found.why and found.verdict is None
  assert found.to_json(made)["rows"] == []
  assert {cell.version.candidate for cell in made.training.done} == {""}
  assert found.cost == Cost(180, 1800)  # two methods, three concentrations


def test_whoever_asks_for_natural_gets_it(make):
  made = make(methods=(NATURAL, "crisp_64"), crisp_64=-1.0)
  plan, table = guard.Plan(rivals=RIVALS), (NATURAL, "crisp_64")
  found = guard.judge(made, plan, table, leaves_only=False)
  assert found.handed == Tried(NATURAL, "any")
  assert found.why == "Natural is what was asked for."


def test_without_concentrations_and_guard_nothing_is_tried(make):
  made = make(methods=TABLE, exponents=())
  assert trials.choose(made) == trials.Choice()
  assert made.training.done == []


def test_ties_go_to_the_broader_recipe(make):
  made = make(methods=TABLE, **{"crisp_64@0.5": -0.0001, "crisp_64@0.8": 0.3})
  choice = trials.choose(made)
  assert choice.kept["crisp_64", "a+b"] == Version("", 0.5)
  assert (NATURAL, "any") not in choice.kept


def test_targets_count_in_the_mean_as_they_do_in_the_search(make):
  better_on_a = {"cmtree": -0.1, "cmtree__apart": 0.2}  # -.3 on a, +.1 on b
  alone = guard.Plan(rivals=())
  assert _judge(make(**better_on_a), plan=alone).handed.method == "cmtree"
  weighted = make(target_weights="a=1,b=5", **better_on_a)
  found = _judge(weighted, plan=alone)
  assert found.handed.method == NATURAL
  assert found.verdict
  assert found.verdict.rows["cmtree"].difference == pytest.approx(
    (-0.3 + 5 * 0.1) / 6, abs=0.005
  )
