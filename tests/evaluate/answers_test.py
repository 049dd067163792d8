"""Answers: equality with a loop over questions, cutting, and closed forms."""

import math

import numpy as np
import pytest

from cmtree_jax.data.build import tokenizer
from cmtree_jax.data.draw import sampler
from cmtree_jax.data.read import questions
from cmtree_jax.evaluate import answers
from cmtree_jax.types import Question

T = 16
TOK = tokenizer.ByteTokenizer()
EOS = tokenizer.EOS_ID
LOSS_V = np.random.default_rng(0).uniform(0.5, 3, TOK.vocab_size)


def make_asked(size=30, most=4):
  """Questions whose prompts and choices are shorter and longer than a row."""
  rng = np.random.default_rng(1)

  def text(longest):
    return "".join(rng.choice(list("abcdé"), rng.integers(1, longest)))

  asked = []
  for number in range(size):
    choices = tuple(text(40) for _ in range(rng.integers(1, most + 1)))
    prompt = "" if number == 0 else text(50)
    asked.append(Question(prompt, choices, int(rng.integers(len(choices)))))
  return asked


ASKED = make_asked()


def keys(numbers):
  return sampler.document_keys([f"question-{number}" for number in numbers])


def make_set(asked=ASKED, order=None, *, max_tokens=100_000, rows=4):
  order = range(len(asked)) if order is None else order
  return answers.answer_set(
    questions.encode([asked[i] for i in order], TOK),
    keys(order),
    max_tokens=max_tokens,
    rows=rows,
    row_tokens=T,
  )


def chosen(one):
  document = one.batches.document_BT
  return np.unique(document[document >= 0]).tolist()


def full_score(one, loss_V=LOSS_V):
  return answers.score(loss_V[one.batches.label_BT], one)


def score(one, loss_V=LOSS_V):
  found = full_score(one, loss_V)
  return found.bpb, found.accuracy


def ids(text):
  return TOK.encode_batch([text])[0].tolist()


def by_hand(asked):
  """Bits per byte and accuracy by a loop; exact, as losses are of labels alone."""
  nats, num_bytes, won = 0.0, 0, []
  for question in asked:
    cost = [LOSS_V[ids(choice)].sum() for choice in question.choices]
    size = [len(choice.encode()) for choice in question.choices]
    nats += cost[question.answer]
    num_bytes += size[question.answer]
    if len(cost) > 1:
      won.append(np.argmin(np.divide(cost, size)) == question.answer)
  return nats / math.log(2) / num_bytes, np.mean(won)


def expected_pieces(question, number):
  """(document, inputs, labels, which spell the choice) of all rows' pieces."""
  for choice in question.choices:
    labels = ids(question.prompt) + ids(choice)
    inputs = [EOS, *labels[:-1]]
    spells = [0] * len(ids(question.prompt)) + [1] * len(ids(choice))
    while len(labels) > T * math.ceil(len(ids(choice)) / T):
      labels, inputs, spells = labels[1:], inputs[1:], spells[1:]
    for at in range(0, len(labels), T):
      part = slice(at, at + T)
      yield (
        number,
        tuple(inputs[part]),
        tuple(labels[part]),
        tuple(spells[part]),
      )


def pieces_of(one):
  fields = (*one.batches, one.choice_CBT)
  for tokens, label, segment, document, choice in zip(
    *(x.reshape(-1, T) for x in fields), strict=True
  ):
    for number in np.unique(segment[segment >= 0]):
      (at,) = np.nonzero(segment == number)
      assert np.all(np.diff(at) == 1)
      assert len(set(document[at])) == 1
      spells = tuple((choice[at] >= 0).astype(int))
      yield document[at[0]], tuple(tokens[at]), tuple(label[at]), spells


def test_scores_are_those_of_a_loop_over_questions():
  one = make_set()
  assert one.num_questions == len(ASKED)
  np.testing.assert_allclose(score(one), by_hand(ASKED), rtol=1e-6)


def test_rows_hold_every_choice_after_the_end_of_its_prompt():
  one = make_set()
  expected = [x for i, q in enumerate(ASKED) for x in expected_pieces(q, i)]
  assert sorted(pieces_of(one)) == sorted(expected)
  assert one.num_tokens == sum(len(x[1]) for x in expected)
  assert (one.batches.segment_BT >= 0).sum() == one.num_tokens
  whole = [
    sum(len(ids(q.prompt + choice)) for choice in q.choices)
    == sum(len(x[1]) for x in expected if x[0] == i)
    for i, q in enumerate(ASKED)
  ]
  assert one.num_cut == whole.count(False) > 0
  continued = [any(len(ids(choice)) > T for choice in q.choices) for q in ASKED]
  assert one.num_continued == continued.count(True) > 0


def test_short_sequences_share_a_row():
  asked = [Question("ab", ("cd", "efg"), 0), Question("a", ("b" * 6,), 0)]
  one = make_set(asked, rows=1)  # 4 + 5 + 7 pairs
  assert one.batches.tokens_BT.shape == (1, 1, T)
  assert (one.num_tokens, one.num_cut) == (T, 0)


def test_a_uniform_model_in_closed_form():
  # Tokens are bytes: every choice has the same nats per byte, chance decides.
  one = make_set()
  bpb, accuracy = score(one, np.full(TOK.vocab_size, math.log(8)))
  assert bpb == pytest.approx(3.0)
  chances = [1 / len(q.choices) for q in ASKED if len(q.choices) > 1]
  assert accuracy == pytest.approx(np.mean(chances))


@pytest.mark.parametrize(
  ("cost", "expected"),
  [
    ({"a": 1.0, "b": 2.0, "c": 3.0}, 1.0),
    ({"a": 1.0, "b": 1.0, "c": 3.0}, 0.5),
    ({"a": 2.0, "b": 1.0, "c": 1.0}, 0.0),
  ],
)
def test_ties_count_by_chance_and_length_does_not_matter(cost, expected):
  loss_V = np.full(TOK.vocab_size, 9.0)
  for letter, value in cost.items():
    loss_V[ids(letter)] = value
  one = make_set([Question("?", ("b", "aaaa", "cc"), 1)])
  bpb, accuracy = score(one, loss_V)
  assert accuracy == expected
  assert bpb == pytest.approx(cost["a"] / math.log(2))


def test_single_questions_add_up_to_the_score():
  one = make_set()
  found = full_score(one)
  assert found.answered is not None
  nats_Q, won_Q = found.answered
  by_question = [LOSS_V[ids(q.choices[q.answer])].sum() for q in ASKED]
  np.testing.assert_allclose(nats_Q, by_question, rtol=1e-6)
  assert nats_Q.sum() / math.log(2) / one.bytes_Q.sum() == pytest.approx(
    found.bpb
  )
  several = [len(q.choices) > 1 for q in ASKED]
  np.testing.assert_array_equal(~np.isnan(won_Q), several)
  assert np.nanmean(won_Q) == pytest.approx(found.accuracy)


def test_rules_that_read_no_question():
  one = make_set(
    [
      Question("?", ("b", "aaaa", "cc"), 1),
      Question("?", ("open",), 0),
      Question("?", ("bb", "a", "a"), 2),
      Question("?", ("bb", "a"), 0),
    ]
  )
  expected = {
    "choice 1": (0, 0, 1),
    "choice 2": (1, 0, 0),
    "choice 3": (0, 1, 0.5),  # of two choices no third one: by chance
    "shortest": (0, 0.5, 0),
    "longest": (1, 0, 1),
  }
  found = answers.unread(one)
  assert {name: tuple(won_Q) for name, won_Q in found.items()} == expected


def test_open_answers_have_no_accuracy():
  asked = make_asked(most=1)
  bpb, accuracy = score(make_set(asked))
  nats = sum(LOSS_V[ids(q.choices[0])].sum() for q in asked)
  num_bytes = sum(len(q.choices[0].encode()) for q in asked)
  assert bpb == pytest.approx(nats / math.log(2) / num_bytes)
  assert math.isnan(accuracy)


@pytest.mark.parametrize("rows", [1, 7, 200])
def test_chunking_does_not_matter(rows):
  one = make_set(rows=rows)
  assert (
    one.batches.tokens_BT.shape[1:] == one.choice_CBT.shape[1:] == (rows, T)
  )
  np.testing.assert_allclose(score(one), score(make_set()), rtol=1e-12)


@pytest.mark.parametrize("max_tokens", [1, 300, 600])
def test_a_set_is_the_first_whole_questions_in_the_order_of_keys(max_tokens):
  one = make_set(max_tokens=max_tokens)
  first = np.argsort(keys(range(len(ASKED))))[: one.num_questions]
  assert chosen(one) == sorted(first)
  assert one.num_tokens <= max_tokens or one.num_questions == 1
  assert one.num_questions == 1 if max_tokens == 1 else one.num_questions > 1
  expected = by_hand([ASKED[i] for i in first])[0]
  assert score(one)[0] == pytest.approx(expected)


def test_the_order_of_questions_does_not_matter():
  order = np.random.default_rng(2).permutation(len(ASKED))
  one, other = make_set(max_tokens=600), make_set(ASKED, order, max_tokens=600)
  assert sorted(order[chosen(other)]) == chosen(one)
  np.testing.assert_allclose(score(other), score(one), rtol=1e-12)
