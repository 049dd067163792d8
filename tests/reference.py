"""Where published measurements lie; tests that read them skip where they do not."""

import os
import pathlib

import pytest

_ROOT = pathlib.Path(
  os.environ.get(
    "CMTREE_REFERENCE",
    pathlib.Path(__file__).parents[2] / "shared" / "reference",
  )
)


def folder(*parts: str) -> pathlib.Path:
  """A folder of reference data; skips the test where it is not there."""
  path = _ROOT.joinpath(*parts)
  if not path.is_dir():
    pytest.skip(f"No reference data at {path}; set CMTREE_REFERENCE.")
  return path
