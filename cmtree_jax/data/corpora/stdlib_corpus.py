"""A corpus without a download: what every Python installation has on disk.

The standard library's sources and manual, and the metadata, descriptions and
licences of the installed packages. It serves where no registry answers, and
quick tests; mostly code, so `default_corpus` is the better one. It differs from
one installation to the next. Nothing is imported for its text.
"""

import ast
import importlib.metadata
import os
import re
import sysconfig
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

from cmtree_jax.data.corpora import assembly
from cmtree_jax.data.corpora.assembly import (
  Entry,
  HeldOut,
  Source,
  in_hash_order,
)
from cmtree_jax.types import RawCorpus, UserError

HELD_OUT = (
  HeldOut("python_modules", "modules", 0.2),
  HeldOut("python_topics", "topics", 1.0),
  HeldOut("package_readmes", "readmes", 0.3),
)

_CAP = 5_000_000  # bytes of a source; only the library's own tests exceed it


def read(*, progress: Callable[[str], None] | None = None) -> RawCorpus:
  """About 10k documents in 6 domains, and the targets of `HELD_OUT`.

  A target for which this installation holds too little is left out, with a
  note; files that are not UTF-8 are left out and counted.

  Args:
    progress: told one line for each source.

  Raises:
    UserError: this Python comes without the sources of its library.
  """
  library = _Library(Path(sysconfig.get_path("stdlib")))
  sources = [*library.sources(), *_package_sources(library.read)]
  corpus = assembly.assemble(sources, HELD_OUT, progress=progress)
  count = len(library.undecodable)
  return corpus._replace(
    notes=(*corpus.notes, f"{count} files left out: not UTF-8.")
  )


class _Library:
  """The files of the standard library, and which of them are not UTF-8."""

  def __init__(self, root: Path):
    self.root = root
    self.undecodable: set[str] = set()
    self._groups: dict[str, list[str]] = defaultdict(list)
    for folder, subfolders, files in os.walk(root):
      # No module: installed packages, build configurations.
      subfolders[:] = filter(str.isidentifier, subfolders)
      for file in files:
        name = Path(folder, file).relative_to(root).as_posix()
        if name.endswith(".py") and not name.startswith("pydoc_data/"):
          self._groups[_group(name)].append(name)
    if not self._groups:
      raise UserError(
        f"No Python source in {root}, where the standard library should be:"
        " install the full standard library, or use the default corpus."
      )

  def sources(self) -> Iterator[Source]:
    for group, names in sorted(self._groups.items()):
      domain = "tests" if group == "tests" else "code"
      yield Source(group, domain, _CAP, self._entries(names))
    topics = self.root / "pydoc_data" / "topics.py"
    yield Source("topics", "manual", 0, self._topics(topics), "en")

  def read(self, name: str, load: Callable[[], bytes | str | None]) -> str:
    """The text that `load` returns, or "" where it is missing or not UTF-8."""
    try:
      data = load() or ""
      return data.decode() if isinstance(data, bytes) else data
    except UnicodeDecodeError:
      self.undecodable.add(name)
    except OSError:
      pass  # a link without its file
    return ""

  def _entries(self, names: list[str]) -> Iterator[Entry]:
    for name in in_hash_order(names):
      yield Entry(name, self.read(name, (self.root / name).read_bytes))

  def _topics(self, path: Path) -> Iterator[Entry]:
    """Chapters of the language reference, from the literals of a module."""
    for statement in ast.parse(self.read(path.name, path.read_bytes)).body:
      if isinstance(statement, ast.Assign):
        topics = ast.literal_eval(statement.value)
        for name in in_hash_order(topics):
          yield Entry(f"pydoc_data/topics/{name}", topics[name])


def _group(name: str) -> str:
  """Source of a library file: its package, "modules" or "tests"."""
  folders = name.split("/")[:-1]
  if set(folders) & {"test", "tests", "idle_test"}:
    return "tests"
  return folders[0] if folders else "modules"


Read = Callable[[str, Callable[[], bytes | str | None]], str]


def _package_sources(read: Read) -> Iterator[Source]:
  packages = {}
  for package in importlib.metadata.distributions():
    metadata = read("METADATA", lambda p=package: p.read_text("METADATA"))
    name = re.search(r"^Name: *(\S+)", metadata, re.M)
    if name:
      # The first one found is the one that is imported.
      packages.setdefault(name[1].lower(), (package, metadata))
  names = in_hash_order(packages)
  for source, entries in (
    ("metadata", (_header(n, packages[n][1]) for n in names)),
    ("readmes", (_description(n, packages[n][1]) for n in names)),
    ("licences", (e for n in names for e in _licences(n, *packages[n], read))),
  ):
    yield Source(source, source, _CAP, entries, "en")


def _header(name: str, metadata: str) -> Entry:
  return Entry(f"{name}/METADATA", metadata.partition("\n\n")[0])


def _description(name: str, metadata: str) -> Entry:
  return Entry(f"{name}/README", metadata.partition("\n\n")[2])


def _licences(
  name: str,
  package: importlib.metadata.Distribution,
  metadata: str,
  read: Read,
) -> Iterator[Entry]:
  header = metadata.partition("\n\n")[0]
  for file in re.findall(r"^License-File: *(.+)$", header, re.M):
    if ".." in file or file.startswith("/"):
      continue  # outside the package's own folder
    # The second is where packages had them before the folder was agreed on.
    for place in (f"licenses/{file}", file):
      original = f"{name}/{place}"
      text = read(original, lambda at=place: package.read_text(at))
      if text:
        yield Entry(original, text)
        break
