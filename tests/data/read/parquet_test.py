"""What Parquet files become, and what is told of rows that hold no document."""

import pathlib
import subprocess
import sys
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cmtree_jax.data.read import files, parquet
from cmtree_jax.data.read.fields import Rules
from cmtree_jax.types import LostLabel, Record, Skip

RULES = Rules("text", "id", "source", 1_000)


def file(
  folder: pathlib.Path, columns: dict[str, Any], **options: Any
) -> pathlib.Path:
  path = folder / "a.parquet"
  pq.write_table(pa.table(columns), path, **options)
  return path


def read(path: pathlib.Path, rules: Rules = RULES) -> list[Any]:
  (part,) = parquet.parts(str(path))
  return [
    x._replace(where="") if isinstance(x, Record) else x
    for x in parquet.read(part, rules)
  ]


def test_columns_are_fields_and_others_are_not_read(tmp_path):
  path = file(
    tmp_path,
    {
      "extra": [{"a": 1}, {"a": 2}],
      "lang": ["en", None],
      "text": ["x", "y"],
      "id": [5, None],
      "orig": [None, "o"],
      "source": pa.array(["web", "web"]).dictionary_encode(),
    },
  )
  assert read(path) == [
    Record("5", "x", "5", "web", "", "en"),
    Record("a.parquet:2", "y", "o", "web", "", ""),
  ]


@pytest.mark.parametrize(
  "kind",
  [
    pa.large_string(),
    pa.binary(),
    pa.dictionary(pa.int32(), pa.string()),
    pa.string_view(),
  ],
)
def test_every_type_that_holds_text(tmp_path, kind):
  text = pa.array(["é", "y"], pa.string()).cast(kind)
  assert [x.text for x in read(file(tmp_path, {"text": text}))] == ["é", "y"]


def test_rows_are_numbered_through_all_row_groups(tmp_path):
  texts = [str(number) for number in range(1, 301)]
  path = file(tmp_path, {"text": texts}, row_group_size=130)
  found = read(path)
  assert [x.text for x in found] == texts
  assert [x.id for x in found] == [f"a.parquet:{text}" for text in texts]


INVALID = pa.Array.from_buffers(
  pa.string(), 1, [None, *pa.array([b"caf\xe9"]).buffers()[1:]]
)
UNUSABLE = {
  "empty": (pa.array([""]), "an empty text", "came ''"),
  "blank": (pa.array([" \n"]), "an empty text", "drop"),
  "null": (
    pa.array([None], pa.string()),
    "no text in the field 'text'",
    "None",
  ),
  "only nulls": (pa.nulls(1), "no text in the field 'text'", "came None"),
  "bytes": (
    pa.array([b"caf\xe9"]),
    "invalid UTF-8",
    "0xe9 at position 3 after 'caf'",
  ),
  "string": (INVALID, "invalid UTF-8", "0xe9 at position 3 after 'caf'"),
  "large": (pa.array(["é" * 501]), "a text over 1,000 bytes", "came 1,002"),
}


@pytest.mark.parametrize("name", UNUSABLE)
def test_unusable_row_is_told_and_the_next_one_read(tmp_path, name):
  bad, kind, fact = UNUSABLE[name]
  column = pa.chunked_array([bad])
  if name != "only nulls":
    good = pa.array(["x"]).cast(bad.type)
    column = pa.chunked_array([good, bad, good])
  path = file(tmp_path, {"text": column})
  found = read(path)
  problem = found[len(found) // 2]
  assert [x.text for x in found if x != problem] == ["x"] * (len(found) - 1)
  assert problem.kind == kind
  assert problem.where == f"{path}, row {len(found) // 2 + 1}"
  assert fact in problem.message


@pytest.mark.parametrize(
  ("columns", "kind", "facts"),
  [
    (
      {"body": ["x"], "key": ["y"]},
      "no text in the field 'text'",
      ["column 'text'", "['body', 'key']", "name the column"],
    ),
    (
      {"text": [1, 2]},
      "no text in the field 'text'",
      ["strings in the column 'text'", "came int64"],
    ),
    (
      {"text": ["x"], "id": [1.5]},
      "no string in the field 'id'",
      ["column 'id'", "came double"],
    ),
  ],
)
def test_columns_that_will_not_do_are_told_once(tmp_path, columns, kind, facts):
  path = file(tmp_path, columns)
  (problem,) = read(path)
  assert problem.kind == kind
  assert problem.documents == len(next(iter(columns.values())))
  assert problem.where == str(path)
  for fact in facts:
    assert fact in problem.message


def test_two_columns_of_one_name_are_told(tmp_path):
  path = tmp_path / "a.parquet"
  columns = [pa.array(["x", "y"])] * 3
  pq.write_table(pa.Table.from_arrays(columns, ["text", "text", "id"]), path)
  (problem,) = read(path)
  assert problem.kind == "two columns 'text'"
  assert (problem.where, problem.documents) == (str(path), 2)
  assert "wanted one column 'text', came 2" in problem.message
  # Twins that nobody reads do no harm.
  pq.write_table(pa.Table.from_arrays(columns, ["x", "x", "text"]), path)
  assert [one.text for one in read(path)] == ["x", "y"]


@pytest.mark.parametrize(
  "values",
  [
    [["eng"], ["nob"]],
    [{"name": "sea"}, None],
    [0.5, 1.5],
    pa.array([1, 2], pa.timestamp("ns")),
    pa.array([2**62, 1], pa.duration("s")),  # beyond Python's
  ],
)
def test_labels_of_another_type_do_not_lose_texts(tmp_path, values):
  found = read(file(tmp_path, {"text": ["x", "y"], "lang": values}))
  texts = [one.text for one in found if isinstance(one, Record)]
  assert texts == ["x", "y"]
  lost = [one for one in found if isinstance(one, LostLabel)]
  assert len(lost) == sum(value is not None for value in values)
  assert {one.kind for one in lost} == {"no string in the field 'lang'"}


@pytest.mark.parametrize("share", [0, 0.5, 0.99])
def test_truncated_file(tmp_path, share):
  path = file(tmp_path, {"text": [str(i) for i in range(1_000)]})
  whole = path.read_bytes()
  path.write_bytes(whole[: int(share * len(whole))])
  (problem,) = read(path)
  assert problem.kind == "a damaged file"
  assert problem.where == str(path)
  assert "copy or make it again" in problem.message
  assert "\n" not in problem.message


def test_damaged_row_group_leaves_the_others(tmp_path):
  texts = [f"{i} {i * i * 7919}" for i in range(3_000)]
  path = file(
    tmp_path,
    {"text": texts},
    row_group_size=1_000,
    use_dictionary=False,
    compression="zstd",
  )
  chunk = pq.ParquetFile(path).metadata.row_group(1).column(0)
  data = bytearray(path.read_bytes())
  at = chunk.data_page_offset + chunk.total_compressed_size // 2
  data[at : at + 200] = bytes(200)
  path.write_bytes(data)
  found = read(path)
  problem = next(x for x in found if isinstance(x, Skip))
  assert problem.kind == "a damaged file"
  assert problem.where == f"{path}, rows 1001 to 2000"
  assert problem.documents == 1_000
  rest = [x.text for x in found if x != problem]
  assert rest == texts[:1_000] + texts[2_000:]
  assert found[-1].id == "a.parquet:3000"


def test_folder_among_files(tmp_path):
  (tmp_path / "a.parquet").mkdir()
  pq.write_table(pa.table({"text": ["x"]}), tmp_path / "b.parquet")
  first, second = parquet.parts(str(tmp_path / "*.parquet"))
  (problem,) = parquet.read(first, RULES)
  (document,) = parquet.read(second, RULES)
  assert isinstance(problem, Skip)
  assert isinstance(document, Record)
  assert document.text == "x"
  assert problem.kind == "an unreadable file"
  assert "Is a directory" in problem.message


def test_rows_that_a_group_lost_are_counted(tmp_path, monkeypatch):
  """A flipped bit can end a group early without an error."""
  path = file(tmp_path, {"text": list("abcdefgh")}, row_group_size=4)
  batches = pq.ParquetFile.iter_batches

  def cut(self, *args, row_groups, **options):
    for batch in batches(self, *args, row_groups=row_groups, **options):
      yield batch.slice(0, 3) if row_groups == [0] else batch

  monkeypatch.setattr(pq.ParquetFile, "iter_batches", cut)
  found = read(path)
  assert [x.text for x in found if isinstance(x, Record)] == list("abcefgh")
  (problem,) = (x for x in found if isinstance(x, Skip))
  assert (problem.kind, problem.documents) == ("a damaged file", 1)
  assert problem.where == f"{path}, rows 4 to 4"
  assert "fewer rows than the footer says" in problem.message


_FLIPS = """
import pathlib, random, sys
import pyarrow as pa, pyarrow.parquet as pq
from cmtree_jax.data.read import parquet
from cmtree_jax.data.read.fields import Rules
from cmtree_jax.types import Record

path = pathlib.Path(sys.argv[1])
columns = {"text": [f"{i} of {i * 7919}" for i in range(40)], "id": range(40)}
pq.write_table(pa.table(columns), path, row_group_size=10)
before, rng = path.read_bytes(), random.Random(0)
(part,), rules = parquet.parts(str(path)), Rules("text", "id", "source", 1_000)
whole = lost = 0
for number in range(int(sys.argv[2])):
  data = bytearray(before)
  data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
  path.write_bytes(data)
  print(number, flush=True)
  texts = documents = 0
  for one in parquet.read(part, rules):
    if isinstance(one, Record):
      texts += 1
    elif hasattr(one, "documents"):
      documents += one.documents
      assert "\\n" not in one.message
  assert texts + documents >= 40 or not texts, (number, texts, documents)
  whole += texts == 40
  lost += documents > 0
print(whole, lost)
"""


def test_whatever_bit_is_flipped_no_row_is_lost_uncounted(tmp_path):
  """In a process of its own, for Arrow's readers can end it."""
  done = subprocess.run(
    [sys.executable, "-c", _FLIPS, str(tmp_path / "a.parquet"), "300"],
    capture_output=True,
    text=True,
  )
  assert done.returncode == 0, done.stdout[-9:] + done.stderr[-500:]
  whole, lost = map(int, done.stdout.split()[-2:])
  assert whole > 50 and lost > 100


def test_a_bomb_is_known_by_what_comes_out(tmp_path):
  """A dictionary holds once what every row repeats."""
  text = pa.array(["x" * 900_000]).dictionary_encode()
  count = 2 * files.BOMB_BYTES // 900_000
  repeated = pa.DictionaryArray.from_arrays(
    pa.array([0] * count, pa.int32()), text.dictionary
  )
  path = file(tmp_path, {"text": repeated}, compression="zstd")
  assert path.stat().st_size < 2_000
  found = list(read(path, RULES._replace(max_document_bytes=1_000_000)))
  assert found[-1].kind == "a decompression bomb"
  taken = len(found) - 1
  assert 0 < taken <= files.BOMB_BYTES // 900_000
  assert found[-1].documents == count - taken


def test_a_page_that_would_fill_memory_is_not_opened(tmp_path):
  path = file(tmp_path, {"text": ["x" * 80_000_000]}, compression="zstd")
  (problem,) = read(path)
  assert problem.kind == "a decompression bomb"


def test_a_text_beyond_the_limit_is_never_made(tmp_path, monkeypatch):
  path = file(tmp_path, {"text": ["x" * 1_001, "y" * 1_000]})
  monkeypatch.setattr(
    "cmtree_jax.data.read.fields.decode", lambda data: pytest.fail("made")
  )
  problem, record = read(path)
  assert problem.kind == "a text over 1,000 bytes"
  assert "came 1,001" in problem.message and record.text == "y" * 1_000


def test_decompression_bomb_is_not_opened(tmp_path):
  text = "x" * (1 << 24)
  count = (files.BOMB_BYTES >> 24) + 1
  path = tmp_path / "a.parquet"
  schema = pa.schema({"text": pa.string()})
  options = {"use_dictionary": False, "compression": "zstd"}
  with pq.ParquetWriter(path, schema, **options) as writer:
    batch = pa.record_batch({"text": [text] * count})
    writer.write_batch(batch)
  assert path.stat().st_size < 1_000_000
  (problem,) = read(path)
  assert problem.kind == "a decompression bomb"
  assert problem.where == f"{path}, rows 1 to {count}"
