"""Whose a workdir is, and what `--overwrite` may remove of it."""

import json
import pathlib

import pytest

from cmtree_jax.config import load
from cmtree_jax.jobs import workdir as workdirs
from cmtree_jax.types import UserError


def _config(*overrides: str):
  return load("configs/smoke.py", overrides)


def _claim(folder: pathlib.Path, *overrides: str, overwrite: bool = False):
  workdirs.claim_workdir(folder, _config(*overrides), overwrite=overwrite)


@pytest.fixture
def run(tmp_path) -> pathlib.Path:
  """A run with every kind of file that jobs write."""
  folder = tmp_path / "run"
  _claim(folder)
  for name in workdirs.WRITTEN:
    if "." in name:
      (folder / name).write_text("old")
    else:
      (folder / name / "deep").mkdir(parents=True)
      (folder / name / "deep" / "file").write_text("old")
  return folder


def _names(folder: pathlib.Path) -> set[str]:
  return {path.name for path in folder.iterdir()}


def test_a_run_goes_on_with_its_own_config(run):
  before = _names(run)
  _claim(run)
  assert _names(run) == before
  assert json.loads((run / "config.json").read_text())["seed"] == 0


@pytest.mark.parametrize(
  "content", [b"", b"\xff\x00", b"0123\n", b"digest\nx", b"x" * 9999]
)
def test_a_digest_that_is_damaged_is_another_corpus(tmp_path, content):
  workdirs.claim_corpus(tmp_path, "digest")
  workdirs.claim_corpus(tmp_path, "digest")
  (tmp_path / workdirs.CORPUS_FILE).write_bytes(content)
  with pytest.raises(UserError, match="a run on another corpus") as error:
    workdirs.claim_corpus(tmp_path, "digest")
  assert "\n" not in str(error.value) and len(str(error.value)) < 400


def test_a_host_may_keep_its_cache_elsewhere(run):
  before = _names(run)
  _claim(run, "cache_dir=/elsewhere")
  assert _names(run) == before
  one, other = (
    workdirs.identity(_config(*more)) for more in ([], ["cache_dir=/elsewhere"])
  )
  assert one == other != workdirs.identity(_config("seed=1"))


@pytest.mark.parametrize(
  ("setting", "is_same"),
  [
    ("export.formats=parquet", True),
    ("export.tokens=9", True),
    ("workers.name=beam", True),
    ("data.strict=true", True),
    ("data.max_skipped=9", True),
    ("data.max_documents=9", False),
    ("final.seeds=9", False),
  ],
)
def test_a_run_goes_on_under_what_changes_no_result(run, setting, is_same):
  before = workdirs.digest_of_results(_config())
  assert (workdirs.digest_of_results(_config(setting)) == before) == is_same
  if is_same:
    _claim(run, setting)
  else:
    with pytest.raises(UserError, match=f"{setting.partition('=')[0]} was"):
      _claim(run, setting)


@pytest.mark.parametrize("name", ["run[1]", "a*", "lr?"])
def test_a_folder_that_is_a_pattern_is_refused(tmp_path, name, monkeypatch):
  for chosen_by in (workdirs.WORKDIR, workdirs.SHARED):
    with pytest.raises(UserError, match="patterns of names") as error:
      workdirs.folder(f"{tmp_path}/{name}", chosen_by)
    assert str(error.value).startswith(f"{chosen_by} {tmp_path}/{name}: ")
  assert workdirs.folder(f"{tmp_path}/{name}", "config.cache_dir").name == name
  (tmp_path / name).mkdir()
  monkeypatch.chdir(tmp_path / name)
  with pytest.raises(UserError, match="patterns"):
    workdirs.folder("run")


def test_another_config_is_refused_and_may_overwrite(run, capsys):
  with pytest.raises(UserError, match=r"seed was 0, now 1.*--overwrite"):
    _claim(run, "seed=1")
  assert {"recipe.json", "cells"} < _names(run)
  _claim(run, "seed=1", overwrite=True)
  assert _names(run) == {"config.json", workdirs.MARKER_FILE}
  assert json.loads((run / "config.json").read_text())["seed"] == 1
  assert capsys.readouterr().err == ""


def test_a_run_without_a_corpus_is_no_run_yet(tmp_path):
  """A mistake that its preparation found can be cured without a flag."""
  _claim(tmp_path, "data.source=tape")
  _claim(tmp_path, "data.source=stdlib")
  assert json.loads((tmp_path / "config.json").read_text())["data"][
    "source"
  ] == ["stdlib"]
  workdirs.claim_corpus(tmp_path, "digest")
  with pytest.raises(UserError, match="data.source was"):
    _claim(tmp_path, "data.source=default")


def test_one_job_at_a_time_and_none_after_its_end(tmp_path):
  folder = tmp_path / "new"
  told = "Another job is running.*choose another "
  with workdirs.hold(folder):
    for chosen_by in (workdirs.WORKDIR, workdirs.SHARED):
      with (
        pytest.raises(UserError, match=told + chosen_by.partition(" ")[0]),
        workdirs.hold(folder, chosen_by),
      ):
        pass
  assert _names(folder) == set()
  with workdirs.hold(folder):
    pass
  (tmp_path / "file").touch()
  with (
    pytest.raises(UserError, match="Cannot write to --workdir"),
    workdirs.hold(tmp_path / "file"),
  ):
    pass


def test_shared_cells_advise_no_flag_that_does_not_clear_them(run):
  for claim in (
    lambda: workdirs.claim_workdir(
      run, _config("seed=1"), overwrite=False, chosen_by=workdirs.SHARED
    ),
    lambda: workdirs.claim_corpus(run, "another", workdirs.SHARED),
  ):
    with pytest.raises(UserError, match="another config.compare.cells") as told:
      claim()
    assert "--overwrite" not in str(told.value)


def test_files_of_others_stay_in_a_run_and_are_named(run, capsys):
  (run / "notes.txt").write_text("years of work")
  (run / "plots").mkdir()
  _claim(run, overwrite=True)
  assert (run / "notes.txt").read_text() == "years of work"
  told = capsys.readouterr().err
  assert "notes.txt, plots" in told and told.count("\n") == 1
  assert _names(run) == {
    "config.json",
    workdirs.MARKER_FILE,
    "notes.txt",
    "plots",
  }
  _claim(run)  # they are no reason to refuse the run
  (run / "config.json").unlink()  # as a kill would leave it
  _claim(run, "seed=1")


def test_a_link_is_removed_and_not_what_it_leads_to(run, tmp_path):
  precious = tmp_path / "precious"
  precious.mkdir()
  (precious / "file").write_text("years of work")
  (run / "export" / "deep" / "file").unlink()
  (run / "export" / "deep").rmdir()
  (run / "export").rmdir()
  (run / "export").symlink_to(precious)
  _claim(run, overwrite=True)
  assert "export" not in _names(run)
  assert (precious / "file").exists()


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("content", ['{"architectures": ["Llama"]}', "{"])
def test_a_folder_of_a_model_survives(tmp_path, content, overwrite):
  """It has a config.json too; the flag would not help, so it is not advised."""
  (tmp_path / "config.json").write_text(content)
  (tmp_path / "model.safetensors").write_text("weights")
  with pytest.raises(UserError, match="no run of this package") as error:
    _claim(tmp_path, overwrite=overwrite)
  assert "--overwrite" not in str(error.value)
  assert _names(tmp_path) == {"config.json", "model.safetensors"}
  assert (tmp_path / "config.json").read_text() == content


def test_a_run_without_a_marker_goes_on_but_is_not_overwritten(run):
  """As earlier versions left it."""
  (run / workdirs.MARKER_FILE).unlink()
  with pytest.raises(UserError, match="remove it by hand"):
    _claim(run, overwrite=True)
  with pytest.raises(UserError, match="remove it by hand"):
    _claim(run, "seed=1")
  assert (run / "recipe.json").exists()
  _claim(run)
  _claim(run, "seed=1", overwrite=True)
  assert not (run / "recipe.json").exists()


@pytest.mark.parametrize("content", ["{", None])
def test_a_run_that_lost_its_config_is_not_gone_on_with(run, content):
  (run / "config.json").unlink()
  if content is not None:
    (run / "config.json").write_text(content)
  with pytest.raises(UserError, match=r"config\.json: wanted.*--overwrite"):
    _claim(run)
  _claim(run, overwrite=True)


def test_what_a_killed_writer_left_is_no_one_elses(tmp_path):
  folder = tmp_path / "run"
  folder.mkdir()
  (folder / ".config.json.0123.tmp").write_text("{")
  _claim(folder)
  (folder / "cells" / "search").mkdir(parents=True)
  left = (".recipe.json.0123.tmp", "cells/search/.a.npz.0123.tmp")
  for name in left:
    (folder / name).write_text("{")
  (folder / ".mine.tmp").write_text("{")
  _claim(folder)
  assert [(folder / name).exists() for name in left] == [False, False]
  (folder / ".mine.tmp").unlink()  # not of this package
  (folder / ".recipe.json.0123.tmp").write_text("{")
  _claim(folder, overwrite=True)
  assert _names(folder) == {"config.json", workdirs.MARKER_FILE}
