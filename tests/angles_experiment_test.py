"""The experiment on angles and depth, on methods that its config names."""

from typing import Any

from experiments import angles_and_depth, claims


def test_trees_that_are_not_compared_are_not_drawn(monkeypatch, tmp_path):
  monkeypatch.setattr(
    claims, "write_differences", lambda found, file, *rest: found.folder / file
  )
  nothing: Any = None
  found = claims.Results(nothing, tmp_path, nothing, [])
  files = [path.name for path in angles_and_depth.show(found)]
  assert files == ["depth.md", "overlap.md", "growth.md"]
