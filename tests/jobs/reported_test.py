"""The report comes last: whatever becomes of it, no result is lost by it."""

import pathlib
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from cmtree_jax.jobs import reported
from cmtree_jax.report.html import documents, page, report
from tests.report import workdirs


class _Documents:
  """Texts of a prepared corpus."""

  def __init__(self, ids: list[str]):
    self._ids = np.array(ids)

  def rows(self, row_S, *names):
    return {name: self._ids[row_S].tolist() for name in names}


@pytest.fixture
def job(tmp_path):
  """(the job, its corpus, what it says) with all of its results written."""
  folder = workdirs.make(tmp_path / "a run")
  (folder / documents.SAMPLE_FILE).unlink()
  said: list[str] = []
  reporter = SimpleNamespace(say=said.append)
  rng = np.random.default_rng(0)
  data = SimpleNamespace(
    pool=SimpleNamespace(
      key_N=np.arange(80, dtype=np.uint64),
      embedding_NE=rng.normal(size=(80, 3)),
    ),
    documents=_Documents([f"{i} plain" for i in range(80)]),
  )
  return SimpleNamespace(workdir=folder, reporter=reporter), data, said


def _files(folder: pathlib.Path) -> dict[str, bytes]:
  return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_report_and_what_it_shows_are_files_of_the_job(job):
  pytest.importorskip("plotly")
  one, data, said = job
  before = _files(one.workdir)
  written = reported.write(one, data)
  after = _files(one.workdir)
  assert [path.name for path in written] == ["sample.parquet", "report.html"]
  assert {path.name for path in written} == set(after) - set(before)
  assert before.items() <= after.items() and said == []
  found = documents.load(one.workdir, epochs=1.0)
  assert found is not None and len(found.sample) == 80


def test_without_plotly_the_job_goes_on(job, monkeypatch):
  one, data, said = job
  page.plotly.cache_clear()
  monkeypatch.setitem(sys.modules, "plotly", None)
  written = reported.write(one, data)
  assert [path.name for path in written] == ["sample.parquet"]
  assert len(said) == 1 and "pip install cmtree_jax[report]" in said[0]


@pytest.mark.parametrize("where", [report, documents])
def test_a_report_that_fails_loses_nothing(job, monkeypatch, where):
  one, data, said = job
  before = _files(one.workdir)

  def fail(*args, **kwargs):
    raise RuntimeError("no room")

  name = "write" if where is report else "save"
  monkeypatch.setattr(where, name, fail)
  reported.write(one, data)
  assert before.items() <= _files(one.workdir).items()
  (line,) = said
  assert "RuntimeError: no room" in line
  assert f"cmtree_jax.report '{one.workdir}' tries again" in line
