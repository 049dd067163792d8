"""TFDS data sets from local files, written and read without TensorFlow."""

import json
import pathlib
import shutil
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

tfds = pytest.importorskip(
  "tensorflow_datasets", reason="tensorflow-datasets is not installed"
)

from cmtree_jax.data.read import sources, tfds_builder, tfds_reader  # noqa: E402
from cmtree_jax.data.read.fields import Part, Rules  # noqa: E402
from cmtree_jax.types import Record, UserError  # noqa: E402

ROOT = pathlib.Path(__file__).parents[3]
RULES = Rules("text", "id", "source", 1_000)
LINES = [
  {"text": "first", "id": "a", "source": "web", "domain": "law", "lang": "en"},
  {"text": ""},
  {"text": "zweiter ü", "orig": "o"},
]


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> pathlib.Path:
  """The folder that a data set of two files lies in."""
  folder = tmp_path_factory.mktemp("made")
  lines = "\n".join(map(json.dumps, LINES))
  (folder / "pool.jsonl").write_text(lines)
  (folder / "b.txt").write_text("third")
  addresses = [f"jsonl:{folder}/*.jsonl", f"text:{folder}/*.txt"]
  path, skipped = tfds_builder.build(
    addresses, RULES, data_dir=folder / "data", name="corpus"
  )
  assert skipped == {"an empty text": 1}
  assert path == folder / "data" / "corpus" / "1.0.0"
  return path


def read(source: object, rules: Rules = RULES) -> list[Any]:
  if not isinstance(source, Part):
    (source,) = sources.parts([f"tfds:{source}"])
  return [
    x._replace(where="") if isinstance(x, Record) else x
    for x in sources.read(source, rules)
  ]


def test_records_come_back_in_the_order_of_the_sources(made):
  folder = made.parents[2].name
  assert read(made) == [
    Record("b.txt", "third", "b.txt", folder, "", ""),
    Record("a", "first", "a", "web", "law", "en"),
    Record("pool.jsonl:3", "zweiter ü", "o", "", "", ""),
  ]


def test_a_folder_may_be_called_like_a_pattern(made, tmp_path):
  folder = tmp_path / "a[1]*"
  shutil.copytree(made.parent, folder / "corpus")
  (tmp_path / "a1b" / "corpus").mkdir(parents=True)  # what the pattern matches
  assert read(folder / "corpus") == read(made)


def test_others_read_it_with_the_library_alone(made):
  source = tfds.builder_from_directory(made).as_data_source("train")
  assert len(source) == 3
  assert source[1]["text"] == b"first"
  assert source[1]["lang"] == b"en"


def test_every_way_to_name_it(made):
  by_folder = sources.parts([f"tfds:{made}"])
  assert [part.name for part in by_folder] == ["corpus:train"]
  data_dir = made.parents[1]
  for address in (
    f"{made}:train",
    made.parent,
    f"corpus@{data_dir}",
    f"corpus:1.0.0@{data_dir}",
    f"corpus:train@{data_dir}",
  ):
    assert sources.parts([f"tfds:{address}"]) == by_folder


def test_highest_version_of_a_folder(made, tmp_path):
  for version in ("1.9.0", "1.10.0"):
    copy = tmp_path / "corpus" / version
    shutil.copytree(made, copy)
    info = copy / "dataset_info.json"
    info.write_text(info.read_text().replace('"1.0.0"', f'"{version}"'))
  (part,) = sources.parts([f"tfds:{tmp_path}/corpus"])
  assert part.path == f"{tmp_path}/corpus/1.10.0:train"
  assert len(read(part)) == 3


def test_part_of_a_split(made):
  assert [x.text for x in read(f"{made}:train[1:2]")] == ["first"]
  assert [x.text for x in read(f"{made}:train[:34%]")] == ["third"]


def test_text_field_is_a_feature(made):
  found = read(made, Rules("domain", "id", "source", 1_000))
  assert found[1].text == "law"
  (problem,) = read(made, Rules("body", "id", "source", 1_000))
  assert problem.kind == "no text in the field 'body'"
  assert "came ['" in problem.message


def test_other_features_and_bytes_that_are_no_text(tmp_path):
  class Mixed(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    VERSION = tfds.core.Version("2.0.0")
    url_infos: dict = {}  # noqa: RUF012  (see tfds_builder)

    def _info(self):
      features = {
        "text": tfds.features.Text(),
        "id": np.int64,
        "score": np.float32,
      }
      return tfds.core.DatasetInfo(
        builder=self,
        features=tfds.features.FeaturesDict(features),
        disable_shuffling=True,
      )

    def _split_generators(self, dl_manager):
      return {"test": self._generate_examples(), "train": iter([(0, ROW)])}

    def _generate_examples(self):
      for number, text in enumerate([b"x", b"caf\xe9", b" "]):
        yield number, {"text": text, "id": number, "score": 0.5}

  ROW = {"text": "y", "id": 9, "score": 0.5}
  builder = Mixed(data_dir=str(tmp_path))
  builder.download_and_prepare(file_format="array_record")
  parts = sources.parts([f"tfds:mixed@{tmp_path}"])
  assert [part.name for part in parts] == ["mixed:test", "mixed:train"]
  record, *problems = read(parts[0])
  assert record == Record("0", "x", "0", "", "", "")
  assert [x.kind for x in problems] == ["invalid UTF-8", "an empty text"]
  assert problems[0].where == f"{parts[0].path}, row 2"


def test_damaged_file(tmp_path, made):
  copy = tmp_path / "corpus" / "1.0.0"
  shutil.copytree(made, copy)
  (shard,) = copy.glob("*.array_record*")
  (part,) = sources.parts([f"tfds:{copy}"])
  before = sources.digest(part)
  whole = shard.read_bytes()
  for size in (0, len(whole) // 2):
    shard.write_bytes(whole[:size])
    *_, problem = read(part)
    assert problem.kind == "a damaged file", problem
    assert "\n" not in problem.message
    assert sources.digest(part) != before
  shard.write_bytes(whole)
  info = copy / "dataset_info.json"
  told = json.loads(info.read_text())
  records = read(part)
  told["splits"][0]["shardLengths"] = [str(len(records) + 3)]
  info.write_text(json.dumps(told))
  *found, problem = read(part)
  assert found == records
  assert (problem.kind, problem.documents) == ("a damaged file", 3)
  shard.unlink()
  (problem,) = read(part)
  assert problem.where.startswith(str(copy))


@pytest.mark.parametrize(
  ("address", "fact"),
  [
    ("{made}:dev", "unknown split 'dev'. Known: train"),
    ("{made}/absent", "came no folder and none called"),
    ("absent_corpus@{made}", "none called 'absent_corpus' in "),
    ("{empty}", "wanted a folder with dataset_info.json"),
  ],
)
def test_address_that_leads_to_nothing(made, tmp_path, address, fact):
  with pytest.raises(UserError) as caught:
    tfds_reader.parts(address.format(made=made, empty=tmp_path))
  assert fact in str(caught.value)
  assert "\n" not in str(caught.value)


def test_format_without_random_access(tmp_path, made):
  copy = tmp_path / "corpus" / "1.0.0"
  shutil.copytree(made, copy)
  info = copy / "dataset_info.json"
  text = info.read_text()
  assert "array_record" in text
  info.write_text(text.replace("array_record", "tfrecord"))
  with pytest.raises(UserError, match="came tfrecord; convert it"):
    tfds_reader.parts(str(copy))


def test_data_set_is_not_overwritten(made):
  folder = made.parents[2]
  with pytest.raises(UserError, match="came one that is there"):
    tfds_builder.build(
      [f"text:{folder}/*.txt"], RULES, data_dir=folder / "data", name="corpus"
    )


@pytest.mark.parametrize("name", ["My-Set", "1", "", "a/b"])
def test_name_that_will_not_do(tmp_path, name):
  with pytest.raises(UserError, match=f"came '{name}'; choose another"):
    tfds_builder.build([], RULES, data_dir=tmp_path, name=name)


def test_nothing_to_write(tmp_path):
  (tmp_path / "a.jsonl").write_text('{"text": " "}\n')
  with pytest.raises(UserError, match=r"came none \(1 an empty text\)"):
    tfds_builder.build(
      [f"jsonl:{tmp_path}/*"], RULES, data_dir=tmp_path / "d", name="corpus"
    )


def test_no_tensorflow_on_the_way(made):
  code = f"""
import sys
from cmtree_jax.data.read import sources
(part,) = sources.parts(["tfds:{made}"])
rules = sources.Rules("text", "id", "source", 1_000)
assert len(list(sources.read(part, rules))) == 3
print("tensorflow" in sys.modules)
"""
  done = subprocess.run(
    [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True
  )
  assert done.returncode == 0, done.stderr
  assert done.stdout.strip() == "False"
