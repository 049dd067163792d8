"""What is written is there, in the order in which it vouches for itself."""

import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from cmtree_jax.data import cache, store
from cmtree_jax.data.store import TEMPORARY
from cmtree_jax.types import UserError


@pytest.fixture
def done(monkeypatch) -> list[tuple[str, str]]:
  """What the system is asked for: names that are brought to disk, and renames."""
  calls: list[tuple[str, str]] = []
  fsync, replace = os.fsync, os.replace
  rename = pathlib.Path.rename

  def name(path) -> str:
    """Less what is by chance in it."""
    path = pathlib.Path(path).name
    return path.split(".")[1] if path.endswith(TEMPORARY) else path

  def synced(descriptor):
    fsync(descriptor)
    path = os.readlink(f"/proc/self/fd/{descriptor}")
    calls.append(("sync", name(path)))

  def replaced(source, target):
    replace(source, target)
    calls.append(("name", name(target)))

  def renamed(source, target):
    calls.append(("name", name(target)))
    return rename(source, target)

  monkeypatch.setattr(os, "fsync", synced)
  monkeypatch.setattr(os, "replace", replaced)
  monkeypatch.setattr(pathlib.Path, "rename", renamed)
  return calls


linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


@linux
def test_a_file_is_on_disk_then_named_then_its_folder(tmp_path, done):
  store.write_atomically(tmp_path / "a", "text")
  assert done == [("sync", "a"), ("name", "a"), ("sync", tmp_path.name)]
  assert [path.name for path in tmp_path.iterdir()] == ["a"]


@linux
def test_a_folder_is_on_disk_before_its_seal_and_its_name(tmp_path, done):
  def build(place):
    (place / "deep").mkdir()
    (place / "deep" / "plain").write_text("of another library")

  cache.build_once(tmp_path / "key", build)
  order = [
    ("sync", "plain"),
    ("sync", "deep"),
    ("name", cache.SEAL_FILE),
    ("name", "key"),
    ("sync", tmp_path.name),
  ]
  assert [done.index(one) for one in order] == sorted(map(done.index, order))


def test_a_writer_that_fails_leaves_nothing(tmp_path):
  (tmp_path / "a").write_text("old")
  with pytest.raises(KeyError), store.replacing(tmp_path / "a") as temporary:
    temporary.write_text("half")
    raise KeyError
  assert [path.name for path in tmp_path.iterdir()] == ["a"]
  assert (tmp_path / "a").read_text() == "old"


def test_a_flipped_bit_in_a_table_is_told(tmp_path):
  path = tmp_path / "a.parquet"
  rows = [(f"text {i}",) for i in range(100)]
  store.write_table(path, ("text",), rows)
  data = bytearray(path.read_bytes())
  data[data.index(b"text 7") if b"text 7" in data else 60] ^= 1
  path.write_bytes(data)
  with pytest.raises(UserError, match=r"a\.parquet: wanted a sound"):
    store.read_table(path, "text")


_FILL = """
import pathlib, resource, sys
from cmtree_jax.data import store
resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
try:
  store.create_array(pathlib.Path(sys.argv[1]), "u1", (20_000,))[:] = 1
except OSError as error:
  print(store.is_full(error))
"""


def test_an_array_that_does_not_fit_is_told_before_it_is_filled(tmp_path):
  done = subprocess.run(
    [sys.executable, "-c", _FILL, str(tmp_path / "a.npy")],
    capture_output=True,
    text=True,
    check=True,
  )
  assert done.stdout == "True\n"
  made = store.create_array(tmp_path / "b.npy", np.int32, (3, 2))
  made[:] = 7
  made.flush()
  np.testing.assert_array_equal(np.load(tmp_path / "b.npy"), np.full((3, 2), 7))
