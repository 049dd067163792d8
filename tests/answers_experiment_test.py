"""Answers by size and tokens, and decisions between recipes: a small run of each."""

import itertools
import json
import math
import pathlib
import random
import re

import numpy as np
import pytest

from cmtree_jax.config import load
from cmtree_jax.data.draw.batch import Batch
from cmtree_jax.evaluate import answers
from cmtree_jax.jobs import cells, plan
from cmtree_jax.types import UserError
from experiments import answers as experiment
from experiments import claims, decision_accuracy
from tests import corpora

_TARGETS = {"arithmetic": "sums", "programs": "code"}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
  """Three sources, a target of texts, and two with questions."""
  folder = tmp_path_factory.mktemp("corpus")
  corpora.write_job_corpus(folder, _TARGETS)
  rng = random.Random(1)
  splits = ("train", "validation", "test", "test")
  numbers = [(rng.randint(1, 9), rng.randint(1, 9)) for _ in range(60)]
  exam = [
    {
      "question": f"{a}+{b}",
      "choices": [str(a + b), "many"],
      "answer": 0,
      "split": splits[i % 4],
    }
    for i, (a, b) in enumerate(dict.fromkeys(numbers))
  ]
  corpora.write(folder / "exam.jsonl", exam)
  spelled = [
    {
      "text": f"{one['question']} = {one['choices'][0]}",
      "question": one["question"],
      "answer": one["choices"][0],
      "split": one["split"],
    }
    for one in exam
  ]
  corpora.write(folder / "open.jsonl", spelled)
  return folder


def _arguments(corpus, workdir, config, targets, *overrides):
  return corpora.arguments(
    *(config, corpus, workdir, targets.split(",")),
    *("data.targets=", f"compare.targets={targets}", *overrides),
  )


_ANSWERS = """
compare.methods=crisp_16 compare.seeds=2 compare.search_seeds=1
compare.final_presets=0.3m, compare.fractions=0.5,1.0 final.steps_per_call=3
evaluate.max_tokens=600
""".split()


@pytest.mark.slow
def test_every_size_and_budget_answers(corpus, tmp_path, capsys):
  arguments = _arguments(
    *(corpus, tmp_path, "configs/claims.py:toy", "exam,open,arithmetic"),
    *_ANSWERS,
  )
  assert experiment.main(arguments) == 0
  folder = tmp_path / "answers"
  tasks = (folder / "tasks.md").read_text()
  found = re.search(
    r"\| exam \| (\d+) \| (\d+) \| 0 \| 0.500 \| (.*) \|", tasks
  )
  assert found
  assert found[3] == "choice 1 | 1.000"  # right answers stand first
  assert "arithmetic" not in tasks and re.search(r"\| open \| \d+", tasks)
  assert f"{found[2]} of {found[1]} questions" in capsys.readouterr().out
  lines = (folder / "accuracy.md").read_text().splitlines()[4:]
  rows = [line.strip("| ").split(" | ") for line in lines]
  assert {tuple(row[:3]) for row in rows} == set(
    itertools.product(("natural", "crisp_16"), ("0.4m", "0.3m"), ("384", "768"))
  )
  assert {row[-1] for row in rows} == {"0 of 1"}
  assert "none that was trained" in (folder / "verdict.md").read_text()
  # What stands in the cells of single questions is what was scored.
  cell = tmp_path / "0.3m/cells/final/natural.any.1.x0.5.json"
  facts = json.loads(cell.read_text())
  assert set(facts["questions"]) == {"exam", "open"}
  test = facts["questions"]["exam"]["test"]
  assert len(test["won"]) == len(test["nats"]) == int(found[1])
  assert np.mean(test["won"]) == pytest.approx(
    facts["accuracy"]["exam"]["test"]
  )
  assert "won" not in facts["questions"]["open"]["test"]
  differences = (folder / "differences.md").read_text()
  assert re.search(
    r"\| crisp_16 \| 0.3m \| \S+ \| open \| \S+ \[.*\] \|  \|", differences
  )
  assert "without reading" in (folder / "crisp_16.accuracy.svg").read_text()


def _model(won, nats, flops=1.0):
  arrays = {"exam": np.asarray(won, float)}, {"exam": np.asarray(nats, float)}
  return experiment.Model("natural", "1m", 10, flops, arrays[1], arrays[0])


def _task(right, count=4):
  """Choices of one byte each, so that no length is a rule."""
  questions = len(right)
  right_A = np.zeros((questions, count), bool)
  right_A[np.arange(questions), right] = True
  asked = answers.AnswerSet(
    batches=Batch(*[np.zeros((0, 1, 1), np.int32)] * 4),
    choice_CBT=np.zeros((0, 1, 1), np.int32),
    question_A=np.repeat(np.arange(questions), count),
    right_A=right_A.ravel(),
    bytes_A=np.ones(questions * count, np.int64),
    num_tokens=0,
    num_cut=0,
    num_continued=0,
  )
  return experiment.Task("exam", asked)


def test_a_model_that_has_a_taste_in_places_does_not_leave_chance():
  """It answers as many as the best rule, far more than one in four."""
  right = np.random.default_rng(0).choice(4, 400, p=(0.4, 0.2, 0.2, 0.2))
  task = _task(right)
  assert task.chance == 0.25 and task.rule()[0] == "choice 1"
  nats = np.full(400, math.log(2))
  always_first = _model(right == 0, nats)
  assert always_first.accuracy(task).low > 0.3
  assert not always_first.leaves_chance(task)
  reads = np.random.default_rng(1).random(400) < 0.55
  assert _model(reads, nats).leaves_chance(task)
  assert _model(reads, nats).bpb(task) == pytest.approx((1, 1, 1))


def test_the_verdict_is_the_least_training(tmp_path):
  task = _task(np.random.default_rng(0).integers(4, size=400))
  chosen = [task._replace(name=name) for name in "abc"]
  reads = np.random.default_rng(1).random(400) < 0.6
  guesses = np.random.default_rng(2).random(400) < 0.25

  def model(size, flops, *won):
    of_task: dict[str, np.ndarray] = {
      name: x.astype(float) for name, x in zip("abc", won, strict=True)
    }
    return experiment.Model("natural", size, 10, flops, of_task, of_task)

  found = [
    model("25m", 9.0, reads, reads, reads),
    model("4m", 2.0, reads, reads, reads),
    model("1m", 1.0, reads, reads, guesses),
  ]
  path = experiment._verdict(found, chosen, tmp_path / "verdict.md")
  assert "| natural | 4m | 10 | a, b, c |" in path.read_text()


def test_the_config_wants_a_scale_and_a_folder(tmp_path):
  for argument in ("cpu", f"toy,{tmp_path}"):
    with pytest.raises(UserError, match="answers:cpu,FOLDER"):
      load(f"configs/answers.py:{argument}", [])
  (tmp_path / "tasks").mkdir()
  (tmp_path / "tasks" / "exam.jsonl.gz").touch()
  for scale in ("cpu", "gpu"):
    config = load(f"configs/answers.py:{scale},{tmp_path}", [])
    for size in (config.final.preset, *config.compare.final_presets):
      plan.check_comparison(experiment._at_size(config, size))


_DECISION = """
decision.recipes=5 decision.bases=crisp_16,dsir_soft decision.small_steps=8
decision.large_steps=12 compare.fractions=0.5,1.0 final.steps_per_call=4
optimizer.warmup_steps=2 evaluate.max_tokens=600
""".split()


@pytest.mark.slow
def test_recipes_are_the_same_at_both_scales(corpus, tmp_path):
  arguments = _arguments(
    *(corpus, tmp_path, "configs/decision_accuracy.py:toy"),
    *("exam,arithmetic", *_DECISION),
  )
  assert decision_accuracy.main(arguments) == 0
  names = {"r01_dsir_soft", "r02_mixture", "r03_crisp_16", "r04_dsir_soft"}
  weights = {}
  for scale in ("small", "large"):
    folder = cells.Folder(tmp_path / scale / "cells")
    assert not list((folder.path / "trial").iterdir())
    weights[scale] = {
      name: folder.log_w_N(cells.Search(name, "exam+arithmetic", 0))
      for name in names
    }
  for name in names:
    one, other = (of[name] for of in weights.values())
    np.testing.assert_array_equal(one, other)
    assert np.ptp(one) > 0.1
  assert np.exp(weights["small"]["r02_mixture"]).max() <= 4 + 1e-5
  text = (tmp_path / "decisions/decisions.md").read_text()
  rows = [line.strip("| ").split(" | ") for line in text.splitlines()[4:]]
  assert {tuple(row[:3]) for row in rows} == {
    *itertools.product(
      ("BPB of answers", "BPB of answers for accuracy", "accuracy"),
      ("exam",),
      ("0.5", "1"),
    ),
    *itertools.product(("BPB of texts",), ("arithmetic",), ("0.5", "1")),
    ("BPB of answers", "exam", "large, another seed"),
    ("BPB of texts", "arithmetic", "large, another seed"),
    ("accuracy", "exam", "large, another seed"),
  }
  recipes = (tmp_path / "decisions/recipes.md").read_text()
  assert recipes.count("| r0") == 4 and "| natural |" in recipes
  # What was trained is not trained again.
  made = list(tmp_path.glob("*/cells/*/*.json"))
  times = {path: path.stat().st_mtime_ns for path in made}
  assert decision_accuracy.main(arguments) == 0
  assert times == {path: path.stat().st_mtime_ns for path in made}


def test_more_recipes_leave_the_others_as_they_are():
  few, more = (
    decision_accuracy.recipes(
      load("configs/decision_accuracy.py", [f"decision.recipes={count}"])
    )
    for count in (7, 24)
  )
  assert few == more[:6] and len({one.name for one in more}) == 23
  assert len({one.power for one in more}) == 23
  assert {one.target for one in more} == {
    *("film_reviews", "humaneval", "news"),
    "film_reviews+humaneval+news",
  }


def _scored(scale, values, fractions=(1.0,)):
  """Rows of four recipes on two targets of texts and one with questions."""
  config = load("configs/decision_accuracy.py", ["compare.fractions=0.5,1.0"])
  rows = [
    {
      "method": name,
      "target": target,
      "target_set": "texts+exam",
      "split": split,
      "seed": seed,
      "fraction": fraction,
      "final_flops": (1 if scale == "small" else 10) * fraction,
      "bpb": value[fraction == 1] * (-1 if split == "validation" else 1)
      + 1e-3 * seed,
      # Who has fewer bits answers more.
      "accuracy": 1 - value[fraction == 1] / 10 if target == "exam" else np.nan,
    }
    for name, value in zip("abcd", values, strict=True)
    for target in ("texts", "more", "exam")
    for split in ("test", "validation")
    for seed in range(2)
    for fraction in fractions
  ]
  nowhere = pathlib.Path()
  return claims.Results(config, nowhere, cells.Folder(nowhere), rows)


def test_decisions_are_told_by_score_and_cost(monkeypatch):
  monkeypatch.setattr(
    decision_accuracy, "_asked", lambda found: frozenset({"exam"})
  )
  # At half of the tokens the best recipe seems to be the worst.
  small = _scored(
    "small", [(9, 1), (2, 2), (3, 3), (4, 4)], fractions=(0.5, 1.0)
  )
  large = _scored("large", [(0, 1), (0, 2), (0, 3), (0, 4)])
  rows = decision_accuracy.judged(small, large, list("abcd"))
  found = {
    (row.score, row.target, row.cost): row.found.all.mean for row in rows
  }
  for score, target in (
    ("BPB of texts", "texts"),
    ("BPB of texts", "mean"),
    ("BPB of answers", "exam"),
    ("accuracy", "exam"),
    ("BPB of answers for accuracy", "exam"),
  ):
    assert found[score, target, 0.05] == 0.5
    assert found[score, target, 0.1] == 1
  assert found["accuracy", "exam", 1.0] == 1  # one seed and the other
  assert len(found) == 6 * 2 + 5
