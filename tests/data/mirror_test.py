"""A folder at an address and its twin, and pushes that are cut off anywhere."""

import json
import os
import pathlib

import numpy as np
import pytest

from cmtree_jax.data import mirror
from cmtree_jax.data.mirror import Mirror
from cmtree_jax.data.remote import Remote
from cmtree_jax.types import UserError

MARKER = ".mine"


@pytest.fixture
def address(tmp_path, monkeypatch):
  """An address; twins lie in `host`."""
  monkeypatch.setenv("CMTREE_CACHE", str(tmp_path / "host"))
  yield f"file://{tmp_path}/bucket/run"
  mirror.close()


def _write(twin: pathlib.Path, **files: str) -> None:
  for name, text in files.items():
    path = twin / name.replace("__", "/").replace("_DOT_", ".")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def _bucket(tmp_path: pathlib.Path) -> dict[str, str]:
  folder = tmp_path / "bucket" / "run"
  files = [path for path in folder.rglob("*") if path.is_file()]
  return {str(p.relative_to(folder)): p.read_text() for p in files}


def test_what_changes_is_pushed_and_found_again(address, tmp_path):
  one = Mirror(address)
  with one.held(MARKER):
    _write(one.twin, a="1", b="1", deep__c="1")
    (one.twin / ".mine").write_text("")
    one.push()
    assert ".lock" in _bucket(tmp_path)
    (one.twin / "a").write_text("2")  # of the same size
    (one.twin / "b").unlink()
    (one.twin / ".d.0.tmp").write_text("not ready")
  wanted = {".mine": "", "a": "2", "deep/c": "1"}
  assert _bucket(tmp_path) == wanted
  one.close()
  other = Mirror(address)
  with other.held(MARKER):
    found = {p.name: p.read_text() for p in other.twin.glob("[ab]")}
    assert found == {"a": "2"}
    assert (other.twin / "deep" / "c").read_text() == "1"
  other.close()
  assert _bucket(tmp_path) == wanted
  assert not list((tmp_path / "host" / "twins").iterdir())


def test_what_did_not_change_is_not_written_again(address, monkeypatch):
  one = Mirror(address)
  put = []
  own = Remote.put
  monkeypatch.setattr(
    Remote,
    "put",
    lambda self, path, name: put.append(name) or own(self, path, name),
  )
  with one.held(MARKER):
    _write(one.twin, a="1", b="1")
    np.save(one.twin / "c.npy", np.zeros(3))
    one.push()
    one.push()
    assert sorted(put) == ["a", "b", "c.npy"]
    del put[:]
    before = os.stat(one.twin / "c.npy")
    array = np.load(one.twin / "c.npy", mmap_mode="r+")
    array[0] = 1.0
    array.flush()
    # As a file system that sees nothing of it.
    os.utime(one.twin / "c.npy", ns=(before.st_atime_ns, before.st_mtime_ns))
    one.push()
    assert put == ["c.npy"]
    del put[:]
    before = os.stat(one.twin / "a")
    _write(one.twin, new="2")
    os.utime(one.twin / "new", ns=(before.st_atime_ns, before.st_mtime_ns))
    os.replace(one.twin / "new", one.twin / "a")
    one.push()
    assert put == ["a"]
  one.close()


class _Cut(BaseException):
  """The process was killed."""


def _saved(twin: pathlib.Path, step: int, old: int | None) -> None:
  """As a save of a checkpoint: folder, sum, then the old ones go."""
  _write(twin / "stage" / str(step), a=f"{step}", d__b=f"{step}")
  _write(twin / "stage", **{f"{step}_DOT_sum": f"{step}"})
  _write(twin, log="x" * step)
  if old is not None:
    for name in ("a", "d/b"):
      (twin / "stage" / str(old) / name).unlink()
    (twin / "stage" / f"{old}.sum").unlink()


@pytest.mark.parametrize("cut", range(10))
def test_a_push_that_is_cut_off_leaves_whole_steps(
  cut, address, tmp_path, monkeypatch
):
  left = [10**9]

  def killed(method):
    def run(self, *args):
      if left[0] == 0:
        raise _Cut
      left[0] -= 1
      return method(self, *args)

    return run

  for name in ("put", "write", "remove"):
    monkeypatch.setattr(Remote, name, killed(getattr(Remote, name)))
  one = Mirror(address)
  with pytest.raises(_Cut), one.held(MARKER):
    _write(one.twin, **{"_DOT_mine": ""})
    _saved(one.twin, 1, None)
    _saved(one.twin, 2, None)
    one.push()
    _saved(one.twin, 3, 1)
    left[0] = cut
    one.push()
    raise _Cut
  left[0] = 10**9
  one.close()
  monkeypatch.setattr(mirror, "_has_ended", lambda token: True)
  other = Mirror(address)
  with other.held(MARKER):
    stage = other.twin / "stage"
    steps = [p.name for p in stage.iterdir() if p.is_dir()]
    last = max(steps)
    assert "2" in steps and last in "23"
    for name in ("a", "d/b"):
      assert (stage / last / name).read_text() == last
    if (stage / "3.sum").exists():
      assert last == "3"
  assert mirror.JOURNAL_FILE not in _bucket(tmp_path)
  other.close()


def test_a_reader_of_a_cut_push_changes_nothing(address, tmp_path):
  remote = Remote(address)
  for name in ("a", "3/x", "3/y"):
    remote.write(name, b"1")
  came = {"3": ["3/x", "3/y", "3/z"]}
  remote.write(mirror.JOURNAL_FILE, json.dumps(came).encode())
  before = _bucket(tmp_path)
  twin = mirror.reading(address)
  assert {p.name for p in twin.rglob("*")} == {"a"}
  assert _bucket(tmp_path) == before


def test_files_of_others_are_refused_and_stay(address, tmp_path):
  Remote(address).write("theirs", b"1")
  one = Mirror(address)
  with pytest.raises(UserError, match="holds no .mine"), one.held(MARKER):
    pass
  one.close()
  assert _bucket(tmp_path) == {"theirs": "1"}


def test_a_job_that_lost_its_address_writes_no_more(address, tmp_path):
  one = Mirror(address)
  with pytest.raises(UserError, match="lock of this job"), one.held(MARKER):
    one.remote.write(".lock", b'{"token": "other"}')
    _write(one.twin, a="1")
    one.push()
  one.close()
  assert _bucket(tmp_path) == {".lock": '{"token": "other"}'}


def test_a_pull_that_fails_takes_nothing_away(address, tmp_path, monkeypatch):
  remote = Remote(address)
  for name in (MARKER, "a", "b"):
    remote.write(name, b"1")
  before = _bucket(tmp_path)

  def fail(self, name, path):
    raise UserError("no network")

  monkeypatch.setattr(Remote, "get", fail)
  one = Mirror(address)
  with pytest.raises(UserError, match="no network"), one.held(MARKER):
    pass
  one.close()
  assert _bucket(tmp_path) == before


def test_a_folder_to_read(address, tmp_path):
  remote = Remote(address)
  for name in ("a", "export/all.jsonl", "export/manifest.json"):
    remote.write(name, b"1")
  assert mirror.reading(tmp_path) == tmp_path
  twin = mirror.reading(address)
  assert twin.name == "run" and mirror.reading(address) == twin
  found = {str(p.relative_to(twin)) for p in twin.rglob("*") if p.is_file()}
  assert found == {"a", "export/manifest.json"}
  assert mirror.of(twin / "a") is None
  assert mirror.addressed(f"in {twin}/a") == f"in {address}/a"
  (twin / "page").write_text("2")
  mirror.publish(twin / "page")
  mirror.publish(tmp_path / "elsewhere")
  assert _bucket(tmp_path)["page"] == "2"
  mirror.close()
  assert not twin.exists()
  remote.write("a", b"2")
  assert (mirror.reading(address) / "a").read_text() == "2"


def test_what_a_job_writes_is_pushed_by_its_path(address, tmp_path):
  twin = mirror.working(address)
  one = mirror.of(twin / "deep" / "er")
  assert one is not None and mirror.of(tmp_path) is None
  with one.held(MARKER):
    _write(twin, a="1")
    mirror.push(tmp_path)
    assert "a" not in _bucket(tmp_path)
    mirror.push(twin / "deep")
    assert _bucket(tmp_path)["a"] == "1"


def test_what_another_thread_takes_away_is_no_fault(
  address, tmp_path, monkeypatch
):
  one = Mirror(address)
  own = Remote.put

  def put(self, path, name):
    if name == "work":
      path.unlink()
    own(self, path, name)

  monkeypatch.setattr(Remote, "put", put)
  with one.held(MARKER):
    _write(one.twin, a="1", work="1", z="1")
    one.push()
    assert _bucket(tmp_path).keys() == {".lock", "a", "z"}
  one.close()


def test_another_process_follows_what_is_told(address, tmp_path, monkeypatch):
  first, other = Mirror(address), Mirror(address)
  with first.held(MARKER):
    _write(first.twin, a="1", deep__b="1")
    np.save(first.twin / "c.npy", np.zeros(2, np.float32))
    other.twin.mkdir(parents=True)
    other.hear(first.news())
    seen = np.load(other.twin / "c.npy", mmap_mode="c")
    seen[1] = 2.0
    _write(first.twin, a="2")
    np.save(first.twin / "c.npy", np.ones(2, np.float32))
    (first.twin / "deep" / "b").unlink()
    told = first.news()
    assert told == ["a", "c.npy", "deep/b"] and first.news() == []
    other.hear(told)
  assert {p.name for p in other.twin.iterdir()} == {"a", "c.npy"}
  assert (other.twin / "a").read_text() == "2"
  assert seen.tolist() == [0.0, 2.0]  # what is held in memory stays
  assert np.load(other.twin / "c.npy").tolist() == [1.0, 1.0]
  first.close()
  other.close()


def test_twins_of_killed_processes_go(address, tmp_path):
  left = tmp_path / "host" / "twins" / "0123"
  left.mkdir(parents=True)
  other = Mirror(address)  # alive, and unknown to `close`
  mirror.working(address)
  mirror.close()
  assert not left.exists() and other.twin.parent.exists()
  other.close()
