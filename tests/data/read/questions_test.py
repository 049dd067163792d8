"""Questions as tokens: what is stored spells what was asked."""

import numpy as np

from cmtree_jax.data.build import tokenizer
from cmtree_jax.data.read import questions
from cmtree_jax.types import Question

TOK = tokenizer.ByteTokenizer()
ASKED = (
  Question("two and two?", (" three", " four", " fünf"), 1),
  Question("", ("whole",), 0),
  Question("yes?", (" no", " yes"), 1),
)


def texts(tokens):
  flat = [
    tokens.flat[start + 1 : stop - 1]
    for start, stop in zip(
      tokens.start_N1[:-1], tokens.start_N1[1:], strict=True
    )
  ]
  return [TOK.decode(one) for one in flat]


def test_prompts_and_choices_are_stored_apart():
  found = questions.encode(ASKED, TOK)
  choices = [choice for one in ASKED for choice in one.choices]
  assert texts(found.prompts) == [one.prompt for one in ASKED]
  assert texts(found.choices) == choices
  assert found.choices.bytes_N.tolist() == [len(x.encode()) for x in choices]
  right = [choices[i] for i in found.first_Q + found.right_Q]
  assert right == [" four", "whole", " yes"]


def test_what_is_written_is_loaded(tmp_path):
  found = questions.encode(ASKED, TOK)
  questions.write(tmp_path, "exam.test", found)
  loaded = questions.load(tmp_path, "exam.test")
  assert loaded is not None
  for one, other in zip(
    (*found.prompts, *found.choices, *found[2:]),
    (*loaded.prompts, *loaded.choices, *loaded[2:]),
    strict=True,
  ):
    np.testing.assert_array_equal(one, other)
    assert one.dtype == other.dtype
  assert questions.load(tmp_path, "exam.validation") is None
