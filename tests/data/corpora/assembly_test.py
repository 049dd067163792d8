import pytest

from cmtree_jax.data.corpora import assembly
from cmtree_jax.data.corpora.assembly import Entry, HeldOut, Source


def _text(name: str, num_words: int = 120) -> str:
  return " ".join(f"{name}{number}" for number in range(num_words))


def _entries(prefix: str, count: int) -> list[Entry]:
  names = (f"{prefix}{number}" for number in range(count))
  return [Entry(name, _text(name)) for name in names]


def test_held_out_originals_are_not_in_the_pool():
  sources = [Source("s", "d", 10**9, _entries("a", 400), "en")]
  corpus = assembly.assemble(sources, [HeldOut("goal", "s", 0.5)])
  target = corpus.targets["goal"]
  sizes = [len(target.train), len(target.validation), len(target.test)]
  assert sum(sizes) + len(corpus.documents) == 400
  # Four standard deviations of the binomial counts.
  assert sum(sizes) == pytest.approx(200, abs=40)
  assert sizes == pytest.approx([80, 40, 80], abs=36)
  for split, texts in zip(target._fields[1:], target[1:], strict=True):
    for text in texts:
      assert assembly.split_of(text.split()[0][:-1]) == split
  assert corpus.labels is not None
  assert {label.language for label in corpus.labels} == {"en"}


def test_documents_are_sorted_and_do_not_depend_on_the_order_of_entries():
  entries = _entries("a", 50)
  first = assembly.assemble([Source("s", "d", 10**9, entries)], [])
  again = assembly.assemble([Source("s", "d", 10**9, entries[::-1])], [])
  assert first == again
  ids = [document.id for document in first.documents]
  assert ids == sorted(set(ids))
  # The label is hidden: a learner may see ids.
  assert not any("s" in one for one in ids)


def test_equal_texts_are_kept_once_and_counted():
  twice = [Entry("a", _text("x")), Entry("b", _text("x"))]
  corpus = assembly.assemble([Source("s", "d", 10**9, twice)], [])
  assert len(corpus.documents) == 1
  assert corpus.notes[0] == "1 documents left out: the same text twice."


def test_what_repeats_a_target_leaves_the_pool():
  goals = _entries("goal", 40)
  copy = Entry("copy", _text("y", 20) + " " + goals[0].text)
  other = Entry("other", _text("z"))
  corpus = assembly.assemble(
    [Source("goals", "d", 0, goals), Source("s", "d", 10**9, [copy, other])],
    [HeldOut("goal", "goals", 1.0)],
  )
  assert [one.original for one in corpus.documents] == ["other"]
  assert corpus.notes[1].startswith("1 documents left out")


def test_caps_stop_reading():
  def endless():
    number = 0
    while True:
      yield Entry(f"a{number}", _text(f"a{number}"))
      number += 1

  corpus = assembly.assemble([Source("s", "d", 20_000, endless())], [])
  size = sum(len(one.text) for one in corpus.documents)
  assert 20_000 <= size < 21_500
  long = [Entry("long", _text("w", 100_000))]
  corpus = assembly.assemble([Source("s", "d", 10**9, long)], [])
  size = sum(len(one.text) for one in corpus.documents)
  assert 45_000 < size <= assembly.ORIGINAL_CAP


def test_a_target_with_an_empty_split_is_left_out_with_a_note():
  sources = [Source("s", "d", 10**9, _entries("a", 1))]
  corpus = assembly.assemble(sources, [HeldOut("goal", "s", 1.0)])
  assert corpus.targets == {}
  assert "'goal'" in corpus.notes[-1]
