"""Types that cross folder boundaries: errors, documents, batches and weights.

Everything here is data; the functions that make and use it live in the folders.
"""

from typing import NamedTuple


class UserError(ValueError):
  """The caller's mistake, told in one line: what was wanted, what came, what to do.

  `main` prints the message without a traceback and exits with status 2.
  """


class Fault(RuntimeError):
  """Something broke that the user did not ask for, such as a loss that is not finite.

  `main` prints the message without a traceback and exits with status 1.
  """


class Interrupted(Exception):
  """The job was asked to stop (SIGTERM or Ctrl-C) and has saved its state."""


class Document(NamedTuple):
  """One text of the pool, with what a learner may see of it."""

  id: str  # unique in the corpus; draws are keyed by it
  text: str
  original: str  # the file that it was cut from; splits never cut one


class Label(NamedTuple):
  """What is hidden from every learner: used only to score a partition."""

  source: str
  domain: str
  language: str  # ISO 639-1 where known, else ""


class Record(NamedTuple):
  """One document as a source hands it over."""

  id: str
  text: str
  original: str  # the file that it was cut from
  source: str  # this and the next two are hidden labels; "" if unknown
  domain: str
  language: str  # ISO 639-1 where known
  where: str = ""  # "pool.jsonl.gz, line 7", for messages


class Skip(NamedTuple):
  """A document, or the rest of a file, that is not used, and why."""

  kind: str  # what is counted, such as "invalid JSON"
  where: str  # "pool.jsonl.gz, line 7" or "a.parquet, row 12"
  message: str  # what was wanted, what came, what to do
  documents: int = 1  # how many are lost; of what cannot be counted, one


class LostLabel(NamedTuple):
  """A label that is left empty, though its document is used, and why."""

  kind: str  # what is counted
  where: str
  message: str


class Question(NamedTuple):
  """A prompt and how it may go on; `prompt + choices[answer]` is the whole text."""

  prompt: str
  choices: tuple[str, ...]  # what may follow the prompt; one: an open answer
  answer: int  # index of the right choice


class Target(NamedTuple):
  """A task that the corpus should serve, as frozen splits of texts."""

  name: str
  train: tuple[str, ...]  # drives the search
  validation: tuple[str, ...]  # accepts or refuses changes, chooses methods
  test: tuple[str, ...]  # read once, for tables
  # For each split the questions, in the order of its texts; empty for plain text.
  questions: dict[str, tuple[Question, ...]] = {}  # noqa: RUF012


class RawCorpus(NamedTuple):
  """What a source hands over, before tokenization; `documents` sorted by id."""

  documents: tuple[Document, ...]
  targets: dict[str, Target]
  labels: tuple[Label, ...] | None  # aligned with `documents`; None if unknown
  notes: tuple[str, ...]  # what a person must be told, such as counts of skips
