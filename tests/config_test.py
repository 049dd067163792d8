"""Configs: every one loads, and values keep what stands in them."""

import pathlib

import pytest

from cmtree_jax import config
from cmtree_jax.jobs import build, plan
from cmtree_jax.methods import METHODS, cmtree
from cmtree_jax.types import UserError

ROOT = pathlib.Path(config.__file__).parents[1]
NAMES = sorted(
  str(path.relative_to(ROOT / "configs").with_suffix(""))
  for path in (ROOT / "configs").rglob("[!_]*.py")
)


@pytest.mark.parametrize("name", NAMES)
def test_every_config_loads(tmp_path, name):
  (tmp_path / "tasks").mkdir()
  (tmp_path / "tasks" / "exam.jsonl.gz").touch()
  argument = {
    "answers": f":cpu,{tmp_path}",
    "bench": f":{tmp_path}",
    "from_runs": ":runs.csv",
    "method": ":natural",
  }.get(name, "")
  loaded = config.load(f"configs/{name}.py{argument}", ["seed=7"])
  assert loaded.seed == 7
  assert loaded.is_locked


def test_the_comparison_of_all_methods_is_accepted():
  loaded = config.load("configs/compare.py", [])
  plan.check_comparison(loaded)
  missing = set(METHODS) - set(loaded.compare.methods)
  assert all(METHODS[name].make().labels is not None for name in missing)


def test_the_real_corpus_is_the_argument(tmp_path):
  with pytest.raises(UserError, match=r"bench\.py:FOLDER"):
    config.load("configs/bench.py", [])
  (tmp_path / "tasks").mkdir()
  for name in "ab":
    (tmp_path / "tasks" / f"{name}.jsonl.gz").touch()
  loaded = config.load(f"configs/bench.py:{tmp_path}", [])
  assert loaded.data.source == (f"jsonl:{tmp_path}/pool.jsonl.gz",)
  assert [pathlib.Path(f).name for f in loaded.data.target_files] == [
    "a.jsonl.gz",
    "b.jsonl.gz",
  ]


@pytest.mark.parametrize(
  ("text", "value"),
  [
    ("jsonl:a b/[cd].jsonl", ("jsonl:a b/[cd].jsonl",)),
    ("jsonl:a, parquet:b", ("jsonl:a", "parquet:b")),
    ("", ()),
    ('["jsonl:a,b.jsonl", "parquet:c"]', ("jsonl:a,b.jsonl", "parquet:c")),
    ("('text:a, b/*.txt',)", ("text:a, b/*.txt",)),
    ("[ab],[1]", ("[ab]", "[1]")),  # no strings in there
  ],
)
def test_addresses_may_hold_spaces_and_brackets(text, value):
  assert config.load("configs/default.py", [f"data.source={text}"]).data[
    "source"
  ] == (value)


def test_numbers_may_stand_in_brackets():
  loaded = config.load("configs/default.py", ["cmtree.branching=(4, 4)"])
  assert loaded.cmtree.branching == (4, 4)


def test_an_option_that_is_a_record_is_a_block_of_its_own():
  overrides = ["cmtree.step.trust=0.1", "cmtree.step.temperature=1,0.25"]
  loaded = config.load("configs/default.py", overrides)
  options = config.factory_options("cmtree", loaded.cmtree)
  assert options["step"] == cmtree.Step(trust=0.1, temperature=(1.0, 0.25))
  assert options["start"] == cmtree.Start()
  assert options["branching"] == (4, 4)
  with pytest.raises(UserError, match=r"step\.trst.*step\.trust"):
    config.load("configs/default.py", ["cmtree.step.trst=0.1"])
  loaded.cmtree.start.max_weight = 0.5
  with pytest.raises(UserError, match=r"config\.cmtree\.start: max_weight"):
    config.factory_options("cmtree", loaded.cmtree)


@pytest.mark.parametrize(
  ("field", "told"),
  [
    ("final.stepz", r"'final\.stepz'.* known: final\.steps, "),
    ("steps", r"known: (\w+(\.\w+)+, ){4}\w+(\.\w+)+\.$"),  # five of many
    ("no.such", r"'no\.such'\. None is near; blocks of fields: (\w+, )+\w+\.$"),
  ],
)
def test_an_unknown_field_is_named_with_few_that_are_near(field, told):
  with pytest.raises(UserError, match=told):
    config.load("configs/default.py", [f"{field}=1"])


def test_equal_options_make_one_object():
  made = [
    build.make_method("cmtree", config.load("configs/default.py", overrides))
    for overrides in (
      ["cmtree.step.trust=0.3"],
      ["cmtree.step.trust=0.3", "crisp.smoothing=0.1"],
      ["cmtree.step.trust=0.4"],
    )
  ]
  assert made[0] is made[1]
  assert made[0] is not made[2]


def test_every_method_has_a_config_with_its_small_settings():
  compared = config.load("configs/compare.py", [])
  for name, method in METHODS.items():
    loaded = config.load(f"configs/method.py:{name}", [])
    assert loaded.method == name
    for option, value in method.SMALL.options.items():
      assert loaded[name][option] == value
    for field, value in method.SMALL.partition.items():
      assert loaded.partition[field] == value
    assert name not in compared or compared[name] == loaded[name]
  assert config.load("configs/method.py:climb", []).partition.kind == "ward"


@pytest.mark.parametrize("argument", ["", ":clim"])
def test_a_method_that_is_not_there_is_told_with_those_that_are(argument):
  with pytest.raises(
    UserError, match=r"method\.py:NAME\. Known: ado, .*, climb"
  ):
    config.load(f"configs/method.py{argument}", [])


def test_an_option_without_a_default_takes_a_number():
  def load(value):
    return config.load("configs/default.py", [f"olmix.runs={value}"])

  assert load("20").olmix.runs == 20
  assert load("None").olmix.runs is None
  with pytest.raises(UserError, match="olmix.runs must be None or a number"):
    load("many")
  with pytest.raises(UserError, match="olmix.runs must be None or a number"):
    load("[20]")


@pytest.mark.parametrize(
  ("override", "told"),
  [
    ("optimizer.learning_rate=nan", "a float like 0.01, but 'nan' came"),
    ("cmtree.step.temperature=1,nan", "a tuple like"),
    ("olmix.runs=None()", "None or a number"),
    ("seed=2.5", "an int like 0, but '2.5' came"),
  ],
)
def test_what_is_no_number_is_refused(override, told):
  with pytest.raises(UserError, match=told):
    config.load("configs/default.py", [override])


def test_a_file_that_is_no_config_is_told(tmp_path):
  page = tmp_path / "page.md"
  page.write_text("text")
  with pytest.raises(UserError, match=r"page\.md is no Python file"):
    config.load(str(page), [])
  with pytest.raises(UserError, match=r"takes no argument, came 'toy'"):
    config.load("configs/default.py:toy", [])
