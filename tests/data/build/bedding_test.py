"""A bed over a corpus on disk: equal however it is cut, labelled, and told."""

import pathlib

import numpy as np
import pytest

from cmtree_jax.data.corpora import bed
from cmtree_jax.jobs import hidden
from cmtree_jax.types import UserError
from tests import corpora

_COLUMNS = ("id", "text", "source", bed.FACTOR, bed.COPY_OF)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> pathlib.Path:
  """Two files of documents of three sources, with a language, and a target."""
  folder = tmp_path_factory.mktemp("corpus")
  rng = np.random.default_rng(0)
  words = np.array([f"word{i}" for i in range(80)])

  def text():
    lines = (" ".join(rng.choice(words, 6)) + "." for _ in range(4))
    return " ".join(lines)

  rows = [
    {
      **{"id": f"d{i}", "text": text(), "original": f"file{i // 2}"},
      **{"source": f"s{i % 3}", "language": ("en", "de")[i % 3 == 0]},
    }
    for i in range(90)
  ]
  rows[5]["text"] = rows[4]["text"]
  corpora.write(folder / "a.jsonl", rows[:40])
  corpora.write(folder / "b.jsonl", rows[40:])
  goal = [
    {"text": f"{text()} {split}", "split": split}
    for split in ("train", "validation", "test")
    for _ in range(6)
  ]
  corpora.write(folder / "goal.jsonl", goal)
  return folder


def _prepare(corpus, *overrides):
  return corpora.prepare_folder(
    corpus, f"data.source=jsonl:{corpus}/[ab].jsonl", *overrides
  )


def _rows(prepared, *names):
  columns = prepared.documents.rows(np.arange(len(prepared.documents)), *names)
  return list(zip(*(columns[name] for name in names), strict=True))


@pytest.mark.parametrize(
  "line",
  [
    *(f"spoiled:{kind}:0.5" for kind in ("words", "lines", "boilerplate")),
    *("topic_by_quality:letters", "rewrites:4"),
  ],
)
def test_every_size_of_shards_gives_the_same_bytes(corpus, line):
  whole = _prepare(corpus, f"data.bed={line}")
  cut = _prepare(corpus, f"data.bed={line}", "data.shard_documents=7")
  assert len(cut.documents.paths) > len(whole.documents.paths)
  rows = _rows(whole, *_COLUMNS)
  assert rows == _rows(cut, *_COLUMNS)
  np.testing.assert_array_equal(whole.pool.tokens.flat, cut.pool.tokens.flat)
  plain = {name: text for name, text in _rows(_prepare(corpus), "id", "text")}
  for name, text, _, factor, copy_of in rows:
    assert copy_of == name.partition("~")[0]
    if factor in ("sound", "once", "0"):
      assert text == plain[name]
  assert whole.manifest["bed"]["name"] == line
  counts = whole.manifest["bed"]["factor"]
  assert counts == {
    factor: sum(row[3] == factor for row in rows) for factor in counts
  }
  assert sum(counts.values()) == len(rows)


def test_the_factor_is_balanced_within_each_source(corpus):
  prepared = _prepare(corpus, "data.bed=spoiled:words:0.5")
  found = hidden.labels(prepared)
  (source_N, _), (factor_N, names) = found["source"], found["factor"]
  assert names == ("sound", "words")
  counts = np.zeros((3, 2))
  np.add.at(counts, (source_N, factor_N), 1)
  np.testing.assert_array_equal(counts, 15)
  assert "words" in next(x for x in prepared.notes if "spoiled:words" in x)


def test_a_bed_and_its_seed_are_a_corpus_of_their_own(corpus):
  settings = ((), ("data.bed=spoiled:words:0.5",), ("data.bed=tiny:90",))
  seeded = (*settings[1], "data.bed_seed=1")
  made = [_prepare(corpus, *one) for one in (*settings, seeded)]
  assert len({one.digest for one in made}) == len(made)
  assert not hidden.has_factor(made[0]) and not hidden.has_factor(made[2])
  assert set(hidden.labels(made[0])) == {"source"}
  assert "bed" not in made[0].manifest
  texts = [_rows(one, "text") for one in made]
  assert texts[0] == texts[2] != texts[1] != texts[3]


def test_lines_come_from_a_document_that_was_not_spoiled_itself(corpus):
  rows = _rows(_prepare(corpus, "data.bed=spoiled:lines:1"), "id", "text")
  plain = _rows(_prepare(corpus), "id", "text")
  for (_, text), (_, before) in zip(rows, plain, strict=True):
    others = [x for x in text.replace("\n", " ").split(". ") if x not in before]
    sources = {
      x for _, x in plain if all(one.strip(".") in x for one in others)
    }
    assert len(sources) == 1 or text == before


def test_dropping_what_repeats_leaves_all_rewrites(corpus):
  """Repeats are looked for before; what is rewritten is told with its number."""
  settings = ("data.bed=rewrites:4:1", "data.drop_repeated_texts=true")
  prepared = _prepare(corpus, *settings)
  assert prepared.manifest["repeated_texts"] == {
    **{"documents": 1, "dropped": True}
  }
  assert len(prepared.documents) == 89 * 5
  assert prepared.manifest["bed"]["factor"] == {"rewritten": 89 * 5}
  equal = prepared.manifest["bed"]["equal_rewrites"]
  assert len({text for (text,) in _rows(prepared, "text")}) == 89 * 5 - equal
  assert equal < 5
  assert len(np.unique(prepared.pool.key_N)) == 89 * 5


def test_a_sample_is_drawn_before_the_bed(corpus):
  sampled = _prepare(corpus, "data.max_documents=30")
  spoiled = _prepare(
    corpus, "data.max_documents=30", "data.bed=spoiled:letters:0.5"
  )
  assert _rows(sampled, "id") == _rows(spoiled, "id")
  assert spoiled.manifest["bed"]["factor"]["letters"] == pytest.approx(
    15, abs=2
  )


def test_what_is_absent_is_the_target(corpus):
  settings = ("data.bed=absent:de", "data.targets=de", "data.max_overlap=1")
  prepared = _prepare(corpus, *settings)
  plain = _rows(_prepare(corpus), "id", "text", "source")
  kept = [row for row in plain if row[2] != "s0"]
  assert _rows(prepared, "id", "text", "source") == kept
  assert set(prepared.targets) == {"de"}
  held = prepared.manifest["bed"]["target"]
  assert sum(held.values()) == 30 == prepared.manifest["bed"]["held_out"]
  sizes = {split: len(one) for split, one in prepared.targets["de"].items()}
  assert sizes == held and all(sizes.values())


def test_what_is_held_out_may_not_take_a_target_s_name(corpus):
  with pytest.raises(UserError, match="has a target of that name"):
    _prepare(
      corpus,
      "data.bed=held_out:goal:0.5",
      f"data.target_files={corpus}/goal.jsonl",
    )
  with pytest.raises(UserError, match="joins targets"):
    _prepare(corpus, "data.bed=absent:s0+s1")


def test_what_repeats_the_held_out_text_leaves_the_pool_too(corpus, tmp_path):
  rows = [
    {"id": f"x{i}", "text": " ".join(f"w{i}_{j}" for j in range(30))}
    | {"source": "a", "original": f"o{i}"}
    for i in range(30)
  ]
  copies = [{**r, "id": f"{r['id']}c", "source": "b"} for r in rows[:3]]
  corpora.write(tmp_path / "pool.jsonl", [*rows, *copies, *_OTHERS])
  prepared = corpora.prepare_folder(
    corpus,
    f"data.source=jsonl:{tmp_path}/pool.jsonl",
    *("data.bed=absent:a", "data.targets=a"),
  )
  assert _rows(prepared, "id") == [(one["id"],) for one in _OTHERS]
  assert prepared.manifest["bed"]["repeats"] == 3


# What an embedder can be fitted on when all else is held out.
_OTHERS = [
  {"id": f"y{i}", "text": f"nothing alike, {word}", "source": "b"}
  for i, word in enumerate(("sun", "moon", "star", "sky", "cloud", "rain"))
]


def test_a_text_of_two_originals_is_in_one_split(tmp_path, corpus):
  rows = [
    {"id": f"x{i}", "text": f"text {i % 30} of it", "source": "a"}
    | {"original": f"o{i}"}
    for i in range(60)
  ]
  corpora.write(tmp_path / "pool.jsonl", [*rows, *_OTHERS])
  prepared = corpora.prepare_folder(
    corpus,
    f"data.source=jsonl:{tmp_path}/pool.jsonl",
    *("data.bed=absent:a", "data.targets=a"),
  )
  keys = [one.tokens.flat.tobytes() for one in prepared.targets["a"].values()]
  assert sum(map(len, prepared.targets["a"].values())) == 30
  assert len(set(keys)) == 3


def test_a_bed_without_enough_text_is_refused(corpus):
  with pytest.raises(UserError, match=r"absent:fr.*'fr'.*0 train"):
    _prepare(corpus, "data.bed=absent:fr", "data.targets=fr")


def test_a_tiny_target_keeps_its_test(corpus):
  plain = _prepare(corpus).targets["goal"]
  tiny = _prepare(corpus, "data.bed=tiny:2").targets["goal"]
  sizes = {split: len(one) for split, one in tiny.items()}
  assert sizes == {"train": 2, "validation": 2, "test": 6}
  for split in ("train", "validation"):
    flat = plain[split].tokens.flat.tobytes()
    for start, stop in zip(
      tiny[split].tokens.start_N1[:-1],
      tiny[split].tokens.start_N1[1:],
      strict=True,
    ):
      assert tiny[split].tokens.flat[start:stop].tobytes() in flat
  np.testing.assert_array_equal(
    tiny["test"].tokens.flat, plain["test"].tokens.flat
  )
