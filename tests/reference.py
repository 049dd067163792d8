"""Where published measurements lie that the tests compare with."""

import os
import pathlib

import pytest

_DEFAULT = pathlib.Path(__file__).parents[2] / "shared" / "reference"


def folder(*parts: str) -> pathlib.Path:
  """A folder of the published data; the test is skipped where it is absent."""
  root = pathlib.Path(os.environ.get("CMTREE_REFERENCE", _DEFAULT))
  found = root.joinpath(*parts)
  if not found.exists():
    pytest.skip(f"{found} is absent; set CMTREE_REFERENCE to the folder.")
  return found
