"""Who tells of a job's progress."""

import pytest

from cmtree_jax.report.progress import Reporter


@pytest.mark.parametrize("quiet", [False, True])
def test_one_of_several_processes_tells(quiet, capsys, monkeypatch):
  monkeypatch.setattr("cmtree_jax.report.progress._PLAIN_SECONDS", 0.0)
  with Reporter(quiet=quiet) as reporter:
    reporter.expect(2.0)
    reporter.say("A line that stays.")
    reporter.advance(1.0, "half of it")
  told = capsys.readouterr().err
  assert ("A line that stays." in told, "half of it" in told) == (
    not quiet,
    not quiet,
  )
