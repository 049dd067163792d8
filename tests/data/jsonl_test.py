"""What a pool and targets in JSON lines become, and what is said when they can't."""

import gzip
import json
import pathlib
import re
import tracemalloc

import pytest

from cmtree_jax.data import jsonl
from cmtree_jax.types import Document, Label, UserError

TARGET = [
  {"text": "learn", "split": "train"},
  {"text": "tune", "split": "valid"},
  {"text": "report", "split": "test"},
]


def write(path: pathlib.Path, *lines: object) -> pathlib.Path:
  """A file of these lines; bytes and strings as they are, others as JSON."""
  raw = [
    line
    if isinstance(line, bytes)
    else (line if isinstance(line, str) else json.dumps(line)).encode()
    for line in lines
  ]
  data = b"".join(line + b"\n" for line in raw)
  path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
  return path


def refusal(*args, **kwargs) -> str:
  """The message with which `read` stops; one line, whatever was in the file."""
  with pytest.raises(UserError) as caught:
    jsonl.read(*args, **kwargs)
  assert "\n" not in str(caught.value)
  assert len(str(caught.value)) < 500
  return str(caught.value)


def test_reads_documents_sorted_by_id_with_labels_and_targets(tmp_path):
  pool = write(
    tmp_path / "pool.jsonl",
    {"text": "two", "id": "b", "source": "web", "lang": "en", "domain": "news"},
    {"text": "one", "id": "a", "orig": "book.txt"},
    {"text": "three", "id": 7, "original": "log.txt"},
  )
  target = write(tmp_path / "news.jsonl", *TARGET)
  corpus = jsonl.read(pool, [target])
  assert corpus.documents == (
    Document("7", "three", "log.txt"),
    Document("a", "one", "book.txt"),
    Document("b", "two", "b"),
  )
  assert corpus.labels == (
    Label("", "", ""),
    Label("", "", ""),
    Label("web", "news", "en"),
  )
  news = corpus.targets["news"]
  assert news == ("news", ("learn",), ("tune",), ("report",))
  assert corpus.notes == ()


def test_absent_ids_are_file_and_line_and_absent_labels_are_none(tmp_path):
  pool = write(tmp_path / "pool.jsonl", {"text": "x"}, " ", {"text": "y"})
  corpus = jsonl.read(pool, [])
  assert [d.id for d in corpus.documents] == ["pool.jsonl:1", "pool.jsonl:3"]
  assert corpus.documents[0].original == "pool.jsonl:1"
  assert corpus.labels is None
  assert corpus.notes == ()


def test_fields_can_have_other_names(tmp_path):
  pool = write(
    tmp_path / "p.jsonl", {"content": "x", "key": "k", "meta": "web", "id": "i"}
  )
  target = write(
    tmp_path / "t.jsonl",
    *({"content": x["text"], "split": x["split"]} for x in TARGET),
  )
  corpus = jsonl.read(
    pool,
    [target],
    text_field="content",
    id_field="key",
    source_field="meta",
  )
  assert corpus.documents == (Document("k", "x", "k"),)
  assert corpus.labels == (Label("web", "", ""),)
  assert corpus.targets["t"].test == ("report",)


@pytest.mark.parametrize(
  "name", ["t.jsonl", "t.jsonl.gz", "t.ndjson", "t.json"]
)
def test_gzip_is_read_like_plain_and_extensions_are_no_part_of_a_name(
  tmp_path, name
):
  target = write(tmp_path / name, *TARGET)
  pool = write(tmp_path / f"pool_{name}", {"text": "x", "id": "a"})
  corpus = jsonl.read(pool, [target])
  assert list(corpus.targets) == ["t"]
  assert corpus.documents == (Document("a", "x", "a"),)


def test_gzip_is_known_by_its_content(tmp_path):
  pool = tmp_path / "pool.jsonl"
  pool.write_bytes(gzip.compress(b'{"text": "x"}'))
  assert jsonl.read(pool, []).documents[0].text == "x"


def test_byte_order_mark_and_missing_last_newline_are_no_fault(tmp_path):
  pool = tmp_path / "pool.jsonl"
  pool.write_bytes(b'\xef\xbb\xbf{"text": "x"}\r\n{"text": "\xc3\xa9"}')
  corpus = jsonl.read(pool, [], strict=True)
  assert [d.text for d in corpus.documents] == ["x", "é"]


# What is wrong with a line: its kind in the notes, and facts of the message.
UNUSABLE = {
  "empty": ({"text": ""}, "an empty text", ["'text'", "came ''", "drop"]),
  "blank": ({"text": " \n\t"}, "an empty text", ["'text'", r"' \n\t'"]),
  "bytes": (
    b'{"text": "caf\xe9"}',
    "invalid UTF-8",
    ["wanted UTF-8", "0xe9", "position 13", "caf", "convert"],
  ),
  "syntax": (
    '{"text": "x"',
    "invalid JSON",
    ["JSON object", """came '{"text": "x"'""", "one whole object per line"],
  ),
  "deep": ('{"text": ' + "[" * 100_000, "invalid JSON", ["recursion"]),
  "digits": ('{"text": ' + "1" * 5_000 + "}", "invalid JSON", ["digits"]),
  "list": ('["text", "x"]', "no JSON object", ["came ['text', 'x']"]),
  "missing": (
    {"body": "x"},
    "no text in the field 'text'",
    ["wanted a string", "came no such field", "name the field"],
  ),
  "null": ({"text": None}, "no text in the field 'text'", ["came None"]),
  "number": ({"text": 12}, "no text in the field 'text'", ["came 12"]),
  "long value": (
    {"text": ["x" * 10_000]},
    "no text in the field 'text'",
    ["xx...xx"],
  ),
  "id": (
    {"text": "x", "id": ["a"]},
    "no string in the field 'id'",
    ["came ['a']", "write it as a string"],
  ),
  "truth": ({"text": "x", "id": True}, "no string in the field 'id'", ["True"]),
  "label": (
    {"text": "x", "source": {"a": 1}},
    "no string in the field 'source'",
    ["came {'a': 1}"],
  ),
  "surrogate": (
    '{"text": "x \\ud800"}',
    "invalid Unicode",
    ["'text'", "surrogate", r"'\ud800'", "position 2"],
  ),
  "surrogate in id": (
    '{"text": "x", "id": "\\udfff"}',
    "invalid Unicode",
    ["'id'", "surrogate"],
  ),
  "large": (
    {"text": "é" * 501},
    "a text over 1,000 bytes",
    ["at most 1,000 bytes", "came 1,002", "raise max_document_bytes"],
  ),
  "large line": (
    {"text": "x" * 1_100_000},
    "a text over 1,000 bytes",
    ["at most 1,000 bytes", "came a longer line"],
  ),
}


@pytest.mark.parametrize("name", UNUSABLE)
def test_unusable_line_is_skipped_and_told(tmp_path, name):
  line, kind, _ = UNUSABLE[name]
  good = [{"text": "x", "id": str(i)} for i in range(2)]
  pool = write(tmp_path / "pool.jsonl", good[0], line, good[1], line)
  corpus = jsonl.read(pool, [], max_document_bytes=1_000)
  assert [d.id for d in corpus.documents] == ["0", "1"]
  assert corpus.notes == (f"{pool}: skipped 2 of 4 lines, {kind}: lines 2, 4.",)


@pytest.mark.parametrize("name", UNUSABLE)
def test_unusable_line_stops_a_strict_read(tmp_path, name):
  line, _, facts = UNUSABLE[name]
  pool = write(tmp_path / "pool.jsonl", {"text": "x"}, line)
  message = refusal(pool, [], max_document_bytes=1_000, strict=True)
  assert message.startswith(f"{pool}, line 2: wanted ")
  for fact in facts:
    assert fact in message


def test_document_of_just_the_largest_size_is_taken_however_escaped(tmp_path):
  size = 400_000  # escaped, longer than what other fields may take
  escaped = '{"text": "' + "\\u0041" * size + '"}'
  pool = write(tmp_path / "pool.jsonl", {"text": "é" * (size // 2)}, escaped)
  corpus = jsonl.read(pool, [], max_document_bytes=size, strict=True)
  assert corpus.documents[1].text == "A" * size


def test_target_lines_are_skipped_by_the_same_rules(tmp_path):
  pool = write(tmp_path / "pool.jsonl", {"text": "x"})
  bad = {"text": "", "split": "train"}
  target = write(tmp_path / "news.jsonl", *TARGET, bad)
  corpus = jsonl.read(pool, [target])
  assert corpus.notes == (
    f"{target}: skipped 1 of 4 lines, an empty text: line 4.",
  )
  assert f"{target}, line 4" in refusal(pool, [target], strict=True)


def test_notes_name_the_first_lines_of_each_kind(tmp_path):
  pool = write(
    tmp_path / "pool.jsonl", {"text": "x"}, *[{"text": ""}] * 40, "{", "{"
  )
  assert jsonl.read(pool, []).notes == (
    f"{pool}: skipped 40 of 43 lines, an empty text: lines 2, 3, 4, 5, 6, ....",
    f"{pool}: skipped 2 of 43 lines, invalid JSON: lines 42, 43.",
  )


def test_oversized_line_is_never_held_whole(tmp_path):
  pool = tmp_path / "pool.jsonl.gz"
  with gzip.open(pool, "wb") as file:
    file.write(b'{"text": "')
    for _ in range(50):
      file.write(b"x" * 1_000_000)
    file.write(b'"}\n{"text": "x"}\n')
  tracemalloc.start()
  corpus = jsonl.read(pool, [], max_document_bytes=1_000)
  _, peak = tracemalloc.get_traced_memory()
  tracemalloc.stop()
  assert corpus.documents[0].id == "pool.jsonl.gz:2"
  assert "skipped 1 of 2 lines" in corpus.notes[0]
  assert peak < 10_000_000  # of a line of 50 MB


def test_missing_file(tmp_path):
  message = refusal(tmp_path / "pool.jsonl", [])
  assert f"{tmp_path / 'pool.jsonl'}: " in message
  assert "no file" in message
  assert "check the path" in message


def test_folder_in_place_of_a_file(tmp_path):
  message = refusal(tmp_path, [])
  assert message.startswith(f"{tmp_path}: wanted a readable file")
  assert "Is a directory" in message


@pytest.mark.parametrize(("content", "lines"), [(b"", 0), (b"\n \n", 2)])
def test_no_documents(tmp_path, content, lines):
  pool = tmp_path / "pool.jsonl"
  pool.write_bytes(content)
  message = refusal(pool, [])
  assert f"{pool}: wanted at least one document, came none" in message
  assert f"in {lines} lines" in message
  assert 'such as {"text": "..."}' in message


def test_only_skipped_documents_says_why(tmp_path):
  pool = write(tmp_path / "pool.jsonl", {"body": "x"}, {"body": "y"})
  message = refusal(pool, [])
  assert "came none in 2 lines" in message
  assert "skipped 2 of 2 lines, no text in the field 'text'" in message


@pytest.mark.parametrize("ids", [("a", "a"), (1, "1"), ("pool.jsonl:4", None)])
def test_duplicate_id(tmp_path, ids):
  first, second = ids
  pool = write(
    tmp_path / "pool.jsonl",
    {"text": "z"},
    {"text": "x", "id": first},
    {"text": ""},
    {"text": "y", "id": second},
  )
  message = refusal(pool, [])
  assert message.startswith(f"{pool}, line 4: ")
  assert f"came {str(first)!r} again (first in line 2)" in message
  assert "make the ids unique" in message


def test_truncated_gzip(tmp_path):
  lines = [{"text": f"{i} {i * i * 7919}"} for i in range(2_000)]
  whole = write(tmp_path / "pool.jsonl.gz", *lines).read_bytes()
  pool = tmp_path / "cut.jsonl.gz"
  for size in (5, len(whole) // 2, len(whole) - 4):
    pool.write_bytes(whole[:size])
    message = refusal(pool, [])
    assert message.startswith(f"{pool}: wanted a whole gzip file")
    assert re.search(r"after line \d+; copy or make it again", message)


@pytest.mark.parametrize("at", [10, -6])  # the first block, the checksum
def test_damaged_gzip(tmp_path, at):
  data = bytearray(gzip.compress(b'{"text": "x"}\n' * 100))
  data[at] ^= 0xFF
  pool = tmp_path / "pool.jsonl.gz"
  pool.write_bytes(data)
  message = refusal(pool, [])
  assert message.startswith(f"{pool}: wanted a sound gzip file")
  assert re.search(r"damaged after line \d+ \(.+\); copy", message)


@pytest.mark.parametrize("split", ["dev", None, 3, ["train"], "Train"])
def test_unknown_split(tmp_path, split):
  pool = write(tmp_path / "pool.jsonl", {"text": "x"})
  target = write(
    tmp_path / "news.jsonl", *TARGET, {"text": "x", "split": split}
  )
  message = refusal(pool, [target])
  assert message.startswith(f"{target}, line 4: ")
  assert "train, validation and test" in message
  assert f"came {split!r}" in message


def test_absent_split(tmp_path):
  pool = write(tmp_path / "pool.jsonl", {"text": "x"})
  target = write(tmp_path / "news.jsonl", {"text": "x"})
  assert "line 1" in refusal(pool, [target])
  assert "came no such field" in refusal(pool, [target])


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_target_without_a_split(tmp_path, split):
  kept = [x for x in TARGET if not split.startswith(x["split"])]
  pool = write(tmp_path / "pool.jsonl", {"text": "x"})
  target = write(tmp_path / "news.jsonl", *kept)
  message = refusal(pool, [target])
  assert message.startswith(f"{target}: ")
  assert f"none for {split!r}" in message
  assert f"0 {split}" in message
  assert f'"split": "{split}"' in message


def test_two_targets_of_one_name(tmp_path):
  pool = write(tmp_path / "pool.jsonl", {"text": "x"})
  first = write(tmp_path / "news.jsonl", *TARGET)
  second = write(tmp_path / "news.jsonl.gz", *TARGET)
  message = refusal(pool, [first, second])
  assert str(second) in message
  assert "'news'" in message
  assert "rename" in message
