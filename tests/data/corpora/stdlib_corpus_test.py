import pytest

from cmtree_jax.data.build import overlap
from cmtree_jax.data.corpora import stdlib_corpus
from cmtree_jax.types import UserError


@pytest.fixture(scope="module")
def corpus():
  return stdlib_corpus.read()


def test_pool_and_targets_are_disjoint(corpus):
  assert len(corpus.documents) > 2000
  assert corpus.labels is not None
  assert len(corpus.labels) == len(corpus.documents)
  assert {"python_modules", "python_topics"} <= set(corpus.targets)
  runs = overlap.target_runs(corpus.targets)
  found = overlap.found([one.text for one in corpus.documents], runs)
  overlap.check(overlap.shares(found, runs), limit=0.008)


def test_two_calls_agree(corpus):
  assert stdlib_corpus.read() == corpus


def _library(root, files: dict[str, bytes]):
  for name, data in files.items():
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
  return stdlib_corpus._Library(root)


def _originals(library) -> dict[str, list[str]]:
  return {
    source.name: sorted(entry.original for entry in source.entries)
    for source in library.sources()
  }


def test_a_library_is_sorted_into_sources(tmp_path):
  topics = b"topics = {'if': 'The if statement', 'for': 'The for' ' statement'}"
  library = _library(
    tmp_path,
    {
      "os.py": b"1",
      "json/tool.py": b"2",
      "json/tests/one_test.py": b"3",
      "test/test_os.py": b"4",
      "site-packages/other/code.py": b"5",
      "notes.txt": b"6",
      "pydoc_data/topics.py": b"# by hand\n" + topics,
    },
  )
  assert _originals(library) == {
    "json": ["json/tool.py"],
    "modules": ["os.py"],
    "tests": ["json/tests/one_test.py", "test/test_os.py"],
    "topics": ["pydoc_data/topics/for", "pydoc_data/topics/if"],
  }


def test_parts_may_be_missing_or_undecodable(tmp_path):
  (tmp_path / "gone.py").symlink_to(tmp_path / "nowhere.py")
  library = _library(tmp_path, {"os.py": b"\xff\xfe", "re.py": b"fine"})
  modules, topics = library.sources()
  texts = {entry.original: entry.text for entry in modules.entries}
  assert texts == {"os.py": "", "re.py": "fine", "gone.py": ""}
  assert list(topics.entries) == []
  assert library.undecodable == {"os.py"}


def test_topics_are_data_and_never_run(tmp_path):
  library = _library(
    tmp_path,
    {
      "os.py": b"1",
      "pydoc_data/topics.py": b"import no_such_module\ntopics = {'a': 'b'}",
    },
  )
  assert _originals(library)["topics"] == ["pydoc_data/topics/a"]


def test_no_library_is_an_error(tmp_path):
  with pytest.raises(UserError, match="standard library should be"):
    stdlib_corpus._Library(tmp_path)


class _Package:
  def __init__(self, files: dict[str, str]):
    self.files = files

  def read_text(self, name: str) -> str | None:
    return self.files.get(name)


def test_packages_give_metadata_readmes_and_licences(tmp_path, monkeypatch):
  metadata = (
    "Name: Tiny\nLicense-File: LICENSE\nLicense-File: ../secret\n\nRead me."
  )
  files = {"METADATA": metadata, "LICENSE": "Do.", "../secret": "No."}
  packages = [_Package(files), _Package({"METADATA": "Name: tiny\n\nHidden."})]
  monkeypatch.setattr(
    stdlib_corpus.importlib.metadata, "distributions", lambda: packages
  )
  library = _library(tmp_path, {"os.py": b"1"})
  texts = {
    source.name: [entry.text for entry in source.entries]
    for source in stdlib_corpus._package_sources(library.read)
  }
  assert texts == {
    "metadata": [metadata.partition("\n\n")[0]],
    "readmes": ["Read me."],
    "licences": ["Do."],
  }
