"""Folders that jobs share: made once, whole or not there, and checked when read."""

import errno
import fcntl
import pathlib
import subprocess
import sys
import threading

import pytest

from cmtree_jax.data import cache
from cmtree_jax.types import UserError


def _write(**files: str):
  def build(place: pathlib.Path) -> None:
    for name, text in files.items():
      (place / name).write_text(text)

  return build


def _stopped_after(**files: str):
  def build(place: pathlib.Path) -> None:
    _write(**files)(place)
    raise KeyboardInterrupt

  return build


def _names(folder: pathlib.Path) -> list[str]:
  return sorted(path.name for path in folder.iterdir())


def test_a_folder_is_made_once_and_nothing_else_is_left(tmp_path):
  folder = tmp_path / "cache" / "key"
  assert cache.build_once(folder, _write(a="1")) == folder
  assert cache.build_once(folder, _write(a="2")) == folder
  assert (folder / "a").read_text() == "1"
  assert _names(folder) == ["a", cache.SEAL_FILE]
  assert _names(folder.parent) == ["key"]


def test_a_stopped_build_is_not_there_and_the_next_one_goes_on(tmp_path):
  folder = tmp_path / "key"
  with pytest.raises(KeyboardInterrupt):
    cache.build_once(folder, _stopped_after(half="done"))
  assert not folder.exists()
  found = []

  def build(place):
    found.append(_names(place))
    _write(rest="done")(place)

  cache.build_once(folder, build)
  assert found == [["half"]]
  assert _names(folder) == [cache.SEAL_FILE, "half", "rest"]
  assert _names(tmp_path) == ["key"]


def test_a_build_that_wrote_nothing_leaves_nothing(tmp_path):
  with pytest.raises(KeyboardInterrupt):
    cache.build_once(tmp_path / "key", _stopped_after())
  assert _names(tmp_path) == []


def test_two_at_once_have_a_place_each_and_the_first_gives_the_folder(tmp_path):
  folder = tmp_path / "key"
  begun, go_on = threading.Event(), threading.Event()
  places = []

  def slow(place):
    places.append(place)
    begun.set()
    assert go_on.wait(60)
    _write(who="slow")(place)

  def fast(place):
    places.append(place)
    _write(who="fast")(place)

  thread = threading.Thread(target=cache.build_once, args=(folder, slow))
  thread.start()
  assert begun.wait(60)
  cache.build_once(folder, fast)
  go_on.set()
  thread.join()
  assert len(set(places)) == 2
  assert (folder / "who").read_text() == "fast"
  cache.check(folder)
  assert _names(tmp_path) == ["key"]


def test_the_work_of_a_killed_process_is_taken_over(tmp_path):
  code = f"""
import os, pathlib, signal
from cmtree_jax.data import cache
def build(place):
  (place / "half").write_text("done")
  os.kill(os.getpid(), signal.SIGKILL)
cache.build_once(pathlib.Path({str(tmp_path / "key")!r}), build)
"""
  assert subprocess.run([sys.executable, "-c", code], check=False).returncode
  cache.build_once(tmp_path / "key", _write(rest="done"))
  assert _names(tmp_path / "key") == [cache.SEAL_FILE, "half", "rest"]
  assert _names(tmp_path) == ["key"]


def test_what_others_left_half_done_is_removed(tmp_path):
  folder = tmp_path / "key"

  def build(place):  # in the first place, while another ends early in a second
    _write(a="1")(place)
    with pytest.raises(KeyboardInterrupt):
      cache.build_once(folder, _stopped_after(half="done"))
    assert len(list(tmp_path.glob(".key-*/half"))) == 1

  cache.build_once(folder, build)
  assert _names(tmp_path) == ["key"]


def test_without_locks_every_build_begins_anew(tmp_path, monkeypatch):
  def refuse(*_):
    raise OSError(errno.ENOSYS, "Function not implemented")

  monkeypatch.setattr(fcntl, "flock", refuse)
  folder = tmp_path / "key"
  with pytest.raises(KeyboardInterrupt):
    cache.build_once(folder, _stopped_after(half="done"))
  cache.build_once(folder, _write(a="1"))
  assert _names(folder) == ["a", cache.SEAL_FILE]


@pytest.mark.parametrize(
  ("name", "text", "told"),
  [
    ("small", "2", "small: wanted the bytes that were written, came others"),
    ("large", "b" * 200, "large: wanted the bytes that were written"),
    ("large", "a" * 199, "large: wanted 200 bytes, came 199"),
    ("large", None, "large: wanted 200 bytes, came no file"),
    (cache.SEAL_FILE, '{"small"', "files.json: wanted the list of its files"),
    (cache.SEAL_FILE, None, "files.json: wanted the list of its files"),
  ],
)
def test_a_damaged_folder_is_refused_with_its_cure(tmp_path, name, text, told):
  folder = tmp_path / "key"
  cache.build_once(folder, _write(small="1", large="a" * 200))
  (folder / name).unlink()
  if text is not None:
    (folder / name).write_text(text)
  with pytest.raises(UserError, match="delete the folder") as error:
    cache.build_once(folder, _write())
  assert told in str(error.value)
  assert "\n" not in str(error.value)


def test_what_is_large_is_known_by_its_size_alone(tmp_path, monkeypatch):
  folder = tmp_path / "key"
  cache.build_once(folder, _write(small="1", large="a" * 200))
  monkeypatch.setattr(cache, "HASHED_BYTES", 100)
  (folder / "large").write_text("b" * 200)
  cache.check(folder)
  (folder / "small").write_text("2")
  with pytest.raises(UserError, match="small: wanted the bytes"):
    cache.check(folder)


def test_a_place_that_cannot_be_written_to_is_told(tmp_path):
  (tmp_path / "file").write_text("")
  with pytest.raises(UserError, match="Cannot write"):
    cache.build_once(tmp_path / "file" / "key", _write())
