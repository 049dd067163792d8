"""What models are scored on: rows of the targets' documents that never change."""

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from cmtree_jax.data.build.prepare import DocumentSet
from cmtree_jax.evaluate import answers, perplexity


class SetPlan(NamedTuple):
  """How large a frozen set is, and how it is cut."""

  max_tokens: int  # of whole documents, or of prompts and choices
  rows: int  # per chunk
  row_tokens: int


def texts(
  documents: Iterable[DocumentSet], plan: SetPlan
) -> tuple[perplexity.EvalSet, ...]:
  """A frozen set of each target's documents."""
  return tuple(
    perplexity.eval_set(one.tokens, one.key_N, **plan._asdict())
    for one in documents
  )


def scored(
  documents: Mapping[str, DocumentSet],
  plan: SetPlan,
  say: Callable[[str], None],
) -> tuple[perplexity.EvalSet | answers.AnswerSet, ...]:
  """What final trainings are scored on: answers of each, or texts without any.

  Args:
    documents: of targets, by a name for people.
    plan: of every set.
    say: told of prompts and choices that do not fit into a row.
  """
  sets: list[perplexity.EvalSet | answers.AnswerSet] = []
  for name, one in documents.items():
    if one.questions is None:
      sets += texts([one], plan)
      continue
    asked = answers.answer_set(one.questions, one.key_N, **plan._asdict())
    for count, what in (
      (asked.num_cut, "their prompts cut to fit into"),
      (asked.num_continued, "choices that go on, without a prompt, in further"),
    ):
      if count:
        say(
          f"{name}: {count} of {asked.num_questions} questions have {what} rows of "
          f"{plan.row_tokens} tokens."
        )
    sets.append(asked)
  return tuple(sets)
