"""A file that was changed on its way is told, whatever was changed."""

import json
import math
import random

import pytest

from cmtree_jax.data import sealed
from cmtree_jax.types import UserError

DATA = {"format": 3, "w": [0.1, 1e-300, -5.0], "text": "é\n", "n": {7: (1, 2)}}


@pytest.fixture
def path(tmp_path):
  for name in ("a.bin", "b.bin"):
    (tmp_path / name).write_bytes(b"bytes of " + name.encode())
  path = tmp_path / "told.json"
  beside = [tmp_path / "a.bin", tmp_path / "b.bin"]
  sealed.write(path, DATA, beside=beside)
  return path


def _read(path):
  told = sealed.read(path, cure="Copy it again.")
  sealed.require(path, told, cure="Copy it again.")
  return told


def test_what_was_written_is_read(path):
  told = _read(path)
  assert set(told.pop(sealed.FILES)) == {"a.bin", "b.bin"}
  assert told == json.loads(json.dumps(DATA))


def test_no_byte_can_change_unseen(path):
  """Or else the values are those that were written: in a blank, for example."""
  before, told = path.read_bytes(), _read(path)
  rng = random.Random(0)
  refused = 0
  for _ in range(400):
    data = bytearray(before)
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    path.write_bytes(data)
    try:
      found = _read(path)
    except UserError as error:
      refused += 1
      assert str(path) in str(error) and "\n" not in str(error)
    else:
      # Without a name for the digest it is a file of a version that had none.
      assert told.items() <= found.items()
  assert refused > 300


@pytest.mark.parametrize("content", [b"", b"[1]", b"\xff\xfe\x00", b"[" * 9**5])
def test_what_is_no_such_file_is_refused(path, content):
  path.write_bytes(content)
  with pytest.raises(UserError, match=r"told\.json: wanted the JSON"):
    _read(path)
  path.unlink()
  with pytest.raises(UserError, match=r"told\.json: wanted the JSON"):
    _read(path)


@pytest.mark.parametrize("number", ["NaN", "-Infinity", "1e999"])
def test_a_number_that_is_not_finite_is_refused_without_a_digest_too(
  path, number
):
  path.write_text(f'{{"w": {number}, "digest": null}}')
  with pytest.raises(UserError, match="wanted the JSON"):
    _read(path)
  with pytest.raises(ValueError, match="not JSON compliant"):
    sealed.write(path, {"w": math.nan})


def test_a_neighbor_that_changed_is_named(path):
  (path.parent / "b.bin").write_bytes(b"bytes of c.bin")
  with pytest.raises(
    UserError, match=r"b\.bin: wanted the bytes.*others\. Copy"
  ):
    _read(path)
  (path.parent / "b.bin").unlink()
  with pytest.raises(UserError, match=r"b\.bin: wanted a file, came none"):
    _read(path)
  sealed.require(path, sealed.read(path, cure=""), "a.bin", cure="")
