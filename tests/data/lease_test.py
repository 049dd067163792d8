"""One holder at an address, and who takes over from one that is gone."""

import json
import time

import pytest

from cmtree_jax.data import lease
from cmtree_jax.data.lease import Lease
from cmtree_jax.data.remote import Remote
from cmtree_jax.types import UserError


@pytest.fixture
def remote(tmp_path, monkeypatch) -> Remote:
  """An address, and patience of a moment."""
  monkeypatch.setattr(lease, "BEAT_SECONDS", 0.05)
  monkeypatch.setattr(lease, "DEAD_SECONDS", 0.8)
  return Remote(f"file://{tmp_path}/run")


def _holder(remote: Remote, token: str, *dead: str) -> Lease:
  return Lease(remote, token, lambda one: one in dead)


@pytest.mark.parametrize("refuses", [True, False])
def test_a_holder_that_lives_keeps_others_out(
  refuses, remote, capsys, monkeypatch
):
  if not refuses:  # a storage that creates what is there

    def create(name: str, content: bytes) -> bool:
      remote.write(name, content)
      return True

    monkeypatch.setattr(remote, "create", create)
  first = _holder(remote, "first")
  first.take()
  with pytest.raises(
    UserError, match="Another job is running in file:"
  ) as told:
    _holder(remote, "second").take()
  assert "process " in str(told.value) and lease.FILE in str(told.value)
  assert "Waiting up to" in capsys.readouterr().err
  first.check()
  first.release()
  assert not remote.has(lease.FILE)
  second = _holder(remote, "second")
  second.take()
  second.release()


def test_a_holder_without_a_sign_of_life_is_followed(remote):
  remote.write(lease.FILE, json.dumps({"token": "gone", "host": "h"}).encode())
  begin = time.monotonic()
  second = _holder(remote, "second")
  second.take()
  assert time.monotonic() - begin > 0.5
  second.check()
  second.release()


@pytest.mark.parametrize("content", [b'{"token": "gone"}', b"", b"[]", b"\xff"])
def test_a_holder_that_has_ended_here_is_followed_at_once(
  remote, content, monkeypatch
):
  monkeypatch.setattr(lease, "DEAD_SECONDS", 1e9)
  remote.write(lease.FILE, content)
  second = _holder(remote, "second", "gone")
  second.take()
  second.release()


def test_a_holder_that_slept_is_told_and_takes_nothing_back(remote):
  first = _holder(remote, "first")
  first.take()
  remote.write(
    lease.FILE, json.dumps({"token": "second", "host": "h"}).encode()
  )
  time.sleep(0.2)
  with pytest.raises(UserError, match="on h since .* Run the same command"):
    first.check()
  first.release()
  assert json.loads(remote.read(lease.FILE) or b"")["token"] == "second"
