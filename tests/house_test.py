"""The table of the house, on a made-up package whose counts are plain."""

import pathlib

import pytest

from experiments import house

_LONG = "\n".join(["def long(a, *rest, b):", *["  a += 1"] * 60])
_DOCUMENTED = "\n".join(
  ["  async def told(self, a, /):", '    """Told.', *[""] * 59, '    """']
)
_FILES = {
  "cmtree_jax/__init__.py": '"""A package."""\n',
  "cmtree_jax/main.py": (
    "from cmtree_jax import types\n"
    "def run():\n"
    "  from cmtree_jax.tree.model import Theta, grow\n"
    "  import numpy\n"
  ),
  "cmtree_jax/types.py": "class Error(Exception): ...\n",
  "cmtree_jax/tree/__init__.py": "import cmtree_jax.tree.model\n",
  "cmtree_jax/tree/model.py": (
    f"from cmtree_jax import types\nclass Theta:\n{_DOCUMENTED}\n{_LONG}\n"
  ),
  "tests/model_test.py": "\n" * 501,
  "configs/default.py": "\n" * 500,
  "README.md": "one\ntwo\nthree\n",
}


@pytest.fixture
def checkout(tmp_path) -> pathlib.Path:
  for name, text in _FILES.items():
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
  return tmp_path


def test_a_checkout_is_counted(checkout):
  found = house.survey(checkout)
  assert found.top_modules == ["main", "types"]
  assert {n: len(files) for n, files in found.lines.items()} == {
    "cmtree_jax": 5,
    "tests": 1,
    "configs": 1,
    "experiments": 0,
  }
  assert found.lines["cmtree_jax"]["cmtree_jax/main.py"] == 4
  assert found.readme_lines == 3
  assert found.functions == [
    ("cmtree_jax/main.py:run", 3, 3, 0),
    ("cmtree_jax/tree/model.py:Theta.told", 62, 1, 1),
    ("cmtree_jax/tree/model.py:long", 61, 61, 3),
  ]
  main, types, tree, model = (
    f"cmtree_jax.{name}" for name in ("main", "types", "tree", "tree.model")
  )
  assert found.file_arrows == {
    (main, types),
    (main, model),
    (tree, model),
    (model, types),
  }
  assert found.room_arrows == {(main, types), (main, tree), (tree, types)}
  assert house.long_files(found) == [(501, "tests/model_test.py")]


def test_two_checkouts_stand_side_by_side(checkout, tmp_path, capsys):
  after = tmp_path / "after"
  (after / "cmtree_jax").mkdir(parents=True)
  assert house.main([str(checkout), str(after)]) == 0
  told = capsys.readouterr().out
  for row in (
    "| what | before | after |",
    "| modules at the top of the package | 2 | 0 |",
    "| files in cmtree_jax/ | 5 | 0 |",
    "| lines in tests/ | 501 | 0 |",
    "| functions above 60 lines | 2 | 0 |",
    "| the same, docstrings not counted | 1 | 0 |",
    "| longest argument list | 3 (`cmtree_jax/tree/model.py:long`) | 0 |",
    "| import arrows between files | 4 | 0 |",
    "| import arrows between rooms | 3 | 0 |",
    "| files above 500 lines | 1 | 0 |",
    "| lines of the README | 3 | 0 |",
  ):
    assert row in told
  assert "lines, before:\n    62  cmtree_jax/tree/model.py:Theta.told" in told


def test_a_folder_without_the_package_is_refused(tmp_path, capsys):
  assert house.main([str(tmp_path)]) == 2
  assert "holds no folder cmtree_jax" in capsys.readouterr().err
