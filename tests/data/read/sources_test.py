"""Addresses, the parts that they fall into, and what is common to all kinds."""

import gzip
import json
import os
import pathlib
import pickle
import subprocess
import sys
from typing import Any

import pytest

from cmtree_jax.data.read import sources
from cmtree_jax.data.read.sources import Part, Rules
from cmtree_jax.types import Skip, UserError

ROOT = pathlib.Path(__file__).parents[3]
RULES = Rules("text", "id", "source", 1_000)


def read(part: Part) -> list[Any]:
  return list(sources.read(part, RULES))


@pytest.fixture
def folder(tmp_path: pathlib.Path) -> pathlib.Path:
  """Two files of one name, one beside them, and one in Parquet."""
  import pyarrow as pa
  import pyarrow.parquet as pq

  for name in ("a/pool.jsonl", "b/pool.jsonl", "c.jsonl.gz"):
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    data = json.dumps({"text": f"text of {name}"}).encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
  table = pa.table({"text": ["in parquet"]})
  pq.write_table(table, tmp_path / "aa.parquet")
  return tmp_path


def test_several_sources_side_by_side(folder):
  parts = sources.parts(
    [
      f"parquet:{folder}/*.parquet",
      f"jsonl:{folder}/**/*.jsonl*",
      f"jsonl:{folder}/c.jsonl.gz",  # once more
    ]
  )
  assert parts == [
    Part("jsonl", f"{folder}/a/pool.jsonl", "a/pool.jsonl"),
    Part("parquet", f"{folder}/aa.parquet", "aa.parquet"),
    Part("jsonl", f"{folder}/b/pool.jsonl", "b/pool.jsonl"),
    Part("jsonl", f"{folder}/c.jsonl.gz", "c.jsonl.gz"),
  ]
  found = [x for part in parts for x in read(part)]
  assert [(x.id, x.text) for x in found] == [
    ("a/pool.jsonl:1", "text of a/pool.jsonl"),
    ("aa.parquet:1", "in parquet"),
    ("b/pool.jsonl:1", "text of b/pool.jsonl"),
    ("c.jsonl.gz:1", "text of c.jsonl.gz"),
  ]


def test_parts_travel_to_other_processes(folder):
  part = sources.parts([f"jsonl:{folder}/c.*"])[0]
  assert read(pickle.loads(pickle.dumps(part)))


def test_one_file_read_as_two_kinds_has_two_names(folder):
  path = folder / "a" / "pool.jsonl"
  parts = sources.parts([f"text:{path}", f"jsonl:{path}"])
  assert sorted(part.name for part in parts) == [
    f"jsonl:{path}",
    f"text:{path}",
  ]


def test_file_called_like_a_pattern_is_itself(tmp_path):
  (tmp_path / "[a].jsonl").write_text("{}")
  (tmp_path / "a.jsonl").write_text("{}")
  (part,) = sources.parts([f"jsonl:{tmp_path}/[a].jsonl"])
  assert part.name == "[a].jsonl"


@pytest.mark.parametrize("address", ["tape:x", "pool.jsonl", "jsonl:", ""])
def test_unknown_kind(address):
  with pytest.raises(UserError) as caught:
    sources.parts([address])
  assert repr(address) in str(caught.value)
  assert "hf, jsonl, parquet, seqio, text, tfds" in str(caught.value)


@pytest.mark.parametrize("kind", ["jsonl", "parquet", "text"])
def test_pattern_without_a_match(tmp_path, kind):
  with pytest.raises(UserError, match=r"absent/\*\.x.* no file is there"):
    sources.parts([f"{kind}:{tmp_path}/absent/*.x"])


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_folder_alone_is_told_with_the_pattern_that_is_meant(tmp_path, kind):
  with pytest.raises(UserError, match="came a folder") as caught:
    sources.parts([f"{kind}:{tmp_path}"])
  assert f"give {kind}:{tmp_path}/* for the files" in str(caught.value)


@pytest.mark.parametrize("kind", ["jsonl", "parquet", "text", "hf"])
def test_home_folder_is_spelled_out(folder, monkeypatch, kind):
  monkeypatch.setenv("HOME", str(folder))
  (folder / "hf").mkdir()
  (folder / "hf" / "state.json").write_text("{}")
  if kind == "hf":
    pytest.importorskip("datasets")
  address = {"hf": "~/hf"}.get(kind, "~/aa*")
  (part,) = sources.parts([f"{kind}:{address}"])
  assert part.path.startswith(f"{folder}/")


@pytest.mark.parametrize(
  ("address", "package"),
  [
    ("hf:x", "datasets"),
    ("seqio:m#x", "seqio"),
    ("tfds:x", "tensorflow_datasets"),
  ],
)
def test_optional_package_that_is_absent(monkeypatch, address, package):
  monkeypatch.setitem(sys.modules, package, None)
  with pytest.raises(UserError, match=f"wants the package {package}.*pip"):
    sources.parts([address])


def test_file_name_that_is_no_utf8(tmp_path):
  (tmp_path / os.fsdecode(b"caf\xe9.jsonl")).write_text("{}")
  with pytest.raises(UserError, match=r"caf\\xe9.jsonl.*rename the file"):
    sources.parts([f"jsonl:{tmp_path}/*"])


def test_file_name_that_this_python_cannot_read(tmp_path, monkeypatch):
  """UTF-8 it is, but the locale is C and Python obeys it."""
  (tmp_path / os.fsdecode(b"caf\xe9.jsonl")).write_text("{}")
  monkeypatch.setattr(sys, "getfilesystemencoding", lambda: "ascii")
  with pytest.raises(UserError, match="set PYTHONUTF8=1"):
    sources.parts([f"jsonl:{tmp_path}/*"])


def test_digest_is_of_a_files_bytes(folder):
  parts = sources.parts([f"jsonl:{folder}/*/*.jsonl"])
  first, second = map(sources.digest, parts)
  assert len(first) == 32
  assert first != second
  pathlib.Path(parts[1].path).write_bytes(
    pathlib.Path(parts[0].path).read_bytes()
  )
  assert sources.digest(parts[1]) == first


def test_digest_of_what_cannot_be_read(tmp_path):
  path = tmp_path / "a.jsonl"
  path.symlink_to(tmp_path / "absent")
  (part,) = sources.parts([f"jsonl:{tmp_path}/*"])
  before = sources.digest(part)
  (tmp_path / "absent").write_text("")
  assert sources.digest(part) != before


def test_bucket_has_no_two_stars():
  with pytest.raises(UserError, match=r"'\*\*', which buckets do not have"):
    sources.parts(["jsonl:gs://bucket/**/*.jsonl"])


def test_files_in_a_bucket(monkeypatch):
  """Through the library's own route, over a file system in memory."""
  fsspec = pytest.importorskip("fsspec")
  from etils.epath import gpath
  from fsspec.implementations.memory import MemoryFileSystem

  class Bucket(MemoryFileSystem):
    protocol = ("gcs", "gs")
    store: dict = {}  # noqa: RUF012
    pseudo_dirs = [""]  # noqa: RUF012

    @classmethod
    def _strip_protocol(cls, path):
      return super()._strip_protocol(path.removeprefix("gs://"))

    def glob(
      self, path, maxdepth=None, **kwargs
    ):  # as a bucket, without a leading slash
      return [
        x.removeprefix("/") for x in super().glob(path, maxdepth, **kwargs)
      ]

  monkeypatch.setattr(gpath, "_is_tf_installed", lambda: False)
  fsspec.register_implementation("gcs", Bucket, clobber=True)
  bucket = fsspec.filesystem("gcs")
  data = gzip.compress(b'{"text": "x"}\n{"text": ""}\n')
  bucket.pipe("gs://corpus/part/a.jsonl.gz", data)
  bucket.pipe("gs://corpus/part/b.txt", b"y")
  (part,) = sources.parts(["jsonl:gs://corpus/part/*.gz"])
  assert part.path == "gs://corpus/part/a.jsonl.gz"
  record, problem = read(part)
  assert (record.id, record.text) == ("a.jsonl.gz:1", "x")
  assert problem.where == "gs://corpus/part/a.jsonl.gz, line 2"
  before = sources.digest(part)
  (text,) = sources.parts(["text:gs://corpus/part/*.txt"])
  assert [(x.id, x.source) for x in read(text)] == [("b.txt", "part")]
  bucket.pipe("gs://corpus/part/a.jsonl.gz", data[:-9])
  assert read(part)[-1].kind == "a truncated file"
  assert sources.digest(part) != before
  bucket.rm("gs://corpus/part/a.jsonl.gz")
  (gone,) = read(part)
  assert isinstance(gone, Skip)
  assert gone.kind == "an unreadable file"


def test_reading_files_imports_no_tensorflow(folder):
  code = f"""
import sys
from cmtree_jax.data.read import sources
rules = sources.Rules("text", "id", "source", 1_000)
addresses = ["jsonl:{folder}/*/*.jsonl", "parquet:{folder}/*.parquet"]
parts = sources.parts([*addresses, "text:{folder}/a/*"])
assert len([x for part in parts for x in sources.read(part, rules)]) == 4
names = ("tensorflow", "tensorflow_datasets", "seqio", "datasets", "jax")
print([name for name in names if name in sys.modules])
"""
  done = subprocess.run(
    [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True
  )
  assert done.returncode == 0, done.stderr
  assert done.stdout.strip() == "[]"
