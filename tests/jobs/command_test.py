"""A command line: what a job raises is one line and a status."""

import pytest

from cmtree_jax.jobs.command import command
from cmtree_jax.types import Fault, UserError


@pytest.mark.parametrize(
  ("raised", "status", "line"),
  [
    (UserError("Wanted a file."), 2, "Error: Wanted a file."),
    (Fault("A loss is not finite."), 1, "Fault: A loss is not finite."),
    (KeyboardInterrupt(), 143, "Interrupted. Run the same command to go on."),
  ],
)
def test_what_a_job_raises_is_one_line(raised, status, line, tmp_path, capsys):
  def job(config, workdir, *, overwrite):
    raise raised

  arguments = ["--config", "configs/smoke.py", "--workdir", str(tmp_path)]
  found = command("test", "A test.", job, arguments)
  assert (found, capsys.readouterr().err) == (status, f"{line}\n")
