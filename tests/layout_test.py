"""Who may read the config, touch the disk, or take arrays off the mesh.

All of it is read from the syntax trees.
"""

import ast
import pathlib
import re
from collections.abc import Callable, Iterator

import pytest
from ml_collections import ConfigDict

from configs import default

PACKAGE = pathlib.Path(__file__).parents[1] / "cmtree_jax"
SOURCES = {
  path.relative_to(PACKAGE).as_posix(): path.read_text(encoding="utf-8")
  for path in sorted(PACKAGE.rglob("*.py"))
}

# Everyone else is given plans and arrays. `main` and its like only hand the config on.
READ_THE_CONFIG = ("config.py", "main.py", "sweep.py", "ask.py", "jobs/")
TOUCH_THE_DISK = (
  *("config.py", "jobs/", "data/", "recipe/", "report/"),
  "loops/checkpoint.py",
)
# What looks like a breach and is none.
KNOWN = {
  # The config of the job that made a recipe, as recipe.json keeps it.
  ("reads the config", "recipe/recipe.py"),
}

# A parameter that is called like a block of the config, with no type, and whose
# attributes are fields of it: most likely it is the block.
BLOCKS = {
  name: set(block)
  for name, block in default.get_config().items()
  if isinstance(block, ConfigDict)
}
LIBRARIES = {"jax", "tf"}  # theirs is another config

DISK_MODULES = {
  *("fcntl", "glob", "mmap", "orbax", "pickle", "shelve", "shutil", "sqlite3"),
  *("tarfile", "tempfile", "zipfile", "pyarrow.parquet", "etils.epath"),
  *("cmtree_jax.data.cache", "cmtree_jax.data.store"),
}
OF_PATHS = {
  *("chmod", "exists", "glob", "hardlink_to", "is_dir", "is_file", "iterdir"),
  *("mkdir", "open", "read_bytes", "read_text", "rename", "rglob", "rmdir"),
  *("stat", "symlink_to", "tofile", "touch", "unlink", "write_bytes"),
  *("write_text", "open_memmap", "OSFile", "memory_map"),
}
OF_OS = {
  *("link", "listdir", "makedirs", "open", "remove", "removedirs", "rename"),
  *("replace", "scandir", "symlink", "truncate", "walk"),
}
OF_NUMPY = {
  *("fromfile", "genfromtxt", "load", "loadtxt", "memmap", "save", "savetxt"),
  *("savez", "savez_compressed"),
}


def config_reads(source: str) -> list[str]:
  """Where a source reads a field of the config, or may: "line 3: config.seed"."""
  tree = ast.parse(source)
  found = [
    f"line {line}: imports {name}"
    for line, name in imported(tree)
    if name.split(".")[0] == "ml_collections"
  ]
  _Reads(found).visit(tree)
  return found


class _Reads(ast.NodeVisitor):
  """Follows what may be the config through functions."""

  def __init__(self, found: list[str]):
    self._found = found
    # Name -> the fields that tell; None: whatever is read of it.
    self._suspects: dict[str, set[str] | None] = {}
    self._own_config = False  # of a class that says what its `config` is

  def visit_ClassDef(self, node: ast.ClassDef) -> None:
    before = self._own_config
    self._own_config = any(
      isinstance(line, ast.AnnAssign)
      and _text(line.target) == "config"
      and not _may_be_config(line.annotation)
      for line in node.body
    )
    self.generic_visit(node)
    self._own_config = before

  def visit_FunctionDef(self, node: ast.FunctionDef | ast.Lambda) -> None:
    before = dict(self._suspects)
    given = node.args
    for one in (*given.posonlyargs, *given.args, *given.kwonlyargs):
      self._suspects.pop(one.arg, None)
      if not _may_be_config(one.annotation):
        continue
      if one.arg in ("config", "cfg") or "ConfigDict" in _text(one.annotation):
        self._suspects[one.arg] = None
      elif one.arg in BLOCKS:
        self._suspects[one.arg] = BLOCKS[one.arg] | {"to_dict"}
    self.generic_visit(node)
    self._suspects = before

  visit_Lambda = visit_FunctionDef

  def visit_Assign(self, node: ast.Assign) -> None:
    self.generic_visit(node)
    for target in node.targets:
      if isinstance(target, ast.Name):
        self._suspects.pop(target.id, None)
        if self._is_config(node.value):
          self._suspects[target.id] = None

  def visit_Attribute(self, node: ast.Attribute) -> None:
    self.generic_visit(node)
    owner = _name(node.value)
    if node.attr == "config":  # of a job; nobody else is to hand it on
      held = owner == "self" and self._own_config
      told = owner not in LIBRARIES and not held
    else:
      fields = self._suspects.get(owner, set())
      told = fields is None or node.attr in fields
    if told:
      self._tell(node)

  def visit_Subscript(self, node: ast.Subscript) -> None:
    self.generic_visit(node)
    inner = node.value
    of_file = (
      isinstance(inner, ast.Subscript) and _text(inner.slice) == "'config'"
    )
    if self._is_config(inner) or of_file:
      self._tell(node)

  def visit_Call(self, node: ast.Call) -> None:
    self.generic_visit(node)
    unpacked = [one.value for one in node.keywords if one.arg is None]
    if _name(node.func) in ("dict", "getattr", "vars"):
      unpacked += node.args[:1]
    if any(map(self._is_config, unpacked)):
      self._tell(node)

  def _is_config(self, node: ast.expr) -> bool:
    return self._suspects.get(_name(node), set()) is None

  def _tell(self, node: ast.expr) -> None:
    self._found.append(f"line {node.lineno}: {_text(node)}")


def _may_be_config(annotation: ast.expr | None) -> bool:
  text = _text(annotation)
  return text.split(".")[-1] in ("", "Any") or "ConfigDict" in text


def _text(node: ast.expr | None) -> str:
  return ast.unparse(node) if node else ""


def _name(node: ast.expr) -> str:
  return node.id if isinstance(node, ast.Name) else ""


def disk_touches(source: str) -> list[str]:
  """Where a source reads or writes a file, or may: "line 3: path.open"."""
  tree = ast.parse(source)
  found = [
    f"line {line}: imports {name}"
    for line, name in imported(tree)
    if any(f"{name}.".startswith(f"{module}.") for module in DISK_MODULES)
  ]
  for node in ast.walk(tree):
    if not isinstance(node, ast.Call):
      continue
    function = node.func
    if _name(function) == "open" or (
      isinstance(function, ast.Attribute) and _is_of_disk(function)
    ):
      found.append(f"line {node.lineno}: {_text(function)}")
  return found


def _is_of_disk(function: ast.Attribute) -> bool:
  owner = _text(function.value)
  if owner in ("os", "os.path"):
    return function.attr in OF_OS | OF_PATHS
  if owner in ("np", "jnp", "numpy", "jax.numpy"):
    return function.attr in OF_NUMPY
  return function.attr in OF_PATHS


def imported(tree: ast.Module) -> Iterator[tuple[int, str]]:
  """Lines and full names of what is imported, also inside functions."""
  for node in ast.walk(tree):
    if isinstance(node, ast.Import):
      yield from ((node.lineno, alias.name) for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
      for alias in node.names:
        yield node.lineno, f"{node.module}.{alias.name}"


@pytest.mark.parametrize(
  ("breach", "find", "allowed"),
  [
    ("reads the config", config_reads, READ_THE_CONFIG),
    ("touches the disk", disk_touches, TOUCH_THE_DISK),
  ],
)
def test_only_some_rooms_read_the_config_or_touch_the_disk(
  breach: str, find: Callable[[str], list[str]], allowed: tuple[str, ...]
):
  found = {
    path: lines
    for path, source in SOURCES.items()
    if not path.startswith(allowed) and (lines := find(source))
  }
  known = {path for what, path in KNOWN if what == breach}
  assert {k: v for k, v in found.items() if k not in known} == {}
  assert known - set(found) == set(), "gone: take them off the list"


@pytest.mark.parametrize(
  "source",
  [
    "def f(config): return config.seed",
    "def f(config: Any): return config['values']",
    "def f(settings: ConfigDict): return settings.seed",
    "def f(settings: ml_collections.ConfigDict | None): return settings.seed",
    "def f(*, config): return [config.seed for _ in range(3)]",
    "def f(config): return lambda: config.seed",
    "def f(config):\n  chosen = config\n  return chosen.seed",
    "def f(config): return getattr(config, 'seed')",
    "def f(config): return make(**config)",
    "def f(config): return dict(config)",
    "def f(job): return job.config.final.steps",
    "def f(job):\n  config, workdir = job.config, job.workdir\n  return config",
    "def f(job): return job.config['seed']",
    "class A:\n  def f(self): return self.config.seed",
    "class A:\n  config: Any\n  def f(self): return self.config.seed",
    "def f(data): return data.max_documents",
    "def f(tokenizer: Any): return tokenizer.to_dict()",
    "def f(recipe): return recipe['config']['cache_dir']",
    "from ml_collections import ConfigDict",
    "def f():\n  import ml_collections.config_dict",
  ],
)
def test_a_read_of_the_config_is_found(source):
  assert len(config_reads(source)) == 1


@pytest.mark.parametrize(
  "source",
  [
    "def f(config: ProxyConfig): return config.width",
    "def f(config: model.ProxyConfig): return config.width",
    "class A:\n  config: ProxyConfig\n  def f(self): return self.config.width",
    "class A:\n  config: ProxyConfig\n"
    "  def f(self):\n    config = self.config\n    return config.width",
    "def f(config): return g(config)",
    "def f(plan: Plan): return plan.data.max_documents",
    "def f(data: Plan): return data.max_documents",
    "def f(data): return data.pool",
    "def f():\n  config = {'a': 1}\n  return config['a']",
    "def f(): jax.config.update('x', 1)",
    "def f(config):\n  config = {}\n  return config['a']",
  ],
)
def test_what_is_not_the_config_is_left_alone(source):
  assert config_reads(source) == []


@pytest.mark.parametrize(
  "source",
  [
    "def f(path): return open(path)",
    "def f(path): return path.open('wb')",
    "def f(path): path.write_text('')",
    "def f(path): (path / 'a').mkdir(parents=True)",
    "def f(path): return [one for one in path.iterdir()]",
    "def f(path): path.unlink()",
    "def f(path): os.replace(path, path)",
    "def f(path): return os.path.exists(path)",
    "def f(path): return np.load(path)",
    "def f(path): np.savez(path, a=1)",
    "def f(path): return np.lib.format.open_memmap(path)",
    "def f(x): x.tofile('a')",
    "def f(path): return pa.OSFile(path, 'wb')",
    "import shutil",
    "def f():\n  import pyarrow.parquet as pq",
    "from cmtree_jax.data import store",
    "from cmtree_jax.data.store import write_atomically",
    "from etils import epath",
    "import orbax.checkpoint as ocp",
  ],
)
def test_a_touch_of_the_disk_is_found(source):
  assert len(disk_touches(source)) == 1


@pytest.mark.parametrize(
  "source",
  [
    "def f(state): return state.replace(step=1)",
    "def f(text): return text.replace('a', 'b')",
    "def f(): return os.environ.get('HOME')",
    "def f(x): return jnp.round(x)",
    "from cmtree_jax.data.draw import packing",
    "import pyarrow as pa",
  ],
)
def test_what_is_not_the_disk_is_left_alone(source):
  assert disk_touches(source) == []


# What computes on the mesh, and what takes its results for host arrays.
ON_THE_MESH = re.compile(
  r"(engine\.(losses|statistics|hidden|probe|unroll|valued|train|weighted_nats)"
  r"|fleets?\.train|\b_?compiled\w*|\bgo)$"
)
TO_THE_HOST = {"np.asarray", "np.array", "np.stack", "float", "jax.device_get"}


def taken_past_gather(source: str) -> list[str]:
  """Where results of the mesh are read as if no other process had a part of them."""
  found = []
  for function in ast.walk(ast.parse(source)):
    if not isinstance(function, ast.FunctionDef):
      continue
    held: set[str] = set()
    for node in ast.walk(function):
      if isinstance(node, ast.Assign) and _is_on_mesh(node.value, set()):
        names = (ast.walk(one) for one in node.targets)
        held |= {x.id for one in names for x in one if isinstance(x, ast.Name)}
    held -= {
      "fleet",
      "carry",
    }  # what stays on the mesh, with the host's numbers
    found += [
      f"line {node.lineno}: {ast.unparse(node)}"
      for node in ast.walk(function)
      if isinstance(node, ast.Call)
      and ast.unparse(node.func) in TO_THE_HOST
      and any(_is_on_mesh(one, held) for one in node.args)
    ]
  return found


def _is_on_mesh(node: ast.AST, held: set[str]) -> bool:
  """Whether an expression reads the mesh outside of a `gather`."""
  if isinstance(node, ast.Call):
    called = ast.unparse(node.func)
    if called == "sharding.gather":
      return False
    if ON_THE_MESH.search(called):
      return True
  if isinstance(node, ast.Name) and node.id in held:
    return True
  return any(_is_on_mesh(one, held) for one in ast.iter_child_nodes(node))


@pytest.mark.parametrize("room", ["jobs", "loops", "proxy", "signals"])
def test_nothing_is_taken_off_the_mesh_but_by_gather(room):
  found = {
    path: lines
    for path, source in SOURCES.items()
    if path.startswith(f"{room}/") and (lines := taken_past_gather(source))
  }
  assert found == {}


@pytest.mark.parametrize(
  ("line", "is_found"),
  [
    ("x = np.asarray(engine.losses(params, part))", True),
    ("found = one.engine.probe(a); y = [np.array(found.value)]", True),
    ("fleet, loss = fleets.train(fleet); float(loss)", True),
    ("x = sharding.gather(engine.losses(params, part))", False),
    ("x = np.array(fleet.cost)", False),
  ],
)
def test_what_is_taken_past_gather_is_seen(line, is_found):
  source = f"def f(engine, fleet, fleets, one):\n  {line}\n"
  assert bool(taken_past_gather(source)) == is_found
