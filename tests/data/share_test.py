"""A cache at an address: what one host made, another fetches and checks."""

import pathlib

import pytest

from cmtree_jax.data import cache, share
from cmtree_jax.data.remote import Remote
from cmtree_jax.types import UserError


@pytest.fixture
def host(tmp_path, monkeypatch):
  """Makes an entry of the cache as a host of that name; returns its folder."""
  monkeypatch.setattr(share._Open, "caches", {})

  def make(name: str, text: str = "made") -> pathlib.Path:
    monkeypatch.setenv("CMTREE_CACHE", str(tmp_path / name))
    share._Open.caches.clear()

    def build(place: pathlib.Path) -> None:
      (place / "deep").mkdir()
      (place / "deep" / "a").write_text(text)
      (place / "z").write_text(text)

    folder = share.attach(f"file://{tmp_path}/bucket") / "prepared" / "key"
    return cache.build_once(folder, build)

  return make


def test_another_host_fetches_what_is_there(host, tmp_path):
  first, second = host("first"), host("second", "other")
  assert first != second and first.name == second.name
  for name in ("deep/a", "z", cache.SEAL_FILE):
    assert (first / name).read_bytes() == (second / name).read_bytes()
  assert (second / "z").read_text() == "made"
  assert host("first", "other").joinpath("z").read_text() == "made"


def test_what_is_here_goes_up_where_it_is_missing(host, tmp_path):
  host("first")
  remote = Remote(f"file://{tmp_path}/bucket")
  names = remote.names()
  assert names == [
    f"prepared/key/{x}" for x in ("deep/a", cache.SEAL_FILE, "z")
  ]
  for name in names:
    remote.remove(name)
  host("first")
  assert remote.names() == names


def test_a_folder_counts_with_the_list_of_its_files(
  host, tmp_path, monkeypatch
):
  own = Remote.put

  def put(self, path, name):
    if path.name == "z":
      raise UserError("no network")
    own(self, path, name)

  with monkeypatch.context() as patched:
    patched.setattr(Remote, "put", put)
    with pytest.raises(UserError, match="no network"):
      host("first")
  assert host("second", "other").joinpath("z").read_text() == "other"
  assert host("third").joinpath("z").read_text() == "other"


@pytest.mark.parametrize("damage", ["others", "gone"])
def test_damage_at_the_address_is_refused(host, tmp_path, damage):
  host("first")
  remote = Remote(f"file://{tmp_path}/bucket")
  if damage == "gone":
    remote.remove("prepared/key/deep/a")
  else:
    remote.write("prepared/key/deep/a", b"Made")
  with pytest.raises(UserError, match="deep/a: wanted") as error:
    host("second")
  told = str(error.value)
  assert "bucket/prepared/key/deep/a" in told
  assert told.endswith("bucket/prepared/key, and it is made again.")
  assert "second" not in told
  assert host("first").joinpath("z").read_text() == "made"


def test_a_cache_that_cannot_be_reached_is_refused_first(tmp_path):
  with pytest.raises(UserError, match="what://b: wanted an address"):
    share.attach("what://b")
  assert share.attach(str(tmp_path)) == tmp_path
  assert share.attach("~/x") == pathlib.Path.home() / "x"
