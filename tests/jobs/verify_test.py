"""A cache is checked whole by a command."""

import pathlib

from cmtree_jax import verify
from cmtree_jax.data import cache


def _write(place: pathlib.Path) -> None:
  (place / "large").write_text("a" * 200)


def test_a_command_hashes_every_byte(tmp_path, monkeypatch, capsys):
  monkeypatch.setattr(cache, "HASHED_BYTES", 100)
  cache.build_once(tmp_path / "kind" / "a", _write)
  folder = cache.build_once(tmp_path / "kind" / "b", _write)
  (tmp_path / "kind" / ".c-0").mkdir()
  (tmp_path / "kind" / ".c-0" / cache.SEAL_FILE).write_text("half made")
  assert verify.main([str(tmp_path)]) == 0
  (folder / "large").write_text("b" * 200)
  cache.check(folder)  # looks at the size alone
  assert verify.main([str(tmp_path)]) == 1
  first, second, third = capsys.readouterr().out.splitlines()
  assert first == "2 of 2 folders are whole."
  assert second.startswith(f"{folder}/large: wanted the bytes that were")
  assert third == "1 of 2 folders are whole."
  assert verify.main([str(tmp_path / "none")]) == 2
  assert "came a folder without one" in capsys.readouterr().err
