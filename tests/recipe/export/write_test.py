"""A whole export: complete with its manifest, done once, and honest about damage."""

import functools
import json
import os
import subprocess
import sys

import numpy as np
import pyarrow.parquet as pq
import pytest

from cmtree_jax.recipe import export
from cmtree_jax.recipe.export import levanter
from cmtree_jax.types import UserError

FACTS = {
  "config_digest": "c1",
  "corpus_digest": "d2",
  "recipe_digest": "r3",
}
# All but ArrayRecord's, which take seconds to import their libraries.
LIGHT = ("doremi", "jsonl", "levanter", "megatron", "olmo", "parquet", "seqio")


def refusal(*args) -> str:
  """The message with which `write` stops; one line."""
  with pytest.raises(UserError) as caught:
    export.write(*args)
  assert "\n" not in str(caught.value)
  return str(caught.value)


def content(folder):
  return {
    p.relative_to(folder).as_posix(): (p.read_bytes(), p.stat().st_mtime_ns)
    for p in folder.rglob("*")
    if p.is_file()
  }


def test_manifest_lists_every_file_and_says_what_is_in_it(
  corpus, capped, options, merged, tmp_path
):
  folder = tmp_path / "out"
  paths = export.write(folder, list(export.EXPORTERS), corpus, options, FACTS)
  on_disk = sorted(p for p in folder.rglob("*") if p.is_file())
  assert sorted(paths) == on_disk
  found = json.loads((folder / "manifest.json").read_text())
  names = [p.relative_to(folder).as_posix() for p in on_disk]
  assert sorted([*found["files"], "manifest.json"]) == sorted(names)
  assert found["format"] == 2
  assert found["inputs"]["facts"] == FACTS
  assert found["inputs"]["options"] == {
    **options._asdict(),
    "budget": options.budget._asdict(),
    "root": str(folder),
  }
  assert found["budget"] == options.budget.to_json()
  assert found["cap"] == {
    "documents_at_cap": 0,
    "max_weight": pytest.approx(100 * corpus.total_tokens / 2_000),
    "moved": pytest.approx(0, abs=1e-12),
  }
  count_N = np.concatenate(capped.repeats)
  expected = merged.weight_N @ merged.num_tokens_N
  expected *= options.budget.epochs
  assert found["counts"]["resampled"] == {
    "expected_tokens": pytest.approx(expected),
    "documents": count_N.sum(),
    "tokens": count_N @ merged.num_tokens_N,
  }
  assert found["counts"]["documents"] == 60
  assert found["counts"]["tokens"] == corpus.total_tokens
  assert found["omitted"] == {"unserved": "no share", "bare": "no tokens"}
  assert list(found["leaves"]) == sorted(corpus.leaf_names)
  for name, leaf in found["leaves"].items():
    of_leaf = merged.leaf_N == corpus.leaf_names.index(name)
    tokens = merged.num_tokens_N[of_leaf].sum()
    share = capped.mixture[name]
    assert leaf["documents"] == of_leaf.sum()
    assert leaf["tokens"] == tokens
    assert leaf["share"] == pytest.approx(share)
    assert leaf["epochs"] == pytest.approx(share * 2_000 / max(tokens, 1))
    assert leaf["resampled"]["documents"] == count_N[of_leaf].sum()


def test_what_weights_are_of_is_said_for_every_format(
  corpus, options, tmp_path
):
  names = ["doremi", "maxtext", "parquet"]
  export.write(tmp_path / "out", names, corpus, options, FACTS)
  found = json.loads((tmp_path / "out" / "manifest.json").read_text())
  told = found["weights_are"]
  assert told == {name: export.WEIGHTS_ARE[name] for name in names}
  assert set(export.WEIGHTS_ARE) == set(export.EXPORTERS)
  leaves = {k: one for k, one in found["leaves"].items() if one["share"]}

  def written(file):
    return json.loads((tmp_path / "out" / file).read_text())

  assert "share of the training tokens" in told["doremi"]
  shares = written("doremi.json")["train_domain_weights"]
  assert shares == pytest.approx({k: one["share"] for k, one in leaves.items()})
  assert "share of the documents drawn" in told["maxtext"]
  rates = {
    k: one["share"] * one["documents"] / one["tokens"]
    for k, one in leaves.items()
  }
  mixture = written("maxtext_mixture.json")
  drawn = {name: one["weight"] for name, one in mixture.items()}
  total = sum(rates.values())
  assert drawn == pytest.approx({k: one / total for k, one in rates.items()})
  # The weights of documents are one in the mean over the natural tokens.
  table = pq.read_table(tmp_path / "out" / "parquet/weights.parquet")
  weight_N, tokens_N = table["weight"].to_numpy(), table["tokens"].to_numpy()
  assert "Of each document" in told["parquet"]
  assert weight_N @ tokens_N / tokens_N.sum() == pytest.approx(1)


def test_leaves_that_are_never_drawn_are_told(
  corpus, options, tmp_path, monkeypatch
):
  args = (["levanter"], corpus, options, FACTS)
  export.write(tmp_path / "out", *args)
  assert "never draws" not in export.told(tmp_path / "out")
  monkeypatch.setattr(levanter, "_MOST", 5)
  export.write(tmp_path / "few", *args)
  assert "in a block of 5: " in export.told(tmp_path / "few")


def test_second_run_does_nothing(corpus, options, tmp_path):
  folder = tmp_path / "out"
  first = export.write(folder, LIGHT, corpus, options, FACTS)
  before = content(folder)

  def unreadable():
    raise AssertionError("the corpus is read again")

  corpus = corpus._replace(parts=(unreadable,))
  # The order of formats is no difference.
  second = export.write(folder, LIGHT[::-1], corpus, options, FACTS)
  assert sorted(second) == sorted(first)
  assert content(folder) == before


def test_two_exports_of_the_same_inputs_are_equal(corpus, options, tmp_path):
  options = options._replace(root="gs://bucket")
  for name in ("a", "b"):
    export.write(tmp_path / name, LIGHT, corpus, options, FACTS)
  first, second = (
    {k: data for k, (data, _) in content(tmp_path / name).items()}
    for name in ("a", "b")
  )
  assert first == second


@pytest.mark.parametrize(
  ("damage", "fault"),
  [
    (lambda path: path.unlink(), "doremi.json is missing"),
    (lambda path: path.write_text("{}"), r"doremi.json has 2 bytes, not \d+"),
    (
      lambda path: path.write_text(path.read_text().replace("0", "1", 1)),
      "doremi.json has other content",
    ),
  ],
)
def test_damage_is_noticed(corpus, options, tmp_path, damage, fault):
  args = (tmp_path / "out", ["doremi"], corpus, options, FACTS)
  export.write(*args)
  assert export.verify(tmp_path / "out") == []
  damage(tmp_path / "out" / "doremi.json")
  (found,) = export.verify(tmp_path / "out")
  message = refusal(*args)
  assert found in message
  assert "Remove the folder" in message
  with pytest.raises(UserError, match=fault):
    export.write(*args)


def test_damaged_manifest(corpus, options, tmp_path):
  args = (tmp_path / "out", ["doremi"], corpus, options, FACTS)
  export.write(*args)
  path = tmp_path / "out" / "manifest.json"
  text = path.read_text()
  path.write_text(text[: len(text) // 2])
  assert f"{path}: wanted the manifest of an export" in refusal(*args)
  path.write_text('{"format": 2, "inputs": {}, "files": []}')
  assert f"{path}: wanted the manifest of an export" in refusal(*args)
  path.write_text(text.replace('"format": 2', '"format": 1'))
  assert f"{path}: wanted format 2, came 1" in refusal(*args)


@pytest.mark.parametrize(
  ("change", "fact"),
  [
    ({"options": {"seed": 9}}, "options.seed 3; wanted 9"),
    ({"budget": {"tokens": 1_999}}, "options.budget.tokens 2000; wanted 1999"),
    (
      {"facts": {"corpus_digest": "other"}},
      f'facts.corpus_digest "{FACTS["corpus_digest"]}"; wanted "other"',
    ),
    (
      {"formats": ["doremi", "jsonl"]},
      'formats ["doremi"]; wanted ["doremi", "jsonl"]',
    ),
  ],
)
def test_another_export_is_not_overwritten(
  corpus, options, tmp_path, change, fact
):
  folder = tmp_path / "out"
  export.write(folder, ["doremi"], corpus, options, FACTS)
  before = content(folder)
  message = refusal(
    folder,
    change.get("formats", ["doremi"]),
    corpus,
    options._replace(
      budget=options.budget._replace(**change.get("budget", {})),
      **change.get("options", {}),
    ),
    {**FACTS, **change.get("facts", {})},
  )
  assert f"{folder} holds another export" in message
  assert fact in message
  assert "Remove this folder" in message
  assert content(folder) == before


def test_what_names_no_place_is_the_same_wherever_it_lies(
  corpus, options, tmp_path
):
  old, new = tmp_path / "old", tmp_path / "new"
  here = options._replace(tokenizer=str(old / "tokenizer.bin"))
  there = options._replace(tokenizer=str(new / "tokenizer.bin"))
  export.write(old, ["doremi", "parquet"], corpus, here, FACTS)
  old.rename(new)
  before = content(new)
  paths = export.write(new, ["doremi", "parquet"], corpus, there, FACTS)
  assert content(new) == before
  assert {p.relative_to(new).as_posix() for p in paths} == set(before)
  # Paths of the old place are of no use in the new one.
  export.write(old, ["megatron"], corpus, here, FACTS)
  moved = old.rename(tmp_path / "moved")
  message = refusal(moved, ["megatron"], corpus, there, FACTS)
  assert f'options.root "{old}"; wanted "{moved}"' in message


def test_a_folder_of_something_else_is_left_alone(corpus, options, tmp_path):
  (tmp_path / "thesis.tex").write_text("years of work")
  message = refusal(tmp_path, ["doremi"], corpus, options, FACTS)
  assert f"{tmp_path} is not empty and holds no export" in message
  assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


def test_interrupted_export_is_started_anew(
  corpus, options, tmp_path, monkeypatch
):
  folder = tmp_path / "out"

  def stop(corpus, folder, options):
    (folder / "leaves" / "of_an_older_recipe").mkdir()
    (folder / "leaves" / "of_an_older_recipe" / "part-00000").touch()
    raise KeyboardInterrupt

  with monkeypatch.context() as patch:
    patch.setitem(export.EXPORTERS, "olmo", stop)
    with pytest.raises(KeyboardInterrupt):
      export.write(folder, ["doremi", "olmo"], corpus, options, FACTS)
  assert (folder / "doremi.json").exists()
  assert not (folder / "manifest.json").exists()
  other = options._replace(seed=9)
  paths = export.write(folder, ["doremi", "olmo"], corpus, other, FACTS)
  on_disk = sorted(p for p in folder.rglob("*") if p.is_file())
  assert sorted(paths) == on_disk


def test_kill_leaves_no_manifest_and_no_half_file(tmp_path):
  """Killed inside the second format, by a signal that cannot be caught."""
  code = """
import os, pathlib, signal, sys
import numpy as np
from cmtree_jax.budget import Budget
from cmtree_jax.recipe import export
ids = [str(i) for i in range(2_000)]
one = np.ones(2_000)
shard = export.Shard(ids, ids, one.astype(np.int64), one, np.zeros(2_000, int))
seen = 0
def last():
  global seen
  seen += 1
  if seen == int(sys.argv[2]):
    os.kill(os.getpid(), signal.SIGKILL)
  return export.Shard([], [], *(x[:0] for x in shard[2:]))
corpus = export.Corpus((lambda: shard, last), ("x",), ("0",), 2_000, 2_000)
budget = Budget(4_000, 2_000, 1, 4.0, 15.0, 1)
options = export.Options(budget, 0, "gpt2", "")
formats = ["jsonl", "leaves", "parquet"]
export.write(pathlib.Path(sys.argv[1]), formats, corpus, options, {})
"""

  def run(when: int) -> int:
    command = [sys.executable, "-c", code, tmp_path / "out", str(when)]
    return subprocess.run(command).returncode

  assert run(3) == -9  # the survey, leaves, parquet: in its file
  names = {p.name for p in (tmp_path / "out").rglob("*") if p.is_file()}
  assert "part-00000.jsonl.zst" in names
  assert not names & {"manifest.json", "weights.parquet"}
  assert run(0) == 0
  assert export.verify(tmp_path / "out") == []
  names = {p.name for p in (tmp_path / "out").rglob("*") if p.is_file()}
  assert not [name for name in names if name.startswith(".")]


def test_unknown_format(corpus, options, tmp_path):
  message = refusal(tmp_path, ["olmo", "nemo"], corpus, options, FACTS)
  assert message.startswith("Unknown export format 'nemo'. Known: array_record")
  assert "Known:" in refusal(tmp_path, [], corpus, options, FACTS)


UNUSABLE = {
  "name": (
    {"leaf_names": ("a/b", *"cdefg")},
    ["'a/b'", "file name", "Rename"],
  ),
  "twice": ({"leaf_names": tuple("aacdef")}, ["unique", "a, a, c"]),
  "path": ({"leaf_paths": ("0",)}, ["1 paths for 6 leaves"]),
  "empty": ({"num_documents": 0}, ["documents and tokens", "came 0 and"]),
  "missing": ({"num_documents": 61}, ["61 documents", "came 60", "prepare"]),
  "tokens": ({"total_tokens": 99}, ["99 tokens", "changed"]),
}


@pytest.mark.parametrize("name", UNUSABLE)
def test_a_corpus_that_cannot_be_exported(corpus, options, tmp_path, name):
  change, facts = UNUSABLE[name]
  broken = corpus._replace(**change)
  budget = options.budget._replace(pool_tokens=broken.total_tokens)
  options = options._replace(budget=budget)
  message = refusal(tmp_path / "out", ["jsonl"], broken, options, FACTS)
  for fact in facts:
    assert fact in message
  assert not (tmp_path / "out").exists()


UNSOUND = {
  "weight": ("weight_N", -1.0, ["weight of at least zero", "came -1.0"]),
  "nan": ("weight_N", np.nan, ["finite", "came nan"]),
  "infinite": ("weight_N", np.inf, ["finite", "came inf"]),
  "tokens": ("num_tokens_N", -1, ["number of tokens", "came -1"]),
  "leaf": ("leaf_N", 6, ["a leaf below 6", "came 6"]),
  "text": ("text", "x \ud800", ["Unicode in its text", "position 2"]),
  "id": ("id", "x\udfff", ["Unicode in its id", "position 1"]),
}


@pytest.mark.parametrize("name", UNSOUND)
def test_a_document_that_cannot_be_exported(corpus, options, tmp_path, name):
  field, value, facts = UNSOUND[name]

  def spoiled():
    shard = corpus.parts[2]()
    column = shard._asdict()[field].copy()
    column[5] = value
    return shard._replace(**{field: column})

  parts = (*corpus.parts[:2], spoiled, *corpus.parts[3:])
  broken = corpus._replace(parts=parts)
  message = refusal(tmp_path / "out", ["jsonl"], broken, options, FACTS)
  identity = "x\udfff" if name == "id" else "doc/22 ж"
  for fact in [f"Document {identity!r}: wanted", *facts]:
    assert fact in message
  assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
  ("tokens", "seed", "told"), [(0, 0, "0 and 0"), (-5, 0, "-5"), (1, -1, "-1")]
)
def test_options_that_mean_nothing(
  corpus, options, tmp_path, tokens, seed, told
):
  budget = options.budget._replace(tokens=tokens)
  options = options._replace(budget=budget, seed=seed)
  message = refusal(tmp_path / "out", ["jsonl"], corpus, options, FACTS)
  assert "above zero" in message
  assert told in message


def test_weights_that_are_all_zero_are_refused(corpus, options, tmp_path):
  def nothing(part):
    shard = part()
    return shard._replace(weight_N=0 * shard.weight_N)

  parts = tuple(functools.partial(nothing, part) for part in corpus.parts)
  broken = corpus._replace(parts=parts)
  message = refusal(tmp_path / "out", ["jsonl"], broken, options, FACTS)
  assert "weight above zero, came none" in message


def test_more_copies_than_can_be_written_are_refused(corpus, options, tmp_path):
  tokens = 10**7 * corpus.total_tokens
  budget = options.budget._replace(tokens=tokens, max_epochs=1e9)
  options = options._replace(budget=budget)
  message = refusal(tmp_path / "out", ["jsonl"], corpus, options, FACTS)
  assert "two million repeats" in message


def test_a_path_that_is_a_pattern_is_refused(corpus, options, tmp_path):
  folder = tmp_path / "a[1]"
  message = refusal(folder, ["leaves"], corpus, options, FACTS)
  assert "pattern" in message
  assert str(folder) in message


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_read_only_place(corpus, options, tmp_path):
  tmp_path.chmod(0o500)
  message = refusal(tmp_path / "out", ["leaves"], corpus, options, FACTS)
  assert "Permission denied" in message


def test_place_that_is_a_file(corpus, options, tmp_path):
  (tmp_path / "out").write_text("x")
  message = refusal(tmp_path / "out", ["leaves"], corpus, options, FACTS)
  assert f"Cannot export to {tmp_path / 'out'}" in message


def test_full_disk_is_told_and_leaves_no_manifest(
  corpus, options, tmp_path, monkeypatch
):
  """A limit on the size of files stands for the disk's end."""
  import resource
  import signal

  random = np.random.default_rng(0).integers(0x4E00, 0x9FA5, 300_000)
  text = "".join(map(chr, random))  # hardly compressible

  def large(part):
    shard = part()
    return shard._replace(text=[*shard.text[:-1], text][: len(shard.id)])

  signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
  soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, hard))
  try:
    broken = corpus._replace(
      parts=tuple(functools.partial(large, part) for part in corpus.parts)
    )
    message = refusal(tmp_path / "out", ["leaves"], broken, options, FACTS)
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
  assert "File too large" in message
  assert not (tmp_path / "out" / "manifest.json").exists()
