"""The experiment on angles and depth, on methods that its config names."""

from experiments import angles_and_depth, claims


def test_trees_that_are_not_compared_are_not_drawn(monkeypatch, tmp_path):
  monkeypatch.setattr(
    claims, "write_differences", lambda found, file, *rest: found.folder / file
  )
  found = claims.Results(None, tmp_path, None, [])
  files = [path.name for path in angles_and_depth.show(found)]
  assert files == ["depth.md", "overlap.md", "growth.md"]
