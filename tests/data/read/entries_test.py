"""Files of entries: word lists, WordNet's names and files, MetaCLIP's JSON."""

import json

import pytest

from cmtree_jax.data.read import entries
from cmtree_jax.types import UserError

LINES = """  1 This software and database is being provided to you
cat
 hot   dog
hot_dog.n.01
new_york n 3 2 @ ~ 1 1 00017222
cat
,

C++
5
猫
"""


def test_an_entry_a_line(tmp_path):
  path = tmp_path / "words.txt"
  path.write_text(LINES, encoding="utf-8")
  assert entries.read(path) == ("cat", "hot dog", "new york", "C++", "5", "猫")


def test_a_list_in_json_is_taken_as_it_is(tmp_path):
  path = tmp_path / "metadata.json"
  path.write_text(json.dumps(["hot_dog", "a", "hot_dog", "x.n.01"]))
  assert entries.read(path) == ("hot_dog", "a", "x.n.01")


@pytest.mark.parametrize(
  ("name", "content", "told"),
  [
    ("no.txt", None, r"no\.txt: wanted a file of entries, came No such file"),
    ("a.txt", b"\n ,\n", r"a\.txt: wanted entries, came none"),
    ("a.txt", b"caf\xe9", r"a\.txt: wanted UTF-8, came byte 0xe9"),
    ("a.json", b"[1", r"a\.json: wanted a JSON list of strings, came invalid"),
    ("a.json", b'{"a": 1}', r"a\.json: .*came {'a': 1}"),
    ("a.json", b'["a", 7]', r"a\.json: .*came 7 as entry 2"),
  ],
)
def test_a_file_without_entries_is_refused(tmp_path, name, content, told):
  if content is not None:
    (tmp_path / name).write_bytes(content)
  with pytest.raises(UserError, match=told):
    entries.read(tmp_path / name)
