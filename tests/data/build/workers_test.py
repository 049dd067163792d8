"""Workers: what is done once, what is told, and equal bytes from each."""

import fcntl
import json
import multiprocessing
import os
import pathlib
import signal
import subprocess
import sys
import time
from typing import NamedTuple

import pytest

from cmtree_jax import embed
from cmtree_jax.data import share
from cmtree_jax.data.build import intake, prepare, tokenizer, workers
from cmtree_jax.data.plan import Plan as DataPlan
from cmtree_jax.data.read import sources
from cmtree_jax.loops.checkpoint import Interrupted
from cmtree_jax.types import Fault, UserError

ROOT = pathlib.Path(__file__).parents[3]
_FIELDS = sources.Rules("text", "id", "source", 1000)
_RULES = intake.Rules(_FIELDS, True, 0, False, 100)


def _items(folder: pathlib.Path, texts) -> list[intake.PartItem]:
  items = []
  for number, text in enumerate(texts):
    path = folder / f"{number}.jsonl"
    path.write_text(json.dumps({"text": text}) + "\n")
    (part,) = sources.parts([f"jsonl:{path}"])
    items.append(intake.PartItem(folder / f"{number}.json", part, _RULES))
  return items


def _workers(name: str) -> workers.Workers:
  return workers.Workers(workers.Plan(name))


def test_a_finished_item_is_not_done_again(tmp_path):
  items = _items(tmp_path, ["a", "b"])
  items[0].done.write_text("mine")
  _workers("local").run(intake.read_part, items)
  assert items[0].done.read_text() == "mine"
  assert json.loads(items[1].done.read_text())["documents"] == 1


def test_a_finished_item_that_is_not_whole_is_done_again(tmp_path):
  items = _items(tmp_path, ["a", "b", "c"])
  for item, text in zip(items, ("[]", "[1]", "["), strict=True):
    item.done.write_text(text)

  def is_whole(item):
    return json.loads(item.done.read_text()) == []

  _workers("local").run(intake.read_part, items, is_whole=is_whole)
  found = [json.loads(item.done.read_text()) for item in items]
  assert found[0] == []
  assert [one["documents"] for one in found[1:]] == [1, 1]


@pytest.mark.parametrize("name", ["local", "beam"])
def test_the_first_mistake_in_the_order_of_items_is_told(tmp_path, name):
  if name == "beam":
    pytest.importorskip("apache_beam")
  items = _items(tmp_path, ["good", "", " "])
  with pytest.raises(UserError, match=r"1\.jsonl, line 1: wanted a text"):
    _workers(name).run(intake.read_part, items)
  assert items[0].done.exists()
  # The mistakes are mended, and the work goes on.
  for number in (1, 2):
    (tmp_path / f"{number}.jsonl").write_text('{"text": "good"}\n')
  _workers(name).run(intake.read_part, items)
  assert all(item.done.exists() for item in items)


def test_unknown_workers_are_refused(tmp_path):
  with pytest.raises(UserError, match=r"'spark'.*beam, local"):
    _workers("spark").run(intake.read_part, [])


def test_work_stops_when_it_is_asked_to(tmp_path):
  def check():
    raise Interrupted

  items = _items(tmp_path, ["a"])
  with pytest.raises(Interrupted):
    workers.Workers(check=check).run(intake.read_part, items)
  assert items[0].done.exists()  # what was in flight is kept


@pytest.mark.skipif(sys.platform != "linux", reason="has no affinity")
def test_cores_are_those_that_the_process_may_use():
  before = os.sched_getaffinity(0)
  try:
    os.sched_setaffinity(0, {min(before)})
    assert workers.num_cores() == 1
  finally:
    os.sched_setaffinity(0, before)
  assert workers.num_cores() == len(before)


class _Item(NamedTuple):
  done: pathlib.Path


def _end_in_a_worker(item: _Item) -> None:
  if multiprocessing.parent_process():
    os.kill(os.getpid(), signal.SIGTERM)
  item.done.touch()


@pytest.mark.parametrize("asked", [True, False])
def test_workers_that_a_signal_ended_are_no_fault(tmp_path, monkeypatch, asked):
  """Whoever stops a job may signal all of its processes at once."""
  monkeypatch.setattr(workers, "START_SECONDS", 0.0)
  items = [_Item(tmp_path / str(number)) for number in range(3)]
  checked = []

  def check():
    checked.append(None)
    if asked and len(checked) > 1:  # not before there are processes
      raise Interrupted

  with pytest.raises(Interrupted if asked else Fault):
    workers.Workers(check=check).run(_end_in_a_worker, items)
  assert items[0].done.exists() and not items[1].done.exists()


def _abort_on_the_second(item: _Item) -> None:
  """As Arrow does with some damaged files."""
  if item.done.name == "1":
    os.abort()
  item.done.touch()


def begin(folder: str) -> None:
  """What the process of the next test does."""
  items = [_Item(pathlib.Path(folder, str(number))) for number in range(3)]
  workers.Workers().run(_abort_on_the_second, items)


def test_what_ends_a_process_is_named_when_it_ends_another(tmp_path):
  code = f"from tests.data.build import workers_test as t; t.begin({str(tmp_path)!r})"
  done = subprocess.run(
    [sys.executable, "-c", code],
    cwd=ROOT,
    env={**os.environ, "PYTHONPATH": str(ROOT)},
    capture_output=True,
  )
  assert done.returncode == -signal.SIGABRT
  items = [_Item(tmp_path / str(number)) for number in range(3)]
  for _ in range(2):
    with pytest.raises(
      Fault, match=r"at work on (file 1|.* or file 1|file 1 or)"
    ):
      workers.Workers().run(
        _abort_on_the_second,
        items,
        name_of=lambda item: f"file {item.done.name}",
      )
  # Whoever comes after it is cured finds nothing of it.
  workers.Workers().run(_finish, items)
  assert sorted(path.name for path in tmp_path.iterdir()) == ["0", "1", "2"]


def _finish(item: _Item) -> None:
  item.done.touch()


def _hold_in_a_worker(item: _Item) -> None:
  if not multiprocessing.parent_process():
    item.done.touch()
    return
  with item.done.with_suffix(".held").open("w") as file:
    fcntl.flock(file, fcntl.LOCK_EX)
    item.done.with_suffix(".begun").touch()
    time.sleep(100)


def hold(folder: str) -> None:
  """What the process of the next test does."""
  workers.START_SECONDS = 0.0
  items = [_Item(pathlib.Path(folder, str(number))) for number in range(2)]
  workers.Workers().run(_hold_in_a_worker, items)


def test_a_worker_ends_with_its_parent(tmp_path):
  code = (
    f"from tests.data.build import workers_test as t; t.hold({str(tmp_path)!r})"
  )
  parent = subprocess.Popen(
    [sys.executable, "-c", code],
    cwd=ROOT,
    env={**os.environ, "PYTHONPATH": str(ROOT)},
  )
  end = time.monotonic() + 60
  while not (tmp_path / "1.begun").exists():
    assert parent.poll() is None and time.monotonic() < end
    time.sleep(0.05)
  parent.kill()
  parent.wait()
  with (tmp_path / "1.held").open("w") as file:
    while True:
      try:
        return fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
      except BlockingIOError:
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.mark.parametrize(
  "other",
  ["processes", "beam", pytest.param("address", marks=pytest.mark.slow)],
)
def test_other_workers_prepare_the_same_bytes(tmp_path, monkeypatch, other):
  """The last: Beam with two processes, for a cache at an address."""
  if other != "processes":
    pytest.importorskip("apache_beam")
  monkeypatch.setenv("CMTREE_CACHE", str(tmp_path / "host"))
  for name in "ab":
    lines = [
      json.dumps({"id": f"{name}{i}", "text": f"{name} text {i % 29} of many"})
      for i in range(40)
    ]
    (tmp_path / f"{name}.jsonl").write_text("\n".join(lines))
  goal = [
    json.dumps({"text": f"goal {split} {i}", "split": split})
    for split in ("train", "validation", "test")
    for i in range(3)
  ]
  (tmp_path / "goal.jsonl").write_text("\n".join(goal))
  plan = prepare.Plan(
    DataPlan(
      source=(f"jsonl:{tmp_path}/[ab].jsonl",),
      target_files=(f"{tmp_path}/goal.jsonl",),
      targets=(),
      shard_documents=16,
      drop_repeated_texts=True,
    ),
    tokenizer.Plan("bytes"),
    embed.Plan(dim=4),
  )
  two = ("--direct_num_workers=2", "--direct_running_mode=multi_processing")
  crews = {
    "local": _workers("local"),
    "processes": _workers("local"),
    "beam": _workers("beam"),
    "address": workers.Workers(workers.Plan("beam", two)),
  }
  folders = []
  for name in ("local", other):
    if name == "processes":
      monkeypatch.setattr(workers, "START_SECONDS", 0.0)
    at = f"file://{tmp_path}/address" if name == "address" else tmp_path / name
    prepared = prepare.prepare(
      plan,
      cache_dir=share.attach(at),
      workers=crews[name],
      progress=lambda line: None,
    )
    folders.append(tmp_path / name)
    assert len(prepared.pool) == 58 < 80
    assert len(prepared.documents.paths) == 6
  files = [
    sorted(p.relative_to(f) for p in f.rglob("*") if p.is_file())
    for f in folders
  ]
  assert files[0] == files[1]
  for file in files[0]:
    one, other = ((folder / file).read_bytes() for folder in folders)
    assert one == other, file
