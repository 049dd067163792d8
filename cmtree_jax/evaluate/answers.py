"""Answers on frozen questions: bits per byte of the right one, and accuracy.

A model reads every choice in a sequence of its own: end-of-text, prompt, choice. Only
the tokens of choices count, and no end-of-text after them. Q counts the questions
that are asked, A their choices, one question's after the other's, and P the pieces
that sequences are cut into where they are longer than a row.
"""

from typing import NamedTuple

import numpy as np

from cmtree_jax.data.draw.batch import Batch
from cmtree_jax.data.read.questions import Questions
from cmtree_jax.evaluate import perplexity

# Equal text in two rows has equal losses up to float32 rounding.
_TIE = 1e-6


class AnswerSet(NamedTuple):
  """A frozen set of rows of questions, each once with every choice."""

  batches: Batch  # [C, B, T]; documents are questions of the split
  choice_CBT: np.ndarray  # int32, in A, that a token spells; -1: none
  question_A: np.ndarray  # int64, in Q
  right_A: np.ndarray  # bool
  bytes_A: np.ndarray  # int64, UTF-8 bytes of the choice
  num_tokens: int  # of all sequences
  num_cut: int  # questions with a choice that does not have its whole prompt
  num_continued: int  # questions with a choice that goes on in another row

  @property
  def num_questions(self) -> int:
    """Q."""
    return int(self.right_A.sum())

  @property
  def count_Q(self) -> np.ndarray:
    """The choices of each question; one: an open answer."""
    return np.bincount(self.question_A)

  @property
  def bytes_Q(self) -> np.ndarray:
    """UTF-8 bytes of each right choice."""
    return self.bytes_A[self.right_A]


class Answered(NamedTuple):
  """What a model makes of single questions; intervals are over these."""

  nats_Q: np.ndarray  # of the right choice
  won_Q: np.ndarray  # 1: the right choice is preferred; NaN: an open answer


class Score(NamedTuple):
  """How a model does on a frozen set."""

  bpb: float  # bits per byte: of right answers, or of texts
  accuracy: float  # NaN where no question has several choices
  answered: Answered | None = None  # None: of texts


def answer_set(
  questions: Questions,
  key_N: np.ndarray,
  *,
  max_tokens: int,
  rows: int,
  row_tokens: int,
) -> AnswerSet:
  """The first whole questions, in an order keyed by id, up to `max_tokens`.

  A choice longer than a row is continued in further rows, each read without what
  stands before it, as documents are in training. A prompt is cut from the left, so
  that it needs no row beyond those of its choice.

  Args:
    questions: of a target's split.
    key_N: hashes of their ids.
    max_tokens: limit, of prompts and choices; at least one question is taken.
    rows: rows per chunk, padded at the end of the last chunk.
    row_tokens: T.
  """
  wanted_A, kept_A = _lengths(questions, row_tokens)
  first_Q = questions.first_Q
  chosen = _chosen(np.add.reduceat(kept_A, first_Q), key_N, max_tokens)
  index_A = np.concatenate(
    [first_Q[i] + np.arange(questions.count_Q[i]) for i in chosen]
  )
  question_A = np.repeat(np.arange(len(chosen)), questions.count_Q[chosen])
  right_A = np.isin(index_A, first_Q + questions.right_Q)
  row_of, choice_RT = _rows(
    questions, index_A, chosen[question_A], kept_A[index_A], row_tokens
  )
  chunks = -(-len(choice_RT) // rows)

  def in_chunks(x_RT, padding):
    more = chunks * rows - len(x_RT)
    x_RT = np.pad(x_RT, ((0, more), (0, 0)), constant_values=padding)
    return x_RT.reshape(chunks, rows, row_tokens)

  cut_A = (kept_A < wanted_A)[index_A]
  continued_A = (kept_A > row_tokens)[index_A]
  return AnswerSet(
    batches=Batch(*map(in_chunks, row_of, (0, 0, -1, -1))),
    choice_CBT=in_chunks(choice_RT, -1),
    question_A=question_A,
    right_A=right_A,
    bytes_A=questions.choices.bytes_N[index_A],
    num_tokens=int(kept_A[index_A].sum()),
    num_cut=len(np.unique(question_A[cut_A])),
    num_continued=len(np.unique(question_A[continued_A])),
  )


def score(loss_CBT: np.ndarray, one: AnswerSet) -> Score:
  """The score of a model, from its loss of every token in nats.

  Accuracy is the share of questions whose right choice has the fewest nats per
  byte of all choices, so that long ones are not at a disadvantage. A tie of k
  choices counts 1/k if the right one is among them.

  Args:
    loss_CBT: of the set's batches.
    one: the set.
  """
  inside = one.choice_CBT >= 0
  nats_A = np.bincount(
    one.choice_CBT[inside],
    np.asarray(loss_CBT, np.float64)[inside],
    minlength=len(one.bytes_A),
  )
  right = one.right_A
  bpb = perplexity.bits_per_byte(
    float(nats_A[right].sum()), int(one.bytes_A[right].sum())
  )
  won_Q = _won(nats_A / one.bytes_A, one)
  several_Q = one.count_Q > 1
  accuracy = float(won_Q[several_Q].mean()) if several_Q.any() else float("nan")
  answered = Answered(nats_A[right], np.where(several_Q, won_Q, np.nan))
  return Score(bpb, accuracy, answered)


def unread(one: AnswerSet) -> dict[str, np.ndarray]:
  """What rules win that read no question: always one place, the shortest, the longest.

  Places and lengths of right choices are seldom even, and a model that knows nothing
  has a taste in both: only what is better than the best of these rules has read.

  Returns:
    Rule -> won_Q, for the questions that have several choices; as `Answered` counts.
  """
  first_A = np.repeat(np.cumsum(one.count_Q) - one.count_Q, one.count_Q)
  place_A = np.arange(len(one.bytes_A)) - first_A
  cost_A = {
    f"choice {place + 1}": place_A != place
    for place in range(place_A.max() + 1)
  }
  cost_A |= {"shortest": one.bytes_A, "longest": 1 / one.bytes_A}
  several_Q = one.count_Q > 1
  return {name: _won(cost, one)[several_Q] for name, cost in cost_A.items()}


def _won(cost_A: np.ndarray, one: AnswerSet) -> np.ndarray:
  """1 where the right choice costs least; a tie of k that it is in counts 1/k."""
  count_Q = one.count_Q
  least_Q = np.minimum.reduceat(cost_A, np.cumsum(count_Q) - count_Q)
  least_A = cost_A <= least_Q[one.question_A] * (1 + _TIE)
  ties_Q = np.bincount(one.question_A, least_A)
  return np.bincount(one.question_A, least_A & one.right_A) / ties_Q


def _lengths(questions: Questions, row_tokens: int):
  """Pairs of every (prompt, choice), and those that are kept of them, [A]."""
  # A stored text of n tokens has n + 1 pairs, the last of which is end-of-text.
  prompt_Q = questions.prompts.pairs_N - 1
  choice_A = questions.choices.pairs_N - 1
  wanted_A = np.repeat(prompt_Q, questions.count_Q) + choice_A
  return wanted_A, np.minimum(wanted_A, -(-choice_A // row_tokens) * row_tokens)


def _chosen(tokens_Q, key_N, max_tokens: int) -> np.ndarray:
  order_Q = np.argsort(key_N, kind="stable")
  within = np.cumsum(tokens_Q[order_Q]) <= max_tokens
  within[0] = True
  return np.sort(order_Q[within])


def _rows(questions: Questions, index_A, document_A, kept_A, row_tokens: int):
  """Packed rows of all sequences: Batch [R, T], and the choice of each token."""
  count_A = -(-kept_A // row_tokens)
  choice_P = np.repeat(np.arange(len(index_A)), count_A)
  start_P = row_tokens * (
    np.arange(len(choice_P)) - np.repeat(np.cumsum(count_A) - count_A, count_A)
  )
  length_P = np.minimum(kept_A[choice_P] - start_P, row_tokens)
  place_P2 = _places(length_P, row_tokens)
  shape = (int(place_P2[:, 0].max()) + 1, row_tokens)
  batch = Batch(*(np.full(shape, x, np.int32) for x in (0, 0, -1, -1)))
  choice_RT = np.full(shape, -1, np.int32)
  for piece, (row, column) in enumerate(place_P2):
    a, start = choice_P[piece], start_P[piece]
    tokens, spells = _sequence(questions, index_A[a], document_A[a], kept_A[a])
    to = np.s_[row, column : column + length_P[piece]]
    stop = start + length_P[piece]
    batch.tokens_BT[to] = tokens[start:stop]
    batch.label_BT[to] = tokens[start + 1 : stop + 1]
    batch.segment_BT[to] = piece
    batch.document_BT[to] = document_A[a]
    choice_RT[to] = np.where(spells[start:stop], a, -1)
  return batch, choice_RT


def _sequence(questions: Questions, index, question, kept):
  """The last `kept` + 1 tokens; which of the labels are of the choice."""
  prompts, choices = questions.prompts, questions.choices
  begin, end = prompts.start_N1[question : question + 2]
  first, last = choices.start_N1[index : index + 2]
  choice = choices.flat[first + 1 : last - 1]
  tokens = np.concatenate([prompts.flat[begin : end - 1], choice])
  spells = np.arange(kept) >= kept - len(choice)
  return tokens[-(kept + 1) :].astype(np.int32), spells


def _places(length_P: np.ndarray, row_tokens: int) -> np.ndarray:
  """(row, column) of every piece: long ones first, each where least room is left."""
  rows_of: list[list[int]] = [
    [] for _ in range(row_tokens + 1)
  ]  # by their room
  place_P2 = np.empty((len(length_P), 2), np.int64)
  num_rows = 0
  for piece in np.argsort(-length_P, kind="stable"):
    length = int(length_P[piece])
    room = next((r for r in range(length, row_tokens) if rows_of[r]), None)
    if room is None:
      row, room = num_rows, row_tokens
      num_rows += 1
    else:
      row = rows_of[room].pop()
    place_P2[piece] = row, row_tokens - room
    rows_of[room - length].append(row)
  return place_P2
