"""Targets: texts and questions by split, and what stops a reader."""

import gzip
import json
import pathlib

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cmtree_jax.data import store
from cmtree_jax.data.read import targets
from cmtree_jax.data.read.fields import Rules
from cmtree_jax.types import Question, Target, UserError

RULES = Rules("text", "id", "source", 10_000)
TEXTS = [
  {"text": "learn", "split": "train"},
  {"text": "tune", "split": "valid"},
  {"text": "report", "split": "test"},
]


def question(
  split: str, asked: str | None = "2 + 2?", **fields: object
) -> dict:
  choices = ["three", "four"]
  first = {"split": split, "question": asked, "choices": choices, "answer": 1}
  return {key: x for key, x in {**first, **fields}.items() if x is not None}


def write(path: pathlib.Path, *lines: object) -> pathlib.Path:
  data = b"".join(
    (x if isinstance(x, bytes) else json.dumps(x).encode()) + b"\n"
    for x in lines
  )
  pack = {".gz": gzip.compress, ".zst": pa.Codec("zstd").compress}
  path.write_bytes(pack.get(path.suffix, bytes)(data))
  return path


def refusal(path: object) -> str:
  with pytest.raises(UserError) as caught:
    targets.read(str(path), RULES)
  assert "\n" not in str(caught.value)
  assert len(str(caught.value)) < 600
  return str(caught.value)


@pytest.mark.parametrize(
  "name", ["t.jsonl", "t.jsonl.gz", "t.ndjson.zst", "t.json"]
)
def test_texts_by_split_and_a_name_without_extensions(tmp_path, name):
  path = write(tmp_path / name, *TEXTS, {"text": "more", "split": "train"})
  expected = Target("t", ("learn", "more"), ("tune",), ("report",), {})
  for address in (str(path), f"jsonl:{path}"):
    assert targets.read(address, RULES) == (expected, [], ())


@pytest.mark.parametrize("prefix", ["", "parquet:"])
def test_parquet_holds_the_same(tmp_path, prefix):
  lines = [question(split, f"{split}?") for split in ("train", "valid", "test")]
  same = write(tmp_path / "t.jsonl", *lines)
  path = tmp_path / "t.parquet"
  pq.write_table(pa.Table.from_pylist(lines), path)
  found = targets.read(f"{prefix}{path}", RULES)
  assert found == targets.read(str(same), RULES)
  assert found[0].questions["test"][0].answer == 1


def test_question_is_laid_out_and_the_answer_completes_it(tmp_path):
  path = write(
    tmp_path / "t.jsonl",
    question("train", context="Count."),
    question("valid", answer="four"),
    question("test", answer=0),
  )
  target, skips, _ = targets.read(str(path), RULES)
  assert skips == []
  prompt = "Question: 2 + 2?\n(A) three\n(B) four\nAnswer:"
  choices = (" (A) three", " (B) four")
  assert target.questions == {
    "train": (Question(f"Count.\n{prompt}", choices, 1),),
    "validation": (Question(prompt, choices, 1),),
    "test": (Question(prompt, choices, 0),),
  }
  assert target.train == (f"Count.\n{prompt} (B) four",)
  assert target.validation == (f"{prompt} (B) four",)
  assert target.test == (f"{prompt} (A) three",)


def test_text_of_a_question_may_be_given(tmp_path):
  lines = [
    question(split, text=f"Four. {split}")
    for split in ("train", "valid", "test")
  ]
  target, *_ = targets.read(str(write(tmp_path / "t.jsonl", *lines)), RULES)
  assert target.train == ("Four. train",)
  assert target.questions["train"][0].prompt.startswith("Question: 2 + 2?")


def ask(text: str, **fields: object) -> list[dict]:
  """A line for each split; `question` and `answer` beside a text."""
  return [
    {"text": f"{split} {text}", "question": "2+2?", "split": split, **fields}
    for split in ("train", "valid", "test")
  ]


@pytest.mark.parametrize(
  ("text", "answer", "choice"),
  [
    ("Q: 2+2? A: 4 4", "4", " 4"),
    ('def f():\n  """F."""\n  return 1', "  return 1", "\n  return 1"),
    # White space after the answer is none of it, on whichever side it stands.
    ("Q: 2+2? A: 4\n", "4", " 4"),
    ("Q: 2+2? A: 4 \r\n", "4", " 4"),
    ("Q: 2+2? A: 4", "4\n", " 4"),
    ("Q: 2+2? A: 4", " 4 ", " 4"),
    ("return 1\n", "return 1\n", " return 1\n"),
    # Numbers as they are written, tables' too.
    ("Q: 2+2? A: 4", 4, " 4"),
    ("Q: 2+2? A: -4.5", -4.5, " -4.5"),
    ("Q: 2+2? A: 4", 4.0, " 4"),
    ("Q: 2+2? A: 4.0", 4.0, " 4.0"),
  ],
)
def test_an_open_answer_is_what_its_text_ends_with(
  tmp_path, text, answer, choice
):
  lines = ask(text, answer=answer)
  found = targets.read(str(write(tmp_path / "t.jsonl", *lines)), RULES)
  assert (found.skips, found.notes) == ([], ())
  for line, split in zip(lines, store.SPLITS, strict=True):
    (one,), (whole,) = (
      found.target.questions[split],
      getattr(found.target, split),
    )
    assert one.choices == (choice,)
    assert one.prompt + choice == whole
    assert line["text"].startswith(whole)
    assert not line["text"].removeprefix(whole).strip()


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
@pytest.mark.parametrize(
  ("fields", "why"),
  [
    ({"question": None, "answer": "report"}, "no 'question'"),
    ({"question": " ", "answer": "report"}, "no 'question'"),
    ({"answer": "other"}, "does not end with its answer"),
    ({"answer": "REPORT"}, "does not end with its answer"),
    ({"answer": 0}, "does not end with its answer"),
    ({"answer": ["report"]}, "neither text nor number"),
    ({"answer": True}, "neither text nor number"),
    ({}, None),
    ({"answer": None}, None),
    ({"answer": " "}, None),
    ({"answer": float("nan")}, None),
  ],
)
def test_answers_that_are_not_scored_are_told(tmp_path, kind, fields, why):
  lines = ask("report", **fields)
  path = tmp_path / f"t.{kind}"
  if kind == "parquet":
    pq.write_table(pa.Table.from_pylist(lines), path)
  else:
    write(path, *lines)
  target, skips, notes = targets.read(str(path), RULES)
  assert (target.questions, skips) == ({}, [])
  assert target.test == (lines[2]["text"],)
  assert len(notes) == (why is not None)
  if why:
    assert f"{path}: its 3 texts are scored whole" in notes[0]
    assert why in notes[0]
    assert (
      f"first in {path}, {'line' if kind == 'jsonl' else 'row'} 1" in notes[0]
    )


def test_answers_and_whole_texts_are_not_scored_in_one_number(tmp_path):
  """Most lines decide; the others are left out or no answer is scored."""
  good, bad = ask("A: 4", answer="4"), ask("A: four", answer="4")
  some = write(tmp_path / "some.jsonl", *good, *good, bad[2])
  target, skips, notes = targets.read(str(some), RULES)
  assert notes == ()
  assert [one.kind for one in skips] == [
    "a text that does not end with its answer"
  ]
  assert skips[0].where == f"{some}, line 7"
  assert f"as that of {some}, line 1 does" in skips[0].message
  assert target.test == ("test A: 4",) * 2
  assert all(len(target.questions[x]) == 2 for x in store.SPLITS)
  few = write(tmp_path / "few.jsonl", good[2], *bad)
  target, skips, (note,) = targets.read(str(few), RULES)
  assert (target.questions, skips) == ({}, [])
  assert target.test == ("test A: 4", "test A: four")
  assert (
    f"3 times a text that does not end with its answer, first in {few}" in note
  )
  bare = [{"text": f"{x['split']} B", "split": x["split"]} for x in bad]
  target, skips, (note,) = targets.read(
    str(write(tmp_path / "bare.jsonl", good[2], *bare)), RULES
  )
  assert (target.questions, skips) == ({}, [])
  assert "3 lines without an answer" in note


def test_texts_may_stand_in_a_field_of_the_targets_own(tmp_path):
  path = write(tmp_path / "t.jsonl", *TEXTS)
  rules = RULES._replace(text_field="body")
  assert targets.read(str(path), rules) == targets.read(str(path), RULES)
  pq.write_table(pa.Table.from_pylist(TEXTS), tmp_path / "t.parquet")
  assert targets.read(str(tmp_path / "t.parquet"), rules).target.test == (
    "report",
  )
  both = [{**one, "body": one["text"] * 2} for one in TEXTS]
  target, _, _ = targets.read(str(write(path, *both)), rules)
  assert target.test == ("reportreport",)


def test_choices_and_open_answers_do_not_mix(tmp_path):
  line = {"text": "a b", "question": "a", "answer": "b", "split": "test"}
  message = refusal(write(tmp_path / "t.jsonl", line, question("train")))
  assert "line 1: wanted 'choices' as in" in message


UNUSABLE = {
  "empty": ({"text": "", "split": "test"}, "an empty text", "came ''"),
  "no text": (
    {"question": "2 + 2?", "answer": "four", "split": "test"},
    "no text in the field 'text'",
    "no such field",
  ),
  "syntax": (b'{"text"', "invalid JSON", """came '{"text"'"""),
  "no question": (question("test", None), "no question", "no such field"),
  "blank question": (question("test", " "), "no question", "came ' '"),
  "one choice": (question("test", choices=["a"]), "no choices", "2 to 26"),
  "many choices": (
    question("test", choices=[str(x) for x in range(27)]),
    "no choices",
    "2 to 26",
  ),
  "numbers": (question("test", choices=[1, 2]), "no choices", "came [1, 2]"),
  "string": (question("test", choices="ab"), "no choices", "came 'ab'"),
  "surrogate": (
    b'{"split": "test", "question": "x", "choices": ["a", "\\ud800"],'
    b' "answer": 0}',
    "invalid Unicode",
    "'choices'",
  ),
  "no answer": (
    question("test", answer=None),
    "no answer among the choices",
    "no such field",
  ),
  "index": (
    question("test", answer=2),
    "no answer among the choices",
    "came 2",
  ),
  "negative": (
    question("test", answer=-1),
    "no answer among the choices",
    "came -1",
  ),
  "truth": (
    question("test", answer=True),
    "no answer among the choices",
    "came True",
  ),
  "other text": (
    question("test", answer="five"),
    "no answer among the choices",
    "came 'five'",
  ),
  "two of one text": (
    question("test", choices=["a", "a"], answer="a"),
    "no answer among the choices",
    "came 'a'",
  ),
}


@pytest.mark.parametrize("name", UNUSABLE)
def test_unusable_line_is_told(tmp_path, name):
  line, kind, fact = UNUSABLE[name]
  path = write(tmp_path / "t.jsonl", *TEXTS, line)
  target, (problem,), _ = targets.read(str(path), RULES)
  assert target == Target("t", ("learn",), ("tune",), ("report",), {})
  assert problem.kind == kind
  assert problem.where == f"{path}, line 4"
  assert fact in problem.message


@pytest.mark.parametrize("split", ["dev", None, 3, ["train"], "Train"])
def test_unknown_split(tmp_path, split):
  path = write(tmp_path / "t.jsonl", *TEXTS, {"text": "x", "split": split})
  message = refusal(path)
  assert message.startswith(f"{path}, line 4: ")
  assert "train, validation and test" in message
  assert f"came {split!r}" in message


def test_absent_split(tmp_path):
  message = refusal(write(tmp_path / "t.jsonl", {"text": "x"}))
  assert "line 1" in message
  assert "came no such field" in message


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_split_without_documents(tmp_path, split):
  kept = [x for x in TEXTS if not split.startswith(x["split"])]
  path = write(tmp_path / "t.jsonl", *kept)
  message = refusal(path)
  assert message.startswith(f"{path}: ")
  assert f"none for {split!r}" in message
  assert f"0 {split}" in message
  assert f'"split": "{split}"' in message


def test_split_whose_documents_are_all_skipped_says_why(tmp_path):
  lines = [*TEXTS[:2], {"text": " ", "split": "test"}]
  message = refusal(write(tmp_path / "t.jsonl", *lines))
  assert "none for 'test'" in message
  assert "1 not used" in message
  assert "line 3: wanted a text" in message


@pytest.mark.parametrize(
  ("first", "second", "kept"),
  [
    ("train", "test", "test"),
    ("test", "train", "test"),
    ("valid", "train", "validation"),
    ("test", "valid", "test"),
  ],
)
def test_text_in_two_splits_stays_in_the_later(tmp_path, first, second, kept):
  path = write(
    tmp_path / "t.jsonl",
    {"text": "twice", "split": first},
    *TEXTS,
    {"text": "twice", "split": second},
  )
  target, (problem,), _ = targets.read(str(path), RULES)
  found = {x: getattr(target, x).count("twice") for x in store.SPLITS}
  assert found == {**dict.fromkeys(store.SPLITS, 0), kept: 1}
  assert problem.kind == "a text in two splits"
  assert {f"{path}, line 1", f"{path}, line 5"} == {
    problem.where,
    problem.message.split(" that ")[1].split(" has ")[0],
  }


def test_text_twice_in_one_split_is_no_leak(tmp_path):
  path = write(tmp_path / "t.jsonl", *TEXTS, TEXTS[2])
  target, skips, _ = targets.read(str(path), RULES)
  assert target.test == ("report", "report")
  assert skips == []


def test_questions_and_texts_do_not_mix(tmp_path):
  path = write(tmp_path / "t.jsonl", *TEXTS, question("train"))
  message = refusal(path)
  assert message.startswith(f"{path}, line 1: wanted 'choices' as in")
  assert f"{path}, line 4" in message


@pytest.mark.parametrize("name", ["t.jsonl.gz", "t.jsonl.zst", "t.parquet"])
def test_target_that_is_not_whole(tmp_path, name):
  path = tmp_path / name
  if path.suffix == ".parquet":
    pq.write_table(pa.Table.from_pylist(TEXTS * 9), path)
  else:
    write(path, *TEXTS * 9)
  path.write_bytes(path.read_bytes()[:-9])
  assert refusal(path).endswith("copy or make it again.")


def test_target_that_is_not_there(tmp_path):
  message = refusal(tmp_path / "absent.jsonl")
  assert message.startswith(f"{tmp_path}/absent.jsonl: ")
  assert "came no file; check the path" in message
