"""What JSON lines become, and what is told of those that hold no document."""

import bz2
import functools
import gzip
import io
import json
import lzma
import os
import pathlib
import tracemalloc
import zipfile
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pytest

from cmtree_jax.data.read import files, jsonl
from cmtree_jax.data.read.fields import Part, Rules
from cmtree_jax.types import LostLabel, Record, Skip

RULES = Rules("text", "id", "source", 10_000_000)
SMALL = RULES._replace(max_document_bytes=1_000)


def raw(*lines: object) -> bytes:
  """These lines; bytes and strings as they are, others as JSON."""
  encoded = [
    line
    if isinstance(line, bytes)
    else (line if isinstance(line, str) else json.dumps(line)).encode()
    for line in lines
  ]
  return b"".join(line + b"\n" for line in encoded)


def zstd(data: bytes) -> bytes:
  return pa.Codec("zstd").compress(data, asbytes=True)


PACK: dict[str, Callable[[bytes], bytes]] = {
  "": bytes,
  ".gz": gzip.compress,
  ".zst": zstd,
}


def read(source: pathlib.Path | Part, rules: Rules = RULES) -> list[Any]:
  if isinstance(source, pathlib.Path):
    (source,) = jsonl.parts(str(source))
  return [
    x._replace(where="") if isinstance(x, Record) else x
    for x in jsonl.read(source, rules)
  ]


def file(folder: pathlib.Path, *lines: object, name: str = "pool.jsonl"):
  path = folder / name
  path.write_bytes(PACK.get(path.suffix, bytes)(raw(*lines)))
  return path


def skip(found: list[Any], at: int = -1) -> Skip:
  """A skip whose message is one short line, whatever was in the file."""
  problem = found[at]
  assert isinstance(problem, Skip)
  assert "\n" not in problem.message
  assert len(problem.message) < 400
  assert problem.message.startswith("wanted ")
  return problem


def test_all_fields_of_a_document(tmp_path):
  pool = file(
    tmp_path,
    {"text": "x", "id": "b", "orig": "o", "source": "web", "lang": "en"},
    {"text": "y", "id": 7, "original": "p", "domain": "law", "extra": [1]},
  )
  assert read(pool) == [
    Record("b", "x", "o", "web", "", "en"),
    Record("7", "y", "p", "", "law", ""),
  ]


def test_absent_ids_are_part_and_line(tmp_path):
  pool = file(tmp_path, {"text": "x"}, " ", {"text": "y", "id": ""})
  part = Part("jsonl", str(pool), "a/pool.jsonl")
  found = read(part)
  assert [x.id for x in found] == ["a/pool.jsonl:1", "a/pool.jsonl:3"]
  assert [x.original for x in found] == ["a/pool.jsonl:1", "a/pool.jsonl:3"]


def test_fields_can_have_other_names(tmp_path):
  pool = file(tmp_path, {"content": "x", "key": "k", "meta": "web", "id": "i"})
  rules = Rules("content", "key", "meta", 1_000)
  assert read(pool, rules) == [Record("k", "x", "k", "web", "", "")]


@pytest.mark.parametrize("suffix", ["", ".gz", ".zst"])
def test_compression_is_known_by_its_content(tmp_path, suffix):
  data = PACK[suffix](raw({"text": "x"}, {"text": "y"}))
  for name in ("a.jsonl", "a.json.gz", "a.zst"):
    (tmp_path / name).write_bytes(data)
    assert [x.text for x in read(tmp_path / name)] == ["x", "y"]


@pytest.mark.parametrize(
  ("name", "pack"),
  [
    ("xz", lzma.compress),
    ("bzip2", bz2.compress),
    ("lzma", functools.partial(lzma.compress, format=lzma.FORMAT_ALONE)),
    ("lz4", lambda data: pa.Codec("lz4").compress(data, asbytes=True)),
    ("zip", lambda data: zipped({"pool.jsonl": data})),
    ("zip", lambda data: zipped({})),
  ],
)
def test_another_compression_is_named(tmp_path, name, pack):
  pool = tmp_path / "pool.jsonl"
  pool.write_bytes(pack(raw({"text": "x"})))
  problem = skip(read(pool))
  assert problem.kind == f"{name} compression, which is not read"
  assert f"came one of {name}" in problem.message
  assert problem.where == str(pool)


def zipped(files: dict[str, bytes]) -> bytes:
  data = io.BytesIO()
  with zipfile.ZipFile(data, "w") as archive:
    for name, content in files.items():
      archive.writestr(name, content)
  return data.getvalue()


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
def test_compressed_files_may_be_joined(tmp_path, suffix):
  data = PACK[suffix](raw({"text": "x"})) + PACK[suffix](raw({"text": "y"}))
  (tmp_path / f"a{suffix}").write_bytes(data)
  assert [x.text for x in read(tmp_path / f"a{suffix}")] == ["x", "y"]


def test_zstd_may_begin_with_a_skippable_frame(tmp_path):
  frame = b"\x50\x2a\x4d\x18" + (4).to_bytes(4, "little") + b"size"
  (tmp_path / "a.zst").write_bytes(frame + zstd(raw({"text": "x"})))
  assert [x.text for x in read(tmp_path / "a.zst")] == ["x"]


def test_byte_order_mark_and_missing_last_newline_are_no_fault(tmp_path):
  pool = tmp_path / "pool.jsonl"
  pool.write_bytes(b'\xef\xbb\xbf{"text": "x"}\r\n{"text": "\xc3\xa9"}')
  assert [x.text for x in read(pool)] == ["x", "é"]


# What is wrong with a line: its kind, and facts of the message.
UNUSABLE = {
  "empty": ({"text": ""}, "an empty text", ["'text'", "came ''", "drop"]),
  "blank": ({"text": " \n\t"}, "an empty text", ["'text'", r"' \n\t'"]),
  "bytes": (
    b'{"text": "caf\xe9"}',
    "invalid UTF-8",
    ["wanted UTF-8", "0xe9", "position 13", "caf", "convert"],
  ),
  "bytes after a mark": (
    b'\xef\xbb\xbf{"text": "\xc3\xa9\xc3\xa9\xe9"}',
    "invalid UTF-8",
    ["0xe9", "position 14", "éé"],
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
def test_unusable_line_is_told_and_the_next_one_read(tmp_path, name):
  line, kind, facts = UNUSABLE[name]
  pool = file(tmp_path, {"text": "x"}, line, {"text": "y"})
  found = read(pool, SMALL)
  assert [x.text for x in found[::2]] == ["x", "y"]
  problem = skip(found, 1)
  assert problem.kind == kind
  assert problem.where == f"{pool}, line 2"
  for fact in facts:
    assert fact in problem.message


@pytest.mark.parametrize(
  ("label", "value", "lost"),
  [
    ("lang", ["eng_Latn", "nob_Latn"], True),
    ("language", 1.5, True),
    ("orig", {"file": "a"}, True),
    ("original", True, True),
    ("domain", {"name": "sea", "score": 0.5}, True),
    ("source", "\ud800", True),
    ("source", 7, False),
    ("domain", None, False),
  ],
)
def test_a_label_that_is_no_string_does_not_lose_its_text(
  tmp_path, label, value, lost
):
  pool = file(tmp_path, {"text": "x", label: value}, {"text": "y"})
  found = read(pool)
  texts = [one for one in found if isinstance(one, Record)]
  assert [one.text for one in texts] == ["x", "y"]
  told = [one for one in found if isinstance(one, LostLabel)]
  assert len(told) == lost
  if lost:
    name = "pool.jsonl:1"
    assert texts[0] == Record(name, "x", name, "", "", "")
    assert repr(label) in told[0].message
    assert told[0].where == f"{pool}, line 1"
    assert "\n" not in told[0].message


def test_document_of_just_the_largest_size_is_taken_however_escaped(tmp_path):
  size = 400_000  # escaped, longer than what other fields may take
  escaped = '{"text": "' + "\\u0041" * size + '"}'
  pool = file(tmp_path, {"text": "é" * (size // 2)}, escaped)
  found = read(pool, RULES._replace(max_document_bytes=size))
  assert found[1].text == "A" * size


@pytest.mark.parametrize("suffix", ["", ".gz", ".zst"])
def test_document_of_100_mb_is_never_held_whole(tmp_path, suffix):
  pool = tmp_path / f"pool{suffix}"
  block = b"".join(b"%07d " % (i * 7919) for i in range(125_000))  # no bomb
  pack = PACK[suffix]
  with pool.open("wb") as stream:
    stream.write(pack(b'{"text": "'))
    stream.write(pack(block) * 100)
    stream.write(pack(b'"}\n{"text": "y"}\n'))
  tracemalloc.start()
  found = read(pool, SMALL)
  _, peak = tracemalloc.get_traced_memory()
  tracemalloc.stop()
  assert skip(found, 0).kind == "a text over 1,000 bytes"
  assert found[1].id == f"pool{suffix}:2"
  assert peak < 10_000_000


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
@pytest.mark.parametrize("end", [b"x", b"\n"])  # one line, and many of nothing
def test_decompression_bomb_stops_early(tmp_path, suffix, end):
  block = PACK[suffix]((b" " * ((1 << 16) - 1) + end) * (1 << 8))
  count = 3 * files.BOMB_BYTES >> 24
  pool = tmp_path / f"pool.jsonl{suffix}"
  good = PACK[suffix](raw({"text": "x"}))
  pool.write_bytes(good + block * count)
  tracemalloc.start()
  found = read(pool, SMALL)
  _, peak = tracemalloc.get_traced_memory()
  tracemalloc.stop()
  assert found[0].text == "x"
  problem = skip(found)
  assert problem.kind == "a decompression bomb"
  assert problem.where.startswith(f"{pool}, after line ")
  assert "decompress it yourself" in problem.message
  came = int(problem.message.split(" came ")[1].split()[0].replace(",", ""))
  assert files.BOMB_BYTES < came < files.BOMB_BYTES + (1 << 20)
  assert peak < 10_000_000


# What a block of zstd is of this file, and the little that gzip holds back.
@pytest.mark.parametrize(("suffix", "lost"), [(".gz", 0.05), (".zst", 0.2)])
@pytest.mark.parametrize("share", [0, 0.1, 0.5, 0.9999])
def test_truncated_file_yields_what_is_whole(tmp_path, suffix, lost, share):
  lines = [{"text": f"{i} {i * i * 7919}"} for i in range(40_000)]
  whole = PACK[suffix](raw(*lines))
  pool = tmp_path / f"cut.jsonl{suffix}"
  pool.write_bytes(whole[: int(share * len(whole))])
  *found, problem = read(pool)
  assert [x.text for x in found] == [x["text"] for x in lines[: len(found)]]
  assert len(found) >= (share - lost) * len(lines)
  assert problem.kind == "a truncated file"
  after = f", after line {len(found)}" if found else ""
  assert problem.where == f"{pool}{after}"
  assert skip([problem]).message.endswith("copy or make it again.")


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
def test_damaged_file(tmp_path, suffix):
  lines = [{"text": f"{i} {i * i * 7919}"} for i in range(100)]
  data = bytearray(PACK[suffix](raw(*lines)))
  data[20] ^= 0xFF  # in the first block
  pool = tmp_path / f"pool{suffix}"
  pool.write_bytes(data)
  problem = skip(read(pool))
  assert problem.kind == "a damaged file"
  assert problem.where == str(pool)


def test_damage_after_the_last_line_of_gzip_is_told(tmp_path):
  pool = file(tmp_path, *[{"text": "x"}] * 9, name="pool.gz")
  data = bytearray(pool.read_bytes())
  data[-6] ^= 0xFF  # the checksum
  pool.write_bytes(data)
  found = read(pool)
  assert [x.text for x in found[:-1]] == ["x"] * 9
  assert skip(found).kind == "a damaged file"
  assert "CRC" in skip(found).message


def test_folder_link_to_nothing_and_pipe_are_told(tmp_path):
  (tmp_path / "a.jsonl").mkdir()
  (tmp_path / "b.jsonl").symlink_to("absent.jsonl")
  os.mkfifo(tmp_path / "c.jsonl")
  file(tmp_path, {"text": "x"}, name="d.jsonl")
  came = ["Is a directory", "absent.jsonl", "a pipe"]
  parts = jsonl.parts(f"{tmp_path}/*.jsonl")
  for part, fact in zip(parts[:3], came, strict=True):
    problem = skip(read(part))
    assert problem.kind == "an unreadable file"
    assert problem.where == part.path
    assert fact in problem.message
  assert [x.text for x in read(parts[3])] == ["x"]


@pytest.mark.parametrize("content", [b"", b"\n \n"])
def test_no_documents_are_no_fault_of_a_file(tmp_path, content):
  pool = tmp_path / "pool.jsonl"
  pool.write_bytes(content)
  assert read(pool) == []
