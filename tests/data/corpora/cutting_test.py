import random
import re

from cmtree_jax.data.corpora.cutting import ENOUGH, LONGEST, SHORTEST, cut


def test_sizes_and_order_hold_for_any_text():
  rng = random.Random(0)
  marks = ["\n\n\n", "\n\n", "\n", ". ", " ", "", "。", " \n \n", "\r\n"]
  for _ in range(50):
    words = ("x" * rng.randrange(1, 400) for _ in range(rng.randrange(1, 200)))
    text = "".join(word + rng.choice(marks) for word in words)
    documents = cut(text)
    assert all(SHORTEST <= len(one) <= LONGEST for one in documents)
    # What is kept stands in the text's order; only the end may be left out.
    kept = re.sub(r"\s", "", "".join(documents))
    whole = re.sub(r"\s", "", text)
    assert whole.startswith(kept)
    assert len(whole) - len(kept) < SHORTEST


def test_cuts_at_the_coarsest_boundary():
  section = "\n\n".join(f"{name} " + "word " * 60 for name in "abc")
  documents = cut("\n\n\n".join([section] * 5))
  assert [one[0] for one in documents] == ["a"] * 5
  assert all(len(one) > 900 for one in documents)


def test_line_endings_are_normalized():
  assert cut("x" * 200 + "\r\n" + "y" * 200) == ["x" * 200 + "\n" + "y" * 200]


def test_what_fits_nowhere_is_left_out():
  long = "y" * (LONGEST - 10)
  assert cut("x" * 200 + "\n\n" + long + "\n\n" + "z" * 200) == [long]


def test_paragraphs_are_not_split_when_they_fit():
  paragraph = "word " * (ENOUGH // 5 + 50)
  documents = cut("\n\n".join([paragraph] * 3))
  assert documents == [paragraph.rstrip()] * 3


def test_short_texts_are_left_out_unless_wanted():
  assert cut("short") == []
  assert cut("short", shortest=1) == ["short"]
