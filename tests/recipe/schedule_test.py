"""Schedules: what a run was trained on, and back from its file."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest

from cmtree_jax.data.build import prepare
from cmtree_jax.recipe import schedule as schedules
from cmtree_jax.recipe.partition import clusters
from cmtree_jax.recipe.schedule import Schedule
from cmtree_jax.report import describe, moments
from cmtree_jax.types import UserError

PLACES = clusters(np.eye(3, dtype=np.float32))
EMBEDDING_NE = np.eye(3)[[0, 0, 1, 2]]
MASS_N = np.array([0.2, 0.3, 0.4, 0.1])  # leaves: .5, .4, .1
MIXTURE_GL = np.array([[0.5, 0.4, 0.1], [0.2, 0.3, 0.5], [0.1, 0.1, 0.8]])
NAMES = ("leaf_0_a", "leaf_1_b", "leaf_2_<c>")


@pytest.fixture
def schedule() -> Schedule:
  """Of ten steps; what begins at step 4 first is trained on by nobody."""
  log_w_GL = np.log(MIXTURE_GL / [0.5, 0.4, 0.1])
  leaves = [
    PLACES.with_weights(log_w_GL[g].astype(np.float32)) for g in (0, 2, 1, 2)
  ]
  stages = schedules.make([0, 4, 4, 8], leaves, EMBEDDING_NE, MASS_N, steps=10)
  return Schedule("rnb", 3, 64, NAMES, stages)


def test_stages_are_what_is_trained_on(schedule):
  assert [(s.begin, s.end, s.steps) for s in schedule.stages] == [
    (0, 4, 4),
    (4, 8, 4),
    (8, 10, 2),
  ]
  found = [stage.mixture_L for stage in schedule.stages]
  np.testing.assert_allclose(found, MIXTURE_GL, rtol=1e-6)
  assert schedule.steps == 10
  np.testing.assert_allclose(schedule.mixture_L, [0.3, 0.3, 0.4], rtol=1e-6)
  assert schedule.at(7) is schedule.stages[1]
  assert schedule.at(8) is schedule.stages[2]
  np.testing.assert_allclose(schedule.share_G, [0.4, 0.4, 0.2])
  assert schedule.bounds(10) == [0, 4, 8, 10]
  assert schedule.bounds(127.0) == [0, 51, 102, 127]  # 50.8, 101.6
  assert schedule.mixture(9)["leaf_2_<c>"] == pytest.approx(0.8)


def test_a_schedule_comes_back_from_its_file(schedule, tmp_path):
  schedules.save(tmp_path / "run", schedule)
  found = schedules.load(tmp_path / "run")
  assert found[:4] == schedule[:4]
  for one, other in zip(found.stages, schedule.stages, strict=True):
    assert (one.begin, one.end) == (other.begin, other.end)
    np.testing.assert_allclose(one.mixture_L, other.mixture_L)
    np.testing.assert_allclose(
      one.partition.log_w_L, other.partition.log_w_L, rtol=1e-6
    )
    np.testing.assert_array_equal(
      one.partition.log_p_leaf(EMBEDDING_NE),
      other.partition.log_p_leaf(EMBEDDING_NE),
    )
  # Leaves that differ by weights alone are in the file once.
  told = json.loads((tmp_path / "run" / schedules.FILE).read_text())
  assert len(told["leaves"]) == 1


def test_what_a_schedule_was_made_from_comes_with_it(schedule, tmp_path):
  learned, made = tmp_path / "corpus", {"method": "rnb", "config": {"a": 1}}
  learned.mkdir()
  for name in prepare.LEARNED_FILES:
    (learned / name).write_text(name)
  files = schedules.hand_over(tmp_path / "job", schedule, made, learned=learned)
  assert {file.name for file in files} == {
    *prepare.LEARNED_FILES, schedules.FILE, schedules.TABLE_FILE
  }  # fmt: skip
  for name in prepare.LEARNED_FILES:
    assert (tmp_path / "job" / name).read_text() == name
  assert schedules.is_in(tmp_path / "job")
  assert schedules.made_from(tmp_path / "job") == made
  assert schedules.load(tmp_path / "job")[:4] == schedule[:4]
  (tmp_path / "job" / prepare.TOKENIZER_FILE).write_text("another")
  with pytest.raises(UserError, match=r"tokenizer\.bin: wanted the bytes"):
    schedules.made_from(tmp_path / "job")
  schedules.save(tmp_path / "run", schedule)
  assert not schedules.is_in(tmp_path)
  with pytest.raises(UserError, match="of a single run.*workdir of its job"):
    schedules.made_from(tmp_path / "run")


def test_a_folder_without_a_schedule_is_refused(tmp_path):
  with pytest.raises(UserError, match="No schedule.json"):
    schedules.load(tmp_path)
  (tmp_path / schedules.FILE).write_text('{"format": 0}')
  with pytest.raises(UserError, match="wanted format 2, came 0"):
    schedules.load(tmp_path)


def test_three_moments_of_a_schedule_are_told(schedule, tmp_path):
  """Words of documents stay words."""
  texts = ["<b> alpha", "<b> alpha", "beta | x", "gamma"]
  sample = describe.Sample(EMBEDDING_NE, MASS_N, texts, ["1", "2", "3", "4"])
  text = moments.markdown(schedule, sample)
  heads = [line for line in text.splitlines() if line.startswith("## ")]
  assert heads == [
    "## From step 0 to 4 of 10",
    "## From step 4 to 8 of 10",
    "## From step 8 to 10 of 10",
  ]
  assert (
    "| 50.0% | 50.0% | 1.00 |" in text and "| 10.0% | 80.0% | 8.00 |" in text
  )
  assert "<b>" not in text
  moments.draw(schedule, tmp_path / "mixture.svg")
  drawn = (tmp_path / "mixture.svg").read_text()
  assert "leaf_0_a" in drawn and "leaf_2_&lt;c&gt;" in drawn


def test_room_for_leaves_has_no_rows(schedule, tmp_path):
  """A leaf that is there at one stage has rows at all of them."""
  masses = [0.5, 0.5, 0.0], [0.6, 0.4, 0.0], [1.0, 0.0, 0.0]
  grown = schedule._replace(
    stages=tuple(
      stage._replace(mass_L=np.array(mass), mixture_L=np.array(mass))
      for stage, mass in zip(schedule.stages, masses, strict=True)
    )
  )
  schedules.save(tmp_path, grown)
  rows = pq.read_table(tmp_path / schedules.TABLE_FILE)
  assert rows["leaf"].to_pylist() == list(NAMES[:2]) * 3


def test_only_what_moved_and_what_was_trained_on_is_drawn(schedule, tmp_path):
  """An event that changed nothing has no line, a leaf without a share no colour."""
  first, *_ = schedule.stages
  still = schedule._replace(
    stages=(first._replace(end=5), first._replace(begin=5, end=10))
  )
  lines = []
  for number, one in enumerate((schedule, still)):
    moments.draw(one, tmp_path / f"{number}.svg")
    drawn = (tmp_path / f"{number}.svg").read_text()
    lines.append(drawn.count("stroke: #ffffff; stroke-opacity: 0.7"))
  assert lines == [len(schedule.stages) - 1, 0]
  names, share_GL = moments.largest(
    "abc",
    np.array([[0.5, 0.0, 0.5], [1.0, 0.0, 0.0]]),
    np.array([0.7, 0.0, 0.3]),
  )
  assert names == ["a", "c"]
  np.testing.assert_array_equal(share_GL, [[0.5, 0.5], [1.0, 0.0]])
