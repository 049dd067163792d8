"""Files at an address: on a disk and in a storage that has no folders."""

import pathlib
import socket
from collections.abc import Iterator

import pytest

from cmtree_jax.data.read.files import is_remote
from cmtree_jax.data.remote import Remote
from cmtree_jax.types import UserError


@pytest.fixture(scope="module")
def cloud() -> Iterator[None]:
  """Cloud Storage as an emulator has it, where one is installed."""
  pytest.importorskip("gcsfs", reason="gs:// is tested with gcsfs")
  emulator = pytest.importorskip(
    "gcp_storage_emulator.server",
    reason="gs:// is tested with gcp-storage-emulator",
  )
  with socket.socket() as free:
    free.bind(("localhost", 0))
    port = free.getsockname()[1]
  server = emulator.create_server(
    "localhost", port, in_memory=True, default_bucket="bucket"
  )
  server.start()
  with pytest.MonkeyPatch.context() as patch:
    patch.setenv("STORAGE_EMULATOR_HOST", f"http://localhost:{port}")
    yield
  server.stop()


@pytest.fixture(params=["file", "memory", "gs"])
def remote(request, tmp_path) -> Remote:
  """An address where nothing is yet."""
  if request.param == "gs":
    request.getfixturevalue("cloud")
    return Remote(f"gs://bucket{tmp_path}/run/")
  return Remote(f"{request.param}://{tmp_path}/bucket/run/")


def test_what_is_put_is_there(remote, tmp_path):
  assert not remote.address.endswith("/")
  assert remote.names() == remote.entries() == []
  (tmp_path / "a").write_bytes(b"one")
  for name in ("x", "deep/er/y", "deeper"):
    remote.put(tmp_path / "a", name)
  assert remote.names() == ["deep/er/y", "deeper", "x"]
  assert remote.names("deep") == ["deep/er/y"]
  assert sorted(remote.entries()) == ["deep", "deeper", "x"]
  assert remote.get("deep/er/y", tmp_path / "new" / "b")
  assert (tmp_path / "new" / "b").read_bytes() == b"one"
  remote.remove("deep/er/y")
  assert remote.names() == ["deeper", "x"]
  if "file:" in remote.address:  # as in a bucket, no folder is left
    assert sorted(remote.entries()) == ["deeper", "x"]
  remote.write("x", b"two")
  assert remote.read("x") == b"two"
  remote.remove("x")
  assert not remote.has("x") and remote.has("deeper")


def test_what_is_not_there_is_no_error(remote, tmp_path):
  remote.remove("x")
  assert remote.read("x") is None and not remote.has("x")
  assert not remote.get("x", tmp_path / "x")
  assert not (tmp_path / "x").exists()


def test_the_second_one_to_create_is_told(remote):
  if remote.address.startswith("gs:"):
    pytest.skip("the emulator creates what is there; Cloud Storage refuses")
  assert remote.create("x", b"first")
  assert not remote.create("x", b"second")
  assert remote.read("x") == b"first"


def test_a_write_that_fails_leaves_the_old_file(tmp_path, monkeypatch):
  remote = Remote(f"file://{tmp_path}/bucket")
  remote.write("x", b"old")

  def fail(path, value, **kwargs):
    pathlib.Path(path).write_bytes(value[:1])
    raise OSError(5, "the line is cut")

  monkeypatch.setattr(remote._files, "pipe_file", fail)
  with pytest.raises(UserError, match="bucket: wanted .* the line is cut"):
    remote.write("x", b"new")
  assert remote.read("x") == b"old"


@pytest.mark.parametrize(
  ("address", "words"),
  [("what://b/run", "what"), ("file:///proc/none/run", "No such file")],
)
def test_an_address_that_cannot_be_used_is_one_line(address, words):
  with pytest.raises(UserError, match=words) as error:
    Remote(address).write("x", b"")
  assert address in str(error.value) and "\n" not in str(error.value)


def test_a_path_is_no_address(tmp_path):
  assert is_remote("gs://b/run")
  assert not is_remote("gs:/b") and not is_remote(tmp_path)
