"""What the house looks like: files, long functions and imports, read from the sources.

  python -m experiments.house [CHECKOUT [CHECKOUT]]

Prints a Markdown table of this repository, of another checkout, or of two of them
side by side, before and after. Nothing of a checkout is imported or run.
"""

import ast
import sys
from collections.abc import Callable, Container, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

PACKAGE = "cmtree_jax"
FOLDERS = (PACKAGE, "tests", "configs", "experiments")
LONG_FUNCTION, LONG_FILE = 60, 500  # lines above which to split

Arrow = tuple[str, str]  # importer, imported


class Function(NamedTuple):
  """A function or method, and how long it is."""

  name: str  # path:qualified.name
  lines: int  # from `def` to the end, functions inside it included
  code_lines: int  # the same without the docstring
  arguments: int  # without self and cls


class House(NamedTuple):
  """What is counted in one checkout."""

  top_modules: list[str]  # at the top of the package, without __init__.py
  lines: dict[str, dict[str, int]]  # folder -> path -> lines
  functions: list[Function]  # in the package
  file_arrows: set[Arrow]  # between modules of the package
  room_arrows: set[Arrow]  # between its rooms
  readme_lines: int


def survey(checkout: Path) -> House:
  """Counts what is in a checkout; a room is a folder, or a module at the top."""
  files = {name: _sources(checkout / name) for name in FOLDERS}
  package = {path: path.read_text(encoding="utf-8") for path in files[PACKAGE]}
  modules = {_module(checkout, path): path for path in package}
  functions: list[Function] = []
  arrows: set[Arrow] = set()
  for path, text in package.items():
    tree = ast.parse(text)
    functions += _functions(tree, f"{path.relative_to(checkout)}:")
    here = _module(checkout, path)
    arrows |= {(here, name) for name in _imported(tree, modules)} - {
      (here, here)
    }
  rooms = {name: _room(name, path) for name, path in modules.items()}
  between = {(rooms[one], rooms[other]) for one, other in arrows}
  readme = checkout / "README.md"
  return House(
    top_modules=sorted(
      path.stem
      for path in package
      if path.parent == checkout / PACKAGE and path.stem != "__init__"
    ),
    lines={
      name: {str(p.relative_to(checkout)): _lines(p) for p in paths}
      for name, paths in files.items()
    },
    functions=functions,
    file_arrows=arrows,
    room_arrows={(one, other) for one, other in between if one != other},
    readme_lines=_lines(readme) if readme.exists() else 0,
  )


def table(houses: Sequence[House]) -> str:
  """A Markdown table with a column per house, and the names of what is long."""
  heads = ["before", "after"] if len(houses) == 2 else [""] * len(houses)
  rows = [
    ["what", *heads],
    ["---", *["---:"] * len(houses)],
    *([name, *map(count, houses)] for name, count in _ROWS),
  ]
  parts = ["\n".join(f"| {' | '.join(row)} |" for row in rows)]
  for head, house in zip(heads, houses, strict=True):
    parts += [
      f"{title}{f', {head}' if head else ''}:\n"
      + "\n".join(f"  {lines:4}  {name}" for lines, name in found)
      for title, found in (
        (f"Functions above {LONG_FUNCTION} lines", long_functions(house)),
        (f"Files above {LONG_FILE} lines", long_files(house)),
      )
      if found
    ]
  return "\n\n".join(parts)


def long_functions(house: House) -> list[tuple[int, str]]:
  """(lines, name) of the package's long functions, the longest first."""
  return sorted(
    (
      (function.lines, function.name)
      for function in house.functions
      if function.lines > LONG_FUNCTION
    ),
    reverse=True,
  )


def long_files(house: House) -> list[tuple[int, str]]:
  """(lines, path) of long files in all folders, the longest first."""
  return sorted(
    (
      (lines, path)
      for files in house.lines.values()
      for path, lines in files.items()
      if lines > LONG_FILE
    ),
    reverse=True,
  )


def _folder_rows(name: str) -> Iterator[tuple[str, Callable[[House], str]]]:
  yield f"files in {name}/", lambda house: f"{len(house.lines[name]):,}"
  yield (
    f"lines in {name}/",
    lambda house: f"{sum(house.lines[name].values()):,}",
  )


def _long_code(house: House) -> str:
  return str(sum(f.code_lines > LONG_FUNCTION for f in house.functions))


def _longest_arguments(house: House) -> str:
  if not house.functions:
    return "0"
  most = max(house.functions, key=lambda function: function.arguments)
  return f"{most.arguments} (`{most.name}`)"


_ROWS: list[tuple[str, Callable[[House], str]]] = [
  ("modules at the top of the package", lambda h: str(len(h.top_modules))),
  *(row for name in FOLDERS for row in _folder_rows(name)),
  (
    f"functions above {LONG_FUNCTION} lines",
    lambda house: str(len(long_functions(house))),
  ),
  ("the same, docstrings not counted", _long_code),
  ("longest argument list", _longest_arguments),
  ("import arrows between files", lambda h: str(len(h.file_arrows))),
  ("import arrows between rooms", lambda h: str(len(h.room_arrows))),
  (f"files above {LONG_FILE} lines", lambda h: str(len(long_files(h)))),
  ("lines of the README", lambda house: str(house.readme_lines)),
]


def _sources(folder: Path) -> list[Path]:
  return sorted(folder.rglob("*.py"))


def _lines(path: Path) -> int:
  return len(path.read_text(encoding="utf-8").splitlines())


def _module(checkout: Path, path: Path) -> str:
  """`cmtree_jax.tree.model`; a folder's __init__.py has the folder's name."""
  name = ".".join(path.relative_to(checkout).with_suffix("").parts)
  return name.removesuffix(".__init__")


def _room(name: str, path: Path) -> str:
  """A module's folder; what lies at the top of the package is its own room."""
  folder = name if path.stem == "__init__" else name.rpartition(".")[0]
  return name if folder == PACKAGE else folder


def _imported(tree: ast.AST, modules: Container[str]) -> Iterator[str]:
  """The package's modules that a file imports, also inside functions."""
  for node in ast.walk(tree):
    if isinstance(node, ast.Import):
      names = [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom):
      names = [f"{node.module}.{alias.name}" for alias in node.names]
    else:
      continue
    for name in names:
      while name and name not in modules:  # a.tree.model.Theta -> a.tree.model
        name = name.rpartition(".")[0]
      if name:
        yield name


def _functions(node: ast.AST, prefix: str) -> Iterator[Function]:
  """Functions, methods and the functions inside them."""
  for child in ast.iter_child_nodes(node):
    inner = prefix
    if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
      yield _function(child, prefix)
    if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
      inner = f"{prefix}{child.name}."
    yield from _functions(child, inner)


def _function(
  node: ast.FunctionDef | ast.AsyncFunctionDef, prefix: str
) -> Function:
  lines = _span(node)
  documented = ast.get_docstring(node, clean=False) is not None
  arguments = node.args
  names = [
    arg.arg
    for arg in (
      *arguments.posonlyargs,
      *arguments.args,
      arguments.vararg,
      *arguments.kwonlyargs,
      arguments.kwarg,
    )
    if arg is not None
  ]
  return Function(
    name=f"{prefix}{node.name}",
    lines=lines,
    code_lines=lines - (_span(node.body[0]) if documented else 0),
    arguments=len([n for n in names if n not in ("self", "cls")]),
  )


def _span(node: ast.stmt) -> int:
  assert node.end_lineno is not None
  return node.end_lineno - node.lineno + 1


def main(arguments: Sequence[str] | None = None) -> int:
  """Prints the table of one or two checkouts; without arguments, of this one."""
  given = sys.argv[1:] if arguments is None else arguments
  checkouts = [Path(name) for name in given] or [Path(__file__).parents[1]]
  if len(checkouts) > 2:
    print("At most two checkouts: before and after.", file=sys.stderr)
    return 2
  for checkout in checkouts:
    if not (checkout / PACKAGE).is_dir():
      print(f"{checkout} holds no folder {PACKAGE}.", file=sys.stderr)
      return 2
  print(table([survey(checkout) for checkout in checkouts]))
  return 0


if __name__ == "__main__":
  sys.exit(main())
