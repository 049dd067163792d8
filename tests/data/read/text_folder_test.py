"""Folders of text files: one document each, named by its path."""

import gzip
import pathlib
from typing import Any

import pytest

from cmtree_jax.data.read import files, text_folder
from cmtree_jax.data.read.fields import Part, Rules
from cmtree_jax.types import Record, UserError

RULES = Rules("text", "id", "source", 1_000)


@pytest.fixture
def folder(tmp_path: pathlib.Path) -> pathlib.Path:
  """Three files in three folders, and one that no *.txt matches."""
  for name in ("top.txt", "a/x.txt", "a/deep/y.txt", "a/z.md"):
    path = tmp_path / "corpus" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"text of {name}")
  return tmp_path / "corpus"


def read(pattern: object, rules: Rules = RULES) -> list[Any]:
  return [
    found._replace(where="") if isinstance(found, Record) else found
    for part in text_folder.parts(str(pattern))
    for found in text_folder.read(part, rules)
  ]


def document(name: str, source: str) -> Record:
  return Record(name, f"text of {name}", name, source, "", "")


def test_documents_are_named_by_path_and_labelled_by_folder(folder):
  assert sorted(read(f"{folder}/**/*.txt")) == [
    document("a/deep/y.txt", "deep"),
    document("a/x.txt", "a"),
    document("top.txt", "corpus"),
  ]


def test_parts_are_folders_and_their_names_patterns_below_the_first(folder):
  parts = text_folder.parts(f"{folder}/**/*.txt")
  assert parts == [
    Part("text", f"{folder}/*.txt", "*.txt"),
    Part("text", f"{folder}/a/*.txt", "a/*.txt"),
    Part("text", f"{folder}/a/deep/*.txt", "a/deep/*.txt"),
  ]


def test_single_file_and_relative_pattern(folder, monkeypatch):
  monkeypatch.chdir(folder)
  assert read("top.txt") == [document("top.txt", "corpus")]
  assert read("*.txt") == [document("top.txt", "corpus")]
  assert read("a/*.txt") == [
    document("x.txt", "a")._replace(text="text of a/x.txt")
  ]


def test_folders_and_files_called_like_patterns(tmp_path):
  (tmp_path / "[a]").mkdir()
  (tmp_path / "[a]" / "[b].txt").write_text("x")
  (tmp_path / "[a]" / "b.txt").write_text("y")
  found = read(f"{tmp_path}/*/*.txt")
  assert [(x.id, x.text) for x in found] == [
    ("[a]/[b].txt", "x"),
    ("[a]/b.txt", "y"),
  ]
  assert [x.text for x in read(tmp_path / "[a]" / "[b].txt")] == ["x"]


def test_compressed_files_and_byte_order_marks(tmp_path):
  (tmp_path / "a.txt").write_bytes(gzip.compress(b"\xef\xbb\xbfx\r\ny"))
  assert [x.text for x in read(tmp_path / "*")] == ["x\r\ny"]


@pytest.mark.parametrize(
  ("data", "kind", "fact"),
  [
    (b"", "an empty text", "came ''"),
    (b" \n", "an empty text", "drop"),
    (b"caf\xe9", "invalid UTF-8", "0xe9 at position 3"),
    (b"x" * 1_001, "a text over 1,000 bytes", "a larger file"),
    (gzip.compress(b"x" * 10**7), "a text over 1,000 bytes", "a larger file"),
    (
      gzip.compress(b"xyz", mtime=0)[:-6],
      "a truncated file",
      "copy or make it again",
    ),
  ],
)
def test_unusable_file_is_told_and_the_next_one_read(
  tmp_path, data, kind, fact
):
  (tmp_path / "a.txt").write_bytes(data)
  (tmp_path / "b.txt").write_text("x")
  problem, record = read(tmp_path / "*.txt")
  assert record.text == "x"
  assert problem.kind == kind
  assert problem.where == f"{tmp_path}/a.txt"
  assert fact in problem.message


def test_links_that_loop_are_walked_once(tmp_path):
  for name in ("a/b", "a/.hidden", "out"):
    (tmp_path / name).mkdir(parents=True)
  for name in ("a/x.txt", "a/b/y.txt", "a/.hidden/z.txt", "out/w.txt"):
    (tmp_path / name).write_text(name)
  for where in ("a/up", "a/b/up", "a/b/again"):
    (tmp_path / where).symlink_to(tmp_path / "a")
  (tmp_path / "a/b/out").symlink_to(tmp_path / "out")
  wanted = ["a/b/out/w.txt", "a/b/y.txt", "a/x.txt"]
  for pattern in ("a/**/*.txt", "**/a/**/*.txt", "a/**/**/*.txt"):
    assert files.find(f"{tmp_path}/{pattern}") == [
      f"{tmp_path}/{name}" for name in wanted
    ]
  assert f"{tmp_path}/a/b" in files.find(f"{tmp_path}/a/**")


def test_link_to_nothing_is_told_and_a_folder_is_no_document(tmp_path):
  (tmp_path / "a.txt").symlink_to("absent")
  (tmp_path / "b.txt").mkdir()
  (problem,) = read(tmp_path / "*")
  assert problem.kind == "an unreadable file"
  assert "absent" in problem.message


@pytest.mark.parametrize("pattern", ["corpus", "corpus/", "corpus/**"])
def test_folder_in_place_of_a_pattern(folder, pattern):
  with pytest.raises(UserError, match=r"/\*\*/\*\.txt"):
    text_folder.parts(f"{folder.parent}/{pattern}")


def test_only_folders_match(folder):
  with pytest.raises(UserError, match=r"came 1 folders; go one level deeper"):
    text_folder.parts(f"{folder}/a/d*")


def test_digest_is_of_names_and_bytes(folder):
  def digest():
    (part,) = text_folder.parts(f"{folder}/a/*.txt")
    return text_folder.digest(part)

  first = digest()
  assert digest() == first
  (folder / "a" / "x.txt").write_text("other")
  changed = digest()
  (folder / "a" / "x.txt").rename(folder / "a" / "w.txt")
  assert len({first, changed, digest()}) == 3
