"""What models are scored on: rows of the targets' documents that never change."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from cmtree_jax.data.build.prepare import DocumentSet
from cmtree_jax.evaluate import answers, perplexity


def texts(
  documents: Iterable[DocumentSet], config: Any, *, max_tokens: int
) -> tuple[perplexity.EvalSet, ...]:
  """A frozen set of each target's documents, whole ones up to `max_tokens`."""
  return tuple(
    perplexity.eval_set(
      one.tokens,
      one.key_N,
      max_tokens=max_tokens,
      rows=config.evaluate.rows,
      row_tokens=config.batch.row_tokens,
    )
    for one in documents
  )


def scored(
  documents: Mapping[str, DocumentSet],
  config: Any,
  say: Callable[[str], None],
) -> tuple[perplexity.EvalSet | answers.AnswerSet, ...]:
  """What final trainings are scored on: answers of each, or texts without any.

  Args:
    documents: of targets, by a name for people.
    config: of the job.
    say: told of prompts that do not fit into a row.
  """
  sets: list[perplexity.EvalSet | answers.AnswerSet] = []
  limit, row_tokens = config.evaluate.max_tokens, config.batch.row_tokens
  for name, one in documents.items():
    if one.questions is None:
      sets += texts([one], config, max_tokens=limit)
      continue
    asked = answers.answer_set(
      one.questions,
      one.key_N,
      max_tokens=limit,
      rows=config.evaluate.rows,
      row_tokens=row_tokens,
    )
    if asked.num_cut:
      say(
        f"{name}: {asked.num_cut} of {asked.num_questions} questions have their "
        f"prompts cut to fit into rows of {row_tokens} tokens."
      )
    sets.append(asked)
  return tuple(sets)
