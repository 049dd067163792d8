"""Beds: how they are named, who is drawn, and what a document becomes."""

import numpy as np
import pytest

from cmtree_jax.data.corpora import bed, spoiling
from cmtree_jax.data.corpora.bed import Bed
from cmtree_jax.data.plan import Plan

TEXT = "One two three four. Five six seven. Eight nine ten eleven twelve."


@pytest.mark.parametrize(
  ("line", "found"),
  [
    ("spoiled:lines:1", Bed("spoiled", "lines", share=1.0)),
    ("topic_by_quality", Bed("topic_by_quality", "words")),
    ("topic_by_quality:letters", Bed("topic_by_quality", "letters")),
    ("rewrites:3:0.5", Bed("rewrites", number=3, share=0.5)),
    ("absent:textbook/a", Bed("absent", "textbook/a")),
    ("held_out:de:0.25", Bed("held_out", "de", share=0.25)),
    ("tiny:8", Bed("tiny", number=8)),
  ],
)
def test_a_line_names_a_bed(line, found):
  assert bed.parse(line) == found
  Plan(bed=line).check()


@pytest.mark.parametrize(
  "line",
  [
    *("spoiled", "spoiled:words", "spoiled:wrds:0.5", "spoiled:words:0"),
    *("spoiled:words:1.5", "spoiled:words:nan", "spoiled:words:0.5:3"),
    *("rewrites:0", "rewrites:2.5", "absent:", "absent", "tiny:", "other:3"),
    *("topic_by_quality:none", "held_out:de"),
  ],
)
def test_another_line_is_told_with_those_that_are_known(line):
  with pytest.raises(ValueError, match=r"spoiled:boilerplate\|.*tiny:NUMBER"):
    Plan(bed=line).check()


def _documents(count=400):
  rng = np.random.default_rng(0)
  names = [f"d{i}" for i in range(count)]
  return names, [f"s{k}" for k in rng.integers(0, 40, count)]


def test_positions_are_even_within_every_source():
  names, sources = _documents()
  position_N = bed.positions(names, sources)
  assert position_N.min() >= 0 and position_N.max() < 1
  for source in set(sources):
    of_source = np.array(sources) == source
    for share in (0.2, 0.5):
      chosen = (position_N[of_source] < share).sum()
      assert abs(chosen - share * of_source.sum()) < 1
  # Sources of few documents do not all round the same way.
  position_N = bed.positions(names, names)
  assert (position_N < 0.2).mean() == pytest.approx(0.2, abs=0.06)


def test_order_changes_nobody_s_draw():
  names, sources = _documents()
  order = np.random.default_rng(1).permutation(len(names))
  turned = [names[i] for i in order], [sources[i] for i in order]
  np.testing.assert_array_equal(
    bed.positions(*turned), bed.positions(names, sources)[order]
  )
  partner = [names[i] for i in bed.partners(names)]
  again = [turned[0][i] for i in bed.partners(turned[0])]
  assert again == [partner[i] for i in order]
  assert sorted(partner) == sorted(names)
  assert all(a != b for a, b in zip(names, partner, strict=True))


def test_a_seed_changes_the_draws():
  names, sources = _documents()
  one, other = (bed.positions(names, sources, seed=s) < 0.5 for s in (0, 1))
  assert 0.3 < (one == other).mean() < 0.7
  assert (bed.partners(names, seed=1) != bed.partners(names)).mean() > 0.9


def test_a_document_is_spoiled_or_stays():
  spoiled = bed.parse("spoiled:words:0.5")
  (sound,) = bed.made(spoiled, "a", TEXT, 0.5)
  assert sound == bed.Made("a", TEXT, "sound", "a")
  (other,) = bed.made(spoiled, "a", TEXT, 0.49)
  assert other.id == other.copy_of == "a" and other.factor == "words"
  assert other.text != TEXT and sorted(other.text) == sorted(TEXT)
  assert bed.made(spoiled, "a", TEXT, 0.49) == [other]
  texts = {bed.made(spoiled, n, TEXT, 0.1)[0].text for n in "bcdef"}
  assert len(texts) == 5  # every document has draws of its own


def test_quality_has_five_strengths():
  one = bed.parse("topic_by_quality:letters")
  text = "abcdefghij " * 100
  found = [bed.made(one, "a", text, 0.1 + 0.2 * k)[0] for k in range(5)]
  assert [made.factor for made in found] == ["0", "0.25", "0.5", "0.75", "1"]
  changed = [
    sum(a != b for a, b in zip(made.text, text, strict=True)) for made in found
  ]
  assert changed == [round(s * spoiling.LETTERS * 1000) for s in bed.STRENGTHS]


def test_rewrites_stand_beside_what_they_are_made_from():
  rewrites = bed.parse("rewrites:3")
  assert bed.made(rewrites, "a", TEXT, 0.2) == [
    bed.Made("a", TEXT, "once", "a")
  ]
  found = bed.made(rewrites, "a", TEXT, 0.19)
  assert [made.id for made in found] == ["a", "a~1", "a~2", "a~3"]
  assert found[0].text == TEXT
  assert {(made.factor, made.copy_of) for made in found} == {("rewritten", "a")}


def test_a_tiny_target_keeps_the_same_texts_in_any_order():
  texts = [f"text {i}" for i in range(50)]
  kept = [texts[i] for i in bed.few(bed.parse("tiny:8"), texts)]
  assert len(kept) == 8 and kept == sorted(kept, key=texts.index)
  turned = texts[::-1]
  again = [turned[i] for i in bed.few(bed.parse("tiny:8"), turned)]
  assert sorted(again) == sorted(kept)
  assert bed.few(bed.parse("tiny:90"), texts) == list(range(50))


def test_what_is_absent_is_known_by_any_label():
  absent = bed.parse("absent:de")
  assert bed.is_held_out(absent, ("messages_de", "messages", "de"), "f")
  assert not bed.is_held_out(absent, ("messages_nl", "messages", "nl"), "f")
  some = bed.parse("held_out:de:0.25")
  originals = [f"file {i}" for i in range(2000)]
  chosen = [bed.is_held_out(some, ("de",), one) for one in originals]
  assert np.mean(chosen) == pytest.approx(0.25, abs=0.03)
