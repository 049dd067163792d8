"""Answers by size and tokens: one small run, and what counts as leaving chance."""

import itertools
import json
import math
import random
import re

import numpy as np
import pytest

from cmtree_jax.config import load
from cmtree_jax.data.draw.batch import Batch
from cmtree_jax.evaluate import answers
from cmtree_jax.jobs import plan
from cmtree_jax.types import UserError
from experiments import answers as experiment
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
