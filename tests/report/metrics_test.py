"""The one writer of what loops measure: every step once, whatever happens to the job."""

import json
import math
import pathlib
import struct
import threading
from typing import Any

import pytest
from tensorboardX.proto import event_pb2

from cmtree_jax.report import metrics
from cmtree_jax.report.metrics import Metrics
from cmtree_jax.types import UserError


def read(folder: pathlib.Path) -> list[dict]:
  text = (folder / metrics.FILE).read_text()
  return [json.loads(line) for line in text.splitlines()]


def scalars(folder: pathlib.Path) -> list[tuple[str, int, float]]:
  """What TensorBoard would show: (tag, step, value) of every event file."""
  found = []
  for path in sorted((folder / metrics.FOLDER).iterdir()):
    data, at = path.read_bytes(), 0
    while at < len(data):  # of each record: length, its sum, bytes, their sum
      (size,) = struct.unpack_from("<Q", data, at)
      event: Any = event_pb2.Event()  # type: ignore
      event.ParseFromString(data[at + 12 : at + 12 + size])
      found += [
        (value.tag, event.step, value.simple_value)
        for value in event.summary.value
      ]
      at += 16 + size
  return found


def test_a_number_has_one_name_in_both_files(tmp_path):
  with Metrics(tmp_path) as one:
    one.write("final", "natural.any.0", 25, {"loss": 5.5})
    one.write("search", "cmtree.a.0", 1, {"gain": math.nan, "loss.a": 2.0})
  assert read(tmp_path) == [
    {"loop": "final", "run": "natural.any.0", "step": 25, "loss": 5.5},
    {
      **{"loop": "search", "run": "cmtree.a.0", "step": 1},
      **{"gain": None, "loss.a": 2.0},
    },
  ]
  assert scalars(tmp_path) == [
    ("final/natural.any.0/loss", 25, 5.5),
    ("search/cmtree.a.0/loss.a", 1, 2.0),
  ]


def test_a_job_that_goes_on_writes_no_step_twice(tmp_path):
  with Metrics(tmp_path) as one:
    for step in (1, 2, 3):
      one.write("final", "a", step, {"loss": step})
  with (tmp_path / metrics.FILE).open("a") as file:
    file.write('{"loss": 4.0, "loop": "fi')  # killed while it wrote
  with Metrics(tmp_path) as one:
    for step in (2, 3, 4):  # from its last checkpoint on
      one.write("final", "a", step, {"loss": step})
    one.write("final", "b", 2, {"loss": 2})
    one.write("trial", "a", 2, {"loss": 2})
  expected = [("final", "a", step) for step in (1, 2, 3, 4)]
  expected += [("final", "b", 2), ("trial", "a", 2)]
  found = [(x["loop"], x["run"], x["step"]) for x in read(tmp_path)]
  assert found == expected
  assert [(tag, step) for tag, step, _ in scalars(tmp_path)] == [
    (f"{loop}/{run}/loss", step) for loop, run, step in expected
  ]


def test_only_a_process_that_has_a_folder_writes(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  with Metrics(None) as one:
    one.write("final", "a", 1, {"loss": 1})
  with Metrics(tmp_path / "empty"):
    pass  # nothing was told
  assert list(tmp_path.iterdir()) == []


def test_trainings_side_by_side_share_it(tmp_path):
  with Metrics(tmp_path) as one:

    def train(run):
      for step in range(50):
        one.write("final", run, step, {"loss": step})

    threads = [threading.Thread(target=train, args=(run,)) for run in "abc"]
    for thread in threads:
      thread.start()
    for thread in threads:
      thread.join()
  found = read(tmp_path)
  assert len(found) == 150
  for run in "abc":
    assert [x["step"] for x in found if x["run"] == run] == list(range(50))


@pytest.mark.parametrize("name", ["step", "run", "loop"])
def test_what_tells_lines_apart_cannot_be_written_over(tmp_path, name):
  with Metrics(tmp_path) as one:
    one.write("final", "a", 3, {name: 7.0})
  (line,) = read(tmp_path)
  assert (line["loop"], line["run"], line["step"]) == ("final", "a", 3)


@pytest.mark.parametrize("line", ["{", "[1]", '{"loop": "a"}', "\x00\x00"])
def test_a_damaged_file_is_told(tmp_path, line):
  (tmp_path / metrics.FILE).write_text(
    '{"loop": "a", "run": "b", "step": 1}\n' + line + "\n"
  )
  with (
    Metrics(tmp_path) as one,
    pytest.raises(UserError, match=r"metrics\.jsonl: .* at byte 37"),
  ):
    one.write("a", "b", 2, {})
