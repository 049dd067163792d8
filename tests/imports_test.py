"""Which part of the package may know of which; read from the sources."""

import ast
import pathlib
import subprocess
import sys
from collections.abc import Iterator

import pytest

ROOT = pathlib.Path(__file__).parents[1]
SOURCES = sorted((ROOT / "cmtree_jax").rglob("*.py"))

# The rooms of the package, bottom first: a room imports from those before it.
ROOMS = (
  *(
    "types",
    "checks",
    "budget",
    "shapes",
    "processes",
    "sharding",
    "bilevel",
    "tree",
    "embed",
    "data",
  ),
  *(
    "proxy",
    "selection",
    "methods",
    "evaluate",
    "signals",
    "loops",
    "recipe",
    "report",
  ),
  *("config", "jobs", "main", "compare", "sweep", "ask", "verify"),
)
# Arrows that run back up, and why.
UPWARD = {
  # An encoder's parameters come from a pinned wheel, which data/ knows to fetch.
  ("embed", "cmtree_jax.data.corpora.wheels"),
  # A notebook shows a recipe as the report does.
  ("recipe", "cmtree_jax.report.html.notebook"),
}

HEAVY = (
  "jax",
  "flax",
  "orbax",
  "pyarrow",
  "sentencepiece",
  "sklearn",
  "tensorflow",
)


def imported(source: str) -> Iterator[str]:
  """Full names of what is imported, also inside functions."""
  for node in ast.walk(ast.parse(source)):
    if isinstance(node, ast.Import):
      yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
      assert node.level == 0, f"line {node.lineno}: write the import in full"
      yield from (f"{node.module}.{alias.name}" for alias in node.names)


def room(name: str) -> str:
  """The folder or module right under the package: `tree` of a.tree.model."""
  return [*name.split("."), ""][1]


def is_allowed(importer: str, name: str) -> bool:
  """Whether a room may import a name of the package."""
  if room(name) not in ROOMS:  # the package itself
    return True
  return ROOMS.index(room(name)) <= ROOMS.index(importer) or any(
    importer == who and f"{name}.".startswith(f"{what}.")
    for who, what in UPWARD
  )


def breaches(importer: str, source: str) -> list[str]:
  """The imports in a source of room `importer` that the rules forbid."""
  return [
    name
    for name in imported(source)
    if name.split(".")[0] == "cmtree_jax" and not is_allowed(importer, name)
  ]


@pytest.mark.parametrize(
  "path", SOURCES, ids=lambda path: str(path.relative_to(ROOT))
)
def test_arrows_between_rooms_go_down(path):
  importer = path.relative_to(ROOT / "cmtree_jax").parts[0].removesuffix(".py")
  assert breaches(importer, path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
  ("importer", "line", "breach"),
  [
    ("tree", "from cmtree_jax.embed import kmeans", True),
    ("tree", "def f():\n  import cmtree_jax.proxy.model", True),
    ("tree", "from cmtree_jax import data, shapes", True),
    ("tree", "from cmtree_jax.tree import model", False),
    ("embed", "from cmtree_jax.data.corpora import wheels", False),
    ("embed", "from cmtree_jax.data.corpora.wheels import Pin", False),
    ("embed", "from cmtree_jax.data.corpora import wheel_readers", True),
    ("bilevel", "from cmtree_jax.jobs.learn import run", True),
    ("methods", "from cmtree_jax.tree.model import Theta", False),
    ("methods", "from cmtree_jax.loops import values", True),
  ],
)
def test_the_rules_find_a_breach(importer, line, breach):
  assert bool(breaches(importer, line)) == breach


@pytest.mark.parametrize(
  "module", ["cmtree_jax.main", "cmtree_jax.report.__main__"]
)
def test_command_line_starts_without_heavy_imports(module):
  """So that a misspelt flag is told at once, and jax is set up by `run`."""
  code = (
    f"import sys, {module}; "
    f"print([name for name in {HEAVY} if name in sys.modules])"
  )
  done = subprocess.run(
    [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True
  )
  assert done.returncode == 0, done.stderr
  assert done.stdout.strip() == "[]"
