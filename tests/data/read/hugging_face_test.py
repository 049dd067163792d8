"""What `datasets` saved on disk, read as documents."""

import pathlib
from typing import Any

import numpy as np
import pytest

datasets = pytest.importorskip("datasets", reason="datasets is not installed")

from cmtree_jax.data.read import hugging_face, sources  # noqa: E402
from cmtree_jax.data.read.fields import Part, Rules  # noqa: E402
from cmtree_jax.types import Record, UserError  # noqa: E402

RULES = Rules("text", "id", "source", 1_000)
COLUMNS = {
  "text": ["x", " ", None, "y"],
  "id": [1, 2, 3, 4],
  "source": ["web"] * 4,
  "vector": [[0.5]] * 4,
}


@pytest.fixture
def folder(tmp_path: pathlib.Path) -> pathlib.Path:
  saved = datasets.Dataset.from_dict(COLUMNS)
  both = datasets.DatasetDict({"train": saved, "test": saved.select([3])})
  both.save_to_disk(tmp_path / "saved")
  return tmp_path / "saved"


def read(part: Part, rules: Rules = RULES) -> list[Any]:
  return [
    x._replace(where="") if isinstance(x, Record) else x
    for x in sources.read(part, rules)
  ]


def test_splits_are_parts_and_rows_documents(folder):
  parts = sources.parts([f"hf:{folder}"])
  assert parts == [
    Part("hf", f"{folder}/test", "saved/test"),
    Part("hf", f"{folder}/train", "saved/train"),
  ]
  assert read(parts[0]) == [Record("4", "y", "4", "web", "", "")]
  first, blank, null, last = read(parts[1])
  assert (first.text, last.text) == ("x", "y")
  assert blank.kind == "an empty text"
  assert null.kind == "no text in the field 'text'"
  assert null.where == f"{folder}/train, row 3"


def test_split_without_rows(tmp_path):
  for name, columns in (("none", {"text": []}), ("bare", {})):
    datasets.Dataset.from_dict(columns).save_to_disk(tmp_path / name)
    (part,) = sources.parts([f"hf:{tmp_path}/{name}"])
    assert [x for x in read(part) if isinstance(x, Record)] == []


def test_split_alone_and_rows_that_were_reordered(tmp_path):
  saved = datasets.Dataset.from_dict({"text": ["x", "y", "z"]})
  saved.select([2, 0]).save_to_disk(tmp_path / "one")
  (part,) = sources.parts([f"hf:{tmp_path}/one"])
  assert [(x.id, x.text) for x in read(part)] == [
    ("one:1", "z"),
    ("one:2", "x"),
  ]


def test_columns_that_will_not_do_are_told_once(folder):
  part = hugging_face.parts(str(folder))[0]
  (problem,) = read(part, RULES._replace(text_field="body"))
  assert problem.kind == "no text in the field 'body'"
  assert problem.documents == 1
  (problem,) = read(
    hugging_face.parts(str(folder))[1], RULES._replace(text_field="body")
  )
  assert problem.documents == 4
  (problem,) = read(part, RULES._replace(text_field="vector"))
  assert "came list" in problem.message


@pytest.mark.parametrize("size", [0, 100])
def test_truncated_file(folder, size):
  part = hugging_face.parts(str(folder))[1]
  before = sources.digest(part)
  (arrow,) = pathlib.Path(part.path).glob("*.arrow")
  arrow.write_bytes(arrow.read_bytes()[:size])
  (problem,) = read(part)
  assert problem.kind == "a damaged file"
  assert "\n" not in problem.message
  assert sources.digest(part) != before


@pytest.mark.parametrize("change", ["no end", "an early end"])
def test_rows_that_the_reader_does_not_see_are_told(tmp_path, change):
  saved = datasets.Dataset.from_dict({"text": [str(i) for i in range(9)]})
  saved.save_to_disk(tmp_path / "saved")
  (part,) = sources.parts([f"hf:{tmp_path}/saved"])
  assert len(read(part)) == 9
  (arrow,) = (tmp_path / "saved").glob("*.arrow")
  whole = arrow.read_bytes()
  end = whole[-8:]
  other = whole[:-8] if change == "no end" else whole[:-8] + end + whole
  arrow.write_bytes(other)
  *records, problem = read(part)
  assert len(records) == 9
  assert problem.kind == "a damaged file"
  assert f"{arrow} ends at byte" in problem.message


def test_a_filtered_split_is_whole_though_its_info_has_another_number(tmp_path):
  (tmp_path / "a.jsonl").write_text('{"text": "x"}\n{"text": "y"}\n')
  found = datasets.load_dataset(
    "json", data_files=str(tmp_path / "a.jsonl"), split="train",
    cache_dir=str(tmp_path / "cache"),
  )  # fmt: skip
  kept = found.filter(lambda row: row["text"] == "y")
  assert kept.info.splits["train"].num_examples == 2
  kept.save_to_disk(tmp_path / "saved")
  (part,) = sources.parts([f"hf:{tmp_path}/saved"])
  assert [x.text for x in read(part)] == ["y"]


def test_strings_that_are_anywhere_in_memory_are_told(tmp_path):
  """Arrow would read them, and end the process."""
  saved = datasets.Dataset.from_dict({"text": ["ab", "cde", "f"]})
  saved.save_to_disk(tmp_path / "saved")
  (part,) = sources.parts([f"hf:{tmp_path}/saved"])
  (arrow,) = (tmp_path / "saved").glob("*.arrow")
  data = bytearray(arrow.read_bytes())
  ends = np.array([0, 2, 5, 6], np.int32)
  at = data.index(ends.tobytes())
  ends[1] = -(2**30)
  data[at : at + 16] = ends.tobytes()
  arrow.write_bytes(data)
  (problem,) = read(part)
  assert (problem.kind, problem.documents) == ("a damaged file", 3)


def test_file_that_is_gone(folder):
  part = hugging_face.parts(str(folder))[1]
  (arrow,) = pathlib.Path(part.path).glob("*.arrow")
  arrow.unlink()
  (problem,) = read(part)
  assert problem.where == part.path


def test_folder_of_something_else(tmp_path):
  with pytest.raises(UserError, match="without state.json"):
    hugging_face.parts(str(tmp_path))
